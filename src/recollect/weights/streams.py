"""Streams of tasks: what a learner meets one after another, made here from labelled data; texts.py makes them from text.

Data are data sets of torch: a `TensorDataset` of inputs and labels for a classifier, `Rows` of named tensors (`input_ids`,
`attention_mask`, `labels`, where -100 is not learned from) for a language model. A `Task` has one to learn from and one to
be tested on; a stream is a list of tasks, or an iterable of them.

Sources: the three scenarios are those of van de Ven and Tolias, Three scenarios for continual learning, arXiv:1904.07734;
recurring streams are SCoLe's, arXiv:2207.04543, section 3.

Shapes: N rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from random import Random
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from recollect.errors import InvalidInput
from recollect.weights.batches import IGNORED, Rows


@dataclass(frozen=True)
class Question:
    """A prompt and the answer that is right for it, both text."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """One task of a stream. `classes`: labels that may occur; `told`: a test may look at these classes only.

    `questions` are asked by generation, beside the loss on `test`. `visits`: how often each class was seen before.
    """

    name: str
    train: Dataset
    test: Dataset
    classes: tuple[int, ...] = ()
    told: bool = False
    questions: tuple[Question, ...] = ()
    visits: Mapping[int, int] = field(default_factory=dict)


def split_classes(
    train: TensorDataset, test: TensorDataset, classes_per_task: int, seed: int | None = None, told: bool = False
) -> list[Task]:
    """Class-incremental tasks of disjoint classes, in the order of the labels, or shuffled by a seed.

    `told` makes them task-incremental: a test chooses among the classes of its task.
    """
    classes = _classes(train)
    if not 1 <= classes_per_task <= len(classes):
        raise InvalidInput(f"classes_per_task: {classes_per_task} is not between 1 and the {len(classes)} classes.")
    if seed is not None:
        Random(seed).shuffle(classes)
    groups = [classes[at : at + classes_per_task] for at in range(0, len(classes), classes_per_task)]
    return [Task(_named(group), _of(train, group), _of(test, group), tuple(group), told) for group in groups]


def shift_domains(
    train: TensorDataset, test: TensorDataset, domains: Mapping[str, Callable[[Tensor], Tensor]]
) -> list[Task]:
    """Domain-incremental tasks: the same rows and labels, the inputs changed by the function of each domain."""
    classes = tuple(_classes(train))

    def changed(data: TensorDataset, change: Callable[[Tensor], Tensor]) -> TensorDataset:
        return TensorDataset(change(data.tensors[0]), data.tensors[1])

    return [Task(name, changed(train, change), changed(test, change), classes) for name, change in domains.items()]


def permuted(num_domains: int, seed: int = 0) -> dict[str, Callable[[Tensor], Tensor]]:
    """Domains for `shift_domains`, each with an order of its own of the input's last dimension; the first keeps it."""

    def change(number: int) -> Callable[[Tensor], Tensor]:
        def reorder(inputs: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(seed * 1009 + number)
            width = inputs.shape[-1]
            return inputs[..., torch.randperm(width, generator=generator) if number else torch.arange(width)]

        return reorder

    return {f"order {number}": change(number) for number in range(num_domains)}


@dataclass(frozen=True)
class RecurringStream:
    """SCoLe's long stream: each task a few classes drawn from a pool, so that classes come back; tested on all of them.

    Iterating twice gives the same tasks. `entropy_decrease` e makes classes unequally frequent, (1/N - c i/N)^e with c
    0.05 for 10 classes and 0.01 for 100 (0.5 / N); `redraw` divides the chance of a class by this after each draw;
    `order_randomness` below 1 keeps slots of a fixed cycle of class sets; `pairs` is the share of all class sets that may
    occur; `halves` "probe" draws only the first half of the classes in the second half of the stream, "incremental" the
    first half of the classes in the first half of the stream and the others afterwards.
    """

    train: TensorDataset
    test: TensorDataset
    classes_per_task: int = 2
    num_tasks: int = 500
    entropy_decrease: float = 0.0
    redraw: float = 1.0
    order_randomness: float = 1.0
    pairs: float = 1.0
    halves: Literal["all", "probe", "incremental"] = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        total = len(self.classes)
        if not 1 <= self.classes_per_task <= total:
            raise InvalidInput(f"classes_per_task: {self.classes_per_task} is not between 1 and the {total} classes.")
        for name in ("order_randomness", "pairs"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name}: {getattr(self, name)} is not between 0 and 1.")

    @property
    def classes(self) -> list[int]:
        """All labels of the pool, ascending."""
        return _classes(self.train)

    def frequencies(self) -> dict[int, float]:
        """The chance of each class to be drawn first, by label; sums to 1."""
        total = len(self.classes)
        weights = [(1 / total - 0.5 / total * each / total) ** self.entropy_decrease for each in range(total)]
        Random(f"frequencies {self.seed}").shuffle(weights)
        return {label: weight / sum(weights) for label, weight in zip(self.classes, weights, strict=True)}

    def __len__(self) -> int:
        return self.num_tasks

    def __iter__(self) -> Iterator[Task]:
        rng, visits = Random(f"tasks {self.seed}"), dict.fromkeys(self.classes, 0)
        chances, allowed, cycle = self.frequencies(), self._allowed(), self._cycle()
        for number in range(self.num_tasks):
            pool = self._pool(number)
            if rng.random() < self.order_randomness:
                sets = [group for group in allowed if set(group) <= set(pool)] if allowed else []
                group = rng.choice(sets) if sets else _draw(rng, {each: chances[each] for each in pool}, self)
            else:
                group = cycle[number % len(cycle)]
            yield Task(f"{number}", _of(self.train, group), self.test, tuple(group), visits=dict(visits))
            for label in group:
                visits[label] += 1
                chances[label] /= self.redraw

    def _pool(self, number: int) -> list[int]:
        half, late = len(self.classes) // 2, number >= self.num_tasks // 2
        if self.halves == "all" or (self.halves == "probe" and not late):
            return self.classes
        return self.classes[half:] if self.halves == "incremental" and late else self.classes[:half]

    def _allowed(self) -> list[tuple[int, ...]]:
        """The class sets that may occur; empty when all may."""
        if self.pairs == 1:
            return []
        every = list(combinations(self.classes, self.classes_per_task))
        return Random(f"pairs {self.seed}").sample(every, max(1, round(self.pairs * len(every))))

    def _cycle(self) -> list[list[int]]:
        order = self.classes
        Random(f"cycle {self.seed}").shuffle(order)
        return [order[at : at + self.classes_per_task] for at in range(0, len(order), self.classes_per_task)]


def _draw(rng: Random, chances: dict[int, float], stream: RecurringStream) -> list[int]:
    """Classes of a task, without replacement, each by its chance among those left."""
    drawn: list[int] = []
    while len(drawn) < min(stream.classes_per_task, len(drawn) + len(chances)):
        label = rng.choices(list(chances), list(chances.values()))[0]
        del chances[label]
        drawn.append(label)
    return drawn


def _classes(data: TensorDataset) -> list[int]:
    return data.tensors[1].unique().tolist()


def _of(data: TensorDataset, classes: Sequence[int]) -> TensorDataset:
    inputs, labels = data.tensors
    chosen = torch.isin(labels, torch.tensor(list(classes)))
    return TensorDataset(inputs[chosen], labels[chosen])


def _named(classes: Sequence[int]) -> str:
    return "classes " + " ".join(map(str, classes))


def iid(tasks: Sequence[Task], name: str = "all at once") -> Task:
    """All tasks joined into one, for the reference that sees everything together.

    Raises InvalidInput when the tasks hold other kinds of data.
    """
    kinds = {type(task.train) for task in tasks}
    if len(kinds) != 1 or not kinds <= {Rows, TensorDataset}:
        raise InvalidInput("tasks: they hold other kinds of data; give tasks of one stream, made here.")
    train, test = (_joined([getattr(task, part) for task in tasks]) for part in ("train", "test"))
    classes = sorted({label for task in tasks for label in task.classes})
    questions = tuple(question for task in tasks for question in task.questions)
    return Task(name, train, test, tuple(classes), questions=questions)


def _joined(parts: Sequence[Any]) -> Dataset:
    """Data one below the other, shorter texts filled up."""
    if isinstance(parts[0], TensorDataset):
        return TensorDataset(*(torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True)))
    width = max(part.tensors["input_ids"].shape[1] for part in parts)
    leveled = [_filled(part, width).tensors for part in parts]
    return Rows(**{name: torch.cat([each[name] for each in leveled]) for name in leveled[0]})


def level(tasks: Sequence[Task]) -> list[Task]:
    """The tasks with all texts filled up to the longest of any, so that rows of several can stand in one batch."""
    rows: list[Any] = [data for task in tasks for data in (task.train, task.test)]
    width = max(each.tensors["input_ids"].shape[1] for each in rows)
    return [replace(task, train=_filled(task.train, width), test=_filled(task.test, width)) for task in tasks]


def _filled(rows: Any, width: int) -> Rows:
    """Texts filled up at the end to this width, labels with -100, all else with 0."""
    room = width - rows.tensors["input_ids"].shape[1]
    return Rows(
        **{
            name: F.pad(each, (0, room), value=IGNORED if name == "labels" else 0)
            for name, each in rows.tensors.items()
        }
    )
