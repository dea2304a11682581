"""Real data for claims, found under the folder that `--data` names: a checkpoint, novels, labelled tasks, sentences.

The folder may hold the sets themselves or folders that hold them; each is looked for by name. Nothing is downloaded.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from recollect.errors import InvalidInput, NotFound
from recollect.weights.batches import Rows
from recollect.weights.streams import Question, Task, level
from recollect.weights.texts import answer_rows, read_questions, text_rows


class Where(Protocol):
    """Which folder, and which device: a claim's setting."""

    @property
    def data(self) -> Path | None: ...

    @property
    def device(self) -> str: ...


def find(where: Where, name: str) -> Path:
    """The first file or folder of this name (with its parent's, if given as "parent/name") at or under the data folder.

    Raises InvalidInput without a data folder, NotFound when there is none.
    """
    if where.data is None:
        raise InvalidInput("data: this scale needs real data; name the folder that holds it with --data.")
    found = sorted(path for path in where.data.rglob(Path(name).name) if str(path).endswith(f"/{name}"))
    if not found:
        raise NotFound(f"data: there is no {name} in {where.data}; name the folder that holds it.")
    return found[0]


def checkpoint(where: Where, dtype: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of the first checkpoint of transformers under the data folder, on the device.

    The tokenizer gets the first, last and filling tokens that the model's configuration names. On a GPU, products of
    float32 matrices go through TF32 from then on, in all of the process.
    """
    import torch

    from recollect.benchmarks.testbed import load

    if where.device != "cpu":
        torch.set_float32_matmul_precision("high")
    return with_ends(*load(find(where, "config.json").parent, where.device, dtype))


def with_ends(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Both, the tokenizer with the first, last and filling tokens that the model's configuration names, if it had none."""
    for name in ("bos", "eos", "pad"):
        number = getattr(model.config, f"{name}_token_id", None)
        if getattr(tokenizer, f"{name}_token_id") is None and isinstance(number, int):
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(number))
    return model, tokenizer


def novels(where: Where, split: str) -> list[str]:
    """Texts of the novels of a split: train, valid or test."""
    with lzma.open(find(where, f"novels/{split}.jsonl.xz"), "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def labelled(where: Where, name: str, split: str) -> list[Question]:
    """Questions of a classification task of `cl-benchmark`, in the order of its file."""
    return read_questions(find(where, f"cl-benchmark/{name}.jsonl.xz"), split)


def cut(question: Question, tokens: int, tokenizer: Any) -> Question:
    """The question with its text cut to so many tokens, not counting "Answer:", which stays."""
    text = question.prompt.removesuffix("\nAnswer:")
    ids = tokenizer.encode(text, add_special_tokens=False)
    return question if len(ids) <= tokens else Question(f"{tokenizer.decode(ids[:tokens])}\nAnswer:", question.answer)


def corpora(where: Where, tokenizer: Any, rows: int, tokens: int, seed: int = 0) -> list[Task]:
    """Two corpora as tasks "old" and "new": novels, and reviews and news, each of `rows` windows of `tokens` tokens."""
    texts = {"old": novels(where, "train"), "new": []}
    held = {"old": novels(where, "valid"), "new": []}
    for name in ("amazon", "yelp", "imdb", "agnews", "dbpedia"):
        texts["new"] += [each.prompt.removesuffix("\nAnswer:") for each in labelled(where, name, "train")]
        held["new"] += [each.prompt.removesuffix("\nAnswer:") for each in labelled(where, name, "test")]
    tasks = []
    for name in ("old", "new"):
        rng = Random(f"{name} {seed}")
        parts = []
        for found, wanted in ((texts[name], rows), (held[name], 128)):
            rng.shuffle(found)
            taken, size = [], 0
            for text in found:
                if size > 6 * tokens * wanted:  # characters; a token is fewer than six, as a rule
                    break
                taken.append(text)
                size += len(text)
            made = text_rows(tokenizer, taken, tokens)
            parts.append(Rows(**made[:wanted]))
        tasks.append(Task(name, *parts))
    return tasks


ROOM = 16  # tokens of "Answer:", the answer, the first and the last token
CLASSIFICATION = "agnews amazon boolqa cb copa dbpedia imdb mnli qqp rte sst2 wic yelp".split()


def classification_stream(
    where: Where,
    tokenizer: Any,
    seed: int,
    names: Sequence[str] = CLASSIFICATION,
    train: int = 4000,
    test: int = 200,
    tokens: int = 128,
) -> list[Task]:
    """The thirteen text classification tasks in an order drawn by the seed, as instructions of at most `tokens` tokens."""
    order = list(names)
    Random(f"order {seed}").shuffle(order)
    tasks = []
    for name in order:
        parts = []
        for split, wanted in (("train", train), ("test", test)):
            questions = labelled(where, name, split)
            Random(f"{name} {seed}").shuffle(questions)
            short = [cut(question, tokens - ROOM, tokenizer) for question in questions[:wanted]]
            parts.append(answer_rows(tokenizer, short, tokens))
        tasks.append(Task(name, *parts))
    return level(tasks)
