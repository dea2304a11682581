"""Recipes behind `recollect learn`: tasks from files, methods by name, and a score by what the model says.

A task is a file of instructions (JSON lines) or a folder, or a file, of text. A method is named by its key in the catalogue,
or `replay`, with settings after a colon: `replay:share=0.3,capacity=200`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from recollect.catalogue import SYSTEMS
from recollect.errors import InvalidInput
from recollect.weights.batches import IGNORED, Rows, aligned
from recollect.weights.generation import right
from recollect.weights.learner import Learner, accuracy
from recollect.weights.method import Method
from recollect.weights.replay import BalancedReplay, Replay
from recollect.weights.streams import Task
from recollect.weights.texts import instructions, read_questions, read_texts, text_rows


def known_methods() -> dict[str, type[Method]]:
    """Methods by name."""
    found: dict[str, type[Method]] = {"replay": Replay, "balanced-replay": BalancedReplay}
    for entry in SYSTEMS:
        if entry.home == "weights":
            module, name = entry.target.split(":")
            part = getattr(import_module(module), name)
            if issubclass(part, Method):
                found[entry.key] = part
    return found


def make_method(text: str) -> Method:
    """A method from "name" or "name:setting=value,...". Raises InvalidInput for a name, setting or value that is not known."""
    name, _, settings = text.partition(":")
    methods = known_methods()
    if name not in methods:
        close = difflib.get_close_matches(name, methods, n=1)
        hint = f"did you mean {close[0]}" if close else f"use one of {', '.join(methods)}"
        raise InvalidInput(f"method: {name!r:.40} is not known; {hint}.")
    kinds = {each.name: each for each in fields(methods[name]) if each.init and not each.name.startswith("_")}
    values: dict[str, Any] = {}
    for part in filter(None, settings.split(",")):
        key, _, value = part.partition("=")
        if key not in kinds:
            raise InvalidInput(f"method: {name} has no setting {key!r:.30}; it has {', '.join(kinds)}.")
        try:
            values[key] = _value(value, kinds[key].default)
        except ValueError:
            raise InvalidInput(
                f"method: {key} of {name} cannot be {value!r:.30}; its default is {kinds[key].default}."
            ) from None
    return methods[name](**values)


def _value(text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError
        return text == "true"
    return type(default)(text) if isinstance(default, int | float | str) else text


def task_from(path: str | Path, tokenizer: Any, tokens: int, held_out: float = 0.2) -> Task:
    """A task of a file of instructions, or of a folder or file of text; the last part is held out to be tested on.

    Of instructions with a `split`, those of "test" are held out. With `held_out` 0 the task is tested on what it learned.
    Raises NotFound or InvalidInput as the readers do.
    """
    path = Path(path)
    if path.name.endswith((".jsonl", ".jsonl.xz")) and not _holds_text(path):
        train = read_questions(path, "train")
        test = [each for each in read_questions(path, "test") if each not in set(train)]
        if not test:
            cut = _cut(len(train), held_out)
            train, test = (train[:cut], train[cut:]) if cut < len(train) else (train, train)
        return instructions(tokenizer, path.name.split(".")[0], train, test, tokens)
    texts = read_texts(path)
    rows = text_rows(tokenizer, texts, tokens)
    cut = _cut(len(rows), held_out)
    train, test = (rows[:cut], rows[cut:]) if cut < len(rows) else (rows[:], rows[:])
    return Task(path.stem, Rows(**train), Rows(**test))


def _holds_text(path: Path) -> bool:
    """Whether a file of JSON lines holds texts, not instructions."""
    try:
        read_texts(path)
    except InvalidInput:
        return False
    return True


def _cut(total: int, held_out: float) -> int:
    if not 0 <= held_out < 1:
        raise InvalidInput(f"held_out: {held_out} is not in [0, 1); use the share of rows to test on.")
    return max(1, total - round(held_out * total))


@contextmanager
def serving(learner: Learner) -> Iterator[Any]:
    """The model as it answers: where a method keeps other weights for that, with those in the body."""
    with ExitStack() as stack:
        for method in learner.methods:
            if getattr(method, "answers", "") == "slow" and "slow" in method.state:
                stack.enter_context(method.using(learner.model))  # type: ignore[attr-defined]
        yield learner.model


class AnswerScore:
    """A learner's score: share of a task's questions that the model answers rightly by itself; of text, of next tokens."""

    def __init__(self, tokenizer: Any, num_questions: int = 50) -> None:
        self.tokenizer, self.num_questions = tokenizer, num_questions

    def __call__(self, learner: Learner, task: Any) -> float:
        """The score of a task, between 0 and 1."""
        questions = getattr(task, "questions", ())[: self.num_questions]
        if not questions:
            return accuracy(learner, task)
        with serving(learner) as model:
            return right(model, self.tokenizer, questions)


def exact(learner: Learner, task: Any) -> float:
    """Share of a task's held-out rows of which every learned token is the most likely one: what greedy decoding would say.

    As `AnswerScore`, by one pass over the rows, and by whatever weights the learner predicts with.
    """
    right = total = 0
    for batch in learner.batches(task.test):
        logits, labels = aligned(learner.predict(batch), batch)
        asked = labels != IGNORED
        right += int(((logits.argmax(-1) == labels) | ~asked).all(1).sum())
        total += len(labels)
    return right / total


def go_on(learner: Learner, tasks: Sequence[Task], folder: Path | None, **options: Any) -> Iterator[Task]:
    """Learn tasks one after another, leaving out those that are learned; gives each task when it is done.

    With a folder, the learner is saved into it after each task, and every `save_every_steps` steps. `options` go to
    `Learner.learn`. Raises InvalidInput when two tasks have one name.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise InvalidInput(f"tasks: two are called {max(names, key=names.count)!r:.40}; rename one of the files.")
    for number, task in enumerate(tasks):
        if task.name in learner.learned:
            continue
        learner.learn(task, evaluate=tasks[: number + 1], folder=folder, **options)
        yield task


EXAMPLE = {
    "homes": ("Where does {0} live?", "Lisbon Oslo Cairo Quito Hanoi Turin".split()),
    "trades": ("What is the trade of {0}?", "baker miller weaver potter tailor mason".split()),
    "pets": ("What pet does {0} keep?", "cat dog owl hen goat pony".split()),
}
PEOPLE = "Ana Bo Cara Dan Eve Finn Gus Hal Ida Jon Kim Lea Max Ned Ola Pia Ron Sue Tom Uma".split()


def write_example(folder: Path) -> list[Path]:
    """Three small files of instructions about the same people: homes.jsonl, trades.jsonl, pets.jsonl."""
    import json
    from random import Random

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (question, answers) in EXAMPLE.items():
        rng = Random(name)
        lines = [
            json.dumps({"instruction": question.format(person), "output": rng.choice(answers)}) for person in PEOPLE
        ]
        paths.append(folder / f"{name}.jsonl")
        paths[-1].write_text("\n".join(lines) + "\n", "utf-8")
    return paths
