"""Tasks from text: documents to learn, questions to answer, facts to edit, and the files that they are read from.

`tokenizer` is one of transformers, anywhere here. Every text starts with its first token and every answer ends with its last
one, where it has them.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recollect.errors import InvalidInput, NotFound
from recollect.weights.batches import IGNORED, Rows
from recollect.weights.streams import Question, Task


def text_rows(tokenizer: Any, texts: Sequence[str], tokens: int) -> Rows:
    """Texts end to end in windows of `tokens`, every token learned; what does not fill a window is left out.

    Fewer tokens than one window make one padded row. Raises InvalidInput when the texts are empty.
    """
    ids: list[int] = []
    for text in texts:
        ids += [*_start(tokenizer), *tokenizer.encode(text, add_special_tokens=False)]
    if not any(text.strip() for text in texts):
        raise InvalidInput("texts: there is no text in them; give at least one that is not empty.")
    if len(ids) < tokens:
        return _padded(tokenizer, [(ids, [False] * len(ids))], tokens)
    rows = torch.tensor(ids[: len(ids) // tokens * tokens]).view(-1, tokens)
    return Rows(input_ids=rows, attention_mask=torch.ones_like(rows), labels=rows.clone())


def answer_rows(tokenizer: Any, questions: Sequence[Question], tokens: int) -> Rows:
    """One row a question: prompt, answer and the last token, of which the answer and the last token are learned.

    Prompt and answer are tokenized apart, so that the border is exact. A prompt that does not fit loses its beginning.
    Raises InvalidInput when an answer alone does not fit in `tokens`.
    """
    rows = []
    for question in questions:
        answer = [*tokenizer.encode(question.answer, add_special_tokens=False), *_end(tokenizer)]
        prompt = tokenizer.encode(question.prompt, add_special_tokens=False)
        room = tokens - len(answer) - len(_start(tokenizer))
        if room < 1:
            raise InvalidInput(f"tokens: an answer takes {len(answer)} of {tokens}; allow more tokens.")
        ids = [*_start(tokenizer), *prompt[-room:]]
        rows.append(([*ids, *answer], [True] * len(ids) + [False] * len(answer)))
    if not rows:
        raise InvalidInput("questions: there are none; give at least one.")
    return _padded(tokenizer, rows, tokens)


def _padded(tokenizer: Any, rows: Sequence[tuple[list[int], list[bool]]], tokens: int) -> Rows:
    """Rows of (ids, whether each is left out of the loss), filled up at the end to the longest, at most `tokens`."""
    width = min(tokens, max(len(ids) for ids, _ in rows))
    padding = next((each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None), 0)
    made: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, hidden in rows:
        rest = width - len(ids)
        made["input_ids"].append(ids + [padding] * rest)
        made["attention_mask"].append([1] * len(ids) + [0] * rest)
        labels = [IGNORED if out else each for each, out in zip(ids, hidden, strict=True)]
        made["labels"].append(labels + [IGNORED] * rest)
    return Rows(**{name: torch.tensor(values) for name, values in made.items()})


def _start(tokenizer: Any) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def _end(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def instructions(
    tokenizer: Any, name: str, train: Sequence[Question], test: Sequence[Question], tokens: int = 512
) -> Task:
    """A task of instructions: learned by their answers, tested by loss and by generation."""
    return Task(
        name, answer_rows(tokenizer, train, tokens), answer_rows(tokenizer, test, tokens), questions=tuple(test)
    )


@dataclass(frozen=True)
class Document:
    """A text that brings knowledge, and questions that it answers."""

    name: str
    text: str
    questions: tuple[Question, ...] = ()


def documents(tokenizer: Any, texts: Sequence[Document], tokens: int = 512) -> list[Task]:
    """Knowledge updates: one task a document, learned as text, tested by its own loss and by its questions."""
    made = [(each, text_rows(tokenizer, [each.text], tokens)) for each in texts]
    return [Task(each.name, rows, rows, questions=each.questions) for each, rows in made]


@dataclass(frozen=True)
class Edit:
    """A fact to put in: after `prompt` the model is to say `target`, after `paraphrases` of the prompt too.

    `unrelated` are prompts whose continuation must stay what it was. A prompt and its target are joined as they are, so
    that a target usually begins with a space.
    """

    prompt: str
    target: str
    paraphrases: tuple[str, ...] = ()
    unrelated: tuple[str, ...] = ()


def read_edits(path: str | Path) -> list[Edit]:
    """Edits from JSON lines: `prompt` and `target`, and if wanted `paraphrases` and `unrelated`, lists of text.

    Raises NotFound without the file, InvalidInput that names the line where something is wrong.
    """
    edits = []
    for number, record in _records(Path(path)):
        lists = {name: record.get(name, []) for name in ("paraphrases", "unrelated")}
        for name, value in lists.items():
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise InvalidInput(f"{name}: line {number} of {path} does not hold a list of texts; write [] for none.")
        prompt, target = (_text(record, name, path, number) for name in ("prompt", "target"))
        edits.append(Edit(prompt, target, tuple(lists["paraphrases"]), tuple(lists["unrelated"])))
    return edits


def read_questions(path: str | Path, split: str | None = None) -> list[Question]:
    """Questions from JSON lines: `prompt` and `answer`; or `instruction` (and `input`) and `output`; or `sentence` and `label`.

    `split` keeps lines whose `split` is this; a line without one belongs to all. Files may be compressed by xz. Raises
    NotFound without the file, InvalidInput that names the line where something is wrong.
    """
    questions = []
    for number, record in _records(Path(path)):
        if split is not None and record.get("split", split) != split:
            continue
        if "instruction" in record:
            more = record.get("input")
            prompt = "\n".join([_text(record, "instruction", path, number), *([more] if isinstance(more, str) else [])])
            questions.append(Question(f"{prompt.strip()}\nAnswer:", f" {_text(record, 'output', path, number)}"))
        elif "sentence" in record:
            prompt = f"{_text(record, 'sentence', path, number)}\nAnswer:"
            questions.append(Question(prompt, f" {_text(record, 'label', path, number)}"))
        else:
            questions.append(Question(*(_text(record, name, path, number) for name in ("prompt", "answer"))))
    return questions


def read_texts(path: str | Path) -> list[str]:
    """Texts of a file or of all files in a folder, by name: *.txt, *.md, and *.jsonl or *.jsonl.xz with `text` in each line.

    Raises NotFound when there is nothing of the kind.
    """
    path = Path(path)
    names = sorted(path.rglob("*")) if path.is_dir() else [path]
    texts: list[str] = []
    for file in names:
        if file.suffix in (".txt", ".md"):
            texts.append(file.read_text("utf-8", errors="replace"))
        elif file.name.endswith((".jsonl", ".jsonl.xz")):
            texts += [_text(record, "text", file, number) for number, record in _records(file)]
    if not any(text.strip() for text in texts):
        raise NotFound(
            f"text: there are no .txt, .md or .jsonl files with text in {path}; name a folder that has some."
        )
    return texts


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each line of a file of JSON lines; empty lines are passed over."""
    if not path.is_file():
        raise NotFound(f"file: there is no {path}; name a file of JSON lines.")
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise InvalidInput(f"file: line {number} of {path} is not a JSON object; write one object a line.")
            yield number, record


def _text(record: dict[str, Any], name: str, path: str | Path, number: int) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name}: line {number} of {path} has none; each line needs this text.")
    return value
