"""Replay: rows of earlier tasks are kept, and every step learns from some of them beside its own.

`Replay` keeps a uniform sample of all rows that passed (a reservoir); `BalancedReplay` keeps equally many of each label,
which helps when tasks are of unequal size. Rows enter as the first epoch passes over them, so a stream in one pass is
replayed while it runs. GSS and MIR choose more carefully what is kept and what is drawn.

Sources: reservoir sampling, Vitter, Random Sampling with a Reservoir (1985); experience replay in this form, Chaudhry et
al., On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486 (2019).
Cost: `capacity` rows of data in memory; a second forward and backward pass over share / (1 - share) as many rows a step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.weights.batches import labels_of, move, num_rows
from recollect.weights.method import Method

if TYPE_CHECKING:
    from recollect.weights.learner import Learner


@dataclass
class Replay(Method):
    """A reservoir of rows. The loss is `(1 - share)` of the task's and `share` of the memory's, over all classes.

    `state`: `rows`, `labels` and `tasks` side by side, and `num_seen`, the rows that have been offered.
    """

    capacity: int = 500  # rows
    share: float = 0.5  # of what a step learns from

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InvalidInput(f"share: {self.share} is not in [0, 1); use the part of a step that comes from memory.")
        if self.capacity < 1:
            raise InvalidInput(f"capacity: {self.capacity} is below 1; use how many rows may be kept.")
        self.state = {"rows": [], "labels": [], "tasks": [], "num_seen": 0}

    @classmethod
    def idle(cls) -> Self:
        """Nothing is drawn."""
        return cls(share=0.0)

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The mean of the task's loss and that of rows from memory, weighed by the share."""
        wanted = round(num_rows(batch) * self.share / (1 - self.share))
        if not wanted or not self.state["rows"]:
            return loss
        drawn = self.batch(learner, self.draw(learner, batch, wanted))
        return (1 - self.share) * loss + self.share * learner.loss_of(drawn, None)

    def after_step(self, learner: Learner, batch: Any) -> None:
        """Offer the rows of the first epoch to the memory."""
        if learner.epoch == 0 and learner.task is not None:
            source = learner.generator(f"{type(self).__name__} keeps")
            labels = labels_of(batch)
            for row, place in enumerate(learner.places):
                label = int(labels[row]) if labels.dim() == 1 else -1
                self.offer(learner, kept(learner.task.train[place]), label, source)

    def batch(self, learner: Learner, places: list[int]) -> Any:
        """A batch of the rows at these places of the memory, on the learner's device."""
        return move(learner.collate([self.state["rows"][place] for place in places]), learner.device)

    def draw(self, learner: Learner, batch: Any, wanted: int) -> list[int]:
        """Places of the rows to replay: by default at random, without repetition."""
        order = torch.randperm(len(self.state["rows"]), generator=learner.generator(f"{type(self).__name__} draws"))
        return order[:wanted].tolist()

    def offer(self, learner: Learner, row: Any, label: int, source: torch.Generator) -> None:
        """Keep a row or not: each of the `num_seen` rows so far is kept with the same probability."""
        self.state["num_seen"] += 1
        if len(self.state["rows"]) < self.capacity:
            self.put(learner, None, row, label)
        elif (place := _random(self.state["num_seen"], source)) < self.capacity:
            self.put(learner, place, row, label)

    def put(self, learner: Learner, place: int | None, row: Any, label: int) -> None:
        """Write a row at a place, or at the end for None."""
        for name, value in (("rows", row), ("labels", label), ("tasks", learner.task_name)):
            if place is None:
                self.state[name].append(value)
            else:
                self.state[name][place] = value

    def forget(self, task: str) -> int:
        """Drop every row of a task, by its name; returns how many went."""
        names = self.state["tasks"]
        for name in ("rows", "labels"):
            self.state[name] = [each for each, owner in zip(self.state[name], names, strict=True) if owner != task]
        self.state["tasks"] = [owner for owner in names if owner != task]
        return len(names) - len(self.state["tasks"])


@dataclass
class BalancedReplay(Replay):
    """Keeps equally many rows of each label, or of each task for texts: a full memory gives up a row of the largest."""

    def offer(self, learner: Learner, row: Any, label: int, source: torch.Generator) -> None:
        """Keep the row; where the memory is full, in place of a random row of the group that has most."""
        self.state["num_seen"] += 1
        own, seen = _group(label, learner.task_name), self.state.setdefault("seen", {})
        seen[own] = seen.get(own, 0) + 1
        if len(self.state["rows"]) < self.capacity:
            self.put(learner, None, row, label)
            return
        groups = [_group(*each) for each in zip(self.state["labels"], self.state["tasks"], strict=True)]
        counts = Counter(groups)
        largest, most = counts.most_common(1)[0]
        if counts[own] < most:
            places = [place for place, group in enumerate(groups) if group == largest]
            self.put(learner, places[_random(len(places), source)], row, label)
        elif (nth := _random(seen[own], source)) < most:  # a reservoir within its own group
            self.put(learner, [place for place, group in enumerate(groups) if group == own][nth], row, label)


def _group(label: int, task: str) -> str:
    return f"label {label}" if label >= 0 else f"task {task}"


def _random(below: int, source: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=source))


def kept(row: Any) -> Any:
    """A row of a data set as a tree that can be saved, on the CPU, sharing nothing with the data set."""
    if isinstance(row, dict):
        return {key: kept(value) for key, value in row.items()}
    if isinstance(row, list | tuple):
        return tuple(kept(value) for value in row)
    if isinstance(row, str | int | float | bool) or row is None:
        return row
    return torch.as_tensor(row).to("cpu", copy=True)
