"""SCoLe: long streams of small tasks in which classes come back, to see what plain training accumulates in spite of forgetting.

No mechanism but a measure: a learner goes through a `RecurringStream` and is tested on all classes. Beside accuracy it
notes, for every class, its accuracy just before the class comes back, which tells what was never lost from what is quickly
learned again. The paper's two aids are here too: `mask_absent` in batches.py, an objective, and `FrequencyReplay`.

Paper: Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation, arXiv:2207.04543 (2022).
Differs: frequency replay adds rows of the chosen classes to each step, where the authors' program adds them to the task's
data; the reference of normalised accuracy is given by the caller.
Cost: a test on all classes every `test_every_tasks` tasks. `FrequencyReplay` keeps `rows_a_class` rows of each class: it is a
rehearsal method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from recollect.errors import InvalidInput
from recollect.weights.batches import labels_of, move, num_rows
from recollect.weights.method import Method
from recollect.weights.replay import kept

if TYPE_CHECKING:
    from recollect.weights.learner import Learner, Task


@dataclass
class Curve:
    """What a learner knew on the way: `accuracy` on all classes after each task number in `tasks`."""

    tasks: list[int] = field(default_factory=list)  # how many tasks had been learned
    accuracy: list[float] = field(default_factory=list)
    by_class: list[dict[int, float]] = field(default_factory=list)
    visits: dict[int, int] = field(default_factory=dict)  # of each class, in all
    before_visit: dict[int, list[float]] = field(
        default_factory=dict
    )  # accuracy of a class just before each later visit
    last_visit: dict[int, int] = field(default_factory=dict)  # task number, from 1

    def at(self, tasks: int) -> float:
        """Accuracy after the last test that was not later than this many tasks. Raises InvalidInput before the first."""
        found = [value for count, value in zip(self.tasks, self.accuracy, strict=True) if count <= tasks]
        if not found:
            raise InvalidInput(f"tasks: {tasks} is before the first test; ask for {self.tasks[:1]} or later.")
        return found[-1]

    def tasks_to_reach(self, level: float, reference: float = 1.0) -> int | None:
        """Tasks after which accuracy over the reference was first at this level; None: never."""
        for count, value in zip(self.tasks, self.accuracy, strict=True):
            if value / reference >= level:
                return count
        return None

    def by_frequency(self) -> list[tuple[float, float]]:
        """(log10 of a class's share of all visits, its accuracy at the end), rare classes first."""
        total = sum(self.visits.values())
        return sorted((math.log10(n / total), self.by_class[-1][label]) for label, n in self.visits.items() if n)


@dataclass
class SCoLe:
    """Takes learners through a stream of recurring classes. The stream has `test`, the held-out rows of all classes."""

    stream: Any  # a RecurringStream, or any iterable of tasks with `classes` and a `test` of all of them
    test_every_tasks: int = 10

    def run(self, learner: Learner, progress: Callable[[int, Curve], None] = lambda count, curve: None) -> Curve:
        """Learn the whole stream; `progress` is called with the number of tasks after each."""
        curve, labels = Curve(), self.stream.test.tensors[1]
        known = {int(label): (labels == label).nonzero()[:, 0] for label in labels.unique()}
        for count, task in enumerate(self.stream, start=1):
            back = [int(label) for label in task.classes if label in curve.visits]
            for label, value in self._by_class(learner, {label: known[label] for label in back}).items():
                curve.before_visit.setdefault(label, []).append(value)
            learner.learn(task, evaluate=())
            for label in map(int, task.classes):
                curve.visits[label] = curve.visits.get(label, 0) + 1
                curve.last_visit[label] = count
            if count == 1 or count % self.test_every_tasks == 0:
                values = self._by_class(learner, known)
                curve.tasks.append(count)
                curve.by_class.append(values)
                right = sum(values[label] * len(rows) for label, rows in known.items())
                curve.accuracy.append(right / len(labels))
            progress(count, curve)
        return curve

    def _by_class(self, learner: Learner, rows: dict[int, Tensor]) -> dict[int, float]:
        """Accuracy among all classes on the held-out rows of each of these classes."""
        if not rows:
            return {}
        inputs, labels = (part[torch.cat(list(rows.values()))] for part in self.stream.test.tensors)
        right = (learner.predict([inputs, labels]).argmax(-1).cpu() == labels).float()
        return {label: float(right[labels == label].mean()) for label in rows}


@dataclass
class FrequencyReplay(Method):
    """Replays classes that are neither frequent nor very rare, least frequent first; frequent ones need no help."""

    low: float = 0.01  # of all visits
    high: float = 0.1
    rows_a_class: int = 200
    min_visits: int = 3
    num_classes: int = 2  # replayed beside a task, at most
    share: float = 0.5  # of what a step learns from

    @classmethod
    def idle(cls) -> Self:
        """Nothing is replayed."""
        return cls(share=0.0)

    def before_task(self, learner: Learner, task: Task) -> None:
        """Choose the classes that are replayed beside the task."""
        visits = self.state.setdefault("visits", {})
        own, total = set(_classes(task)), max(1, sum(visits.values()))
        fit = [
            label
            for label, count in visits.items()
            if count >= self.min_visits and self.low < count / total < self.high and label not in own
        ]
        self.state["chosen"] = sorted(fit, key=lambda label: visits[label])[: self.num_classes]

    def loss(self, learner: Learner, batch: Any, loss: Tensor) -> Tensor:
        """The task's loss and that of rows of the chosen classes, weighed by the share."""
        pool = [row for label in self.state["chosen"] for row in self.state["rows"][label]]
        wanted = round(num_rows(batch) * self.share / (1 - self.share))
        if not pool or not wanted:
            return loss
        order = torch.randperm(len(pool), generator=learner.generator("frequency replay"))[:wanted].tolist()
        drawn = move(learner.collate([pool[each] for each in order]), learner.device)
        return (1 - self.share) * loss + self.share * learner.loss_of(drawn, None)

    def after_task(self, learner: Learner, task: Task) -> None:
        """Store rows of the task's classes; a class that came back has max(rows / (visits + 1), 10) of its rows replaced."""
        source = learner.generator("frequency replay keeps")
        labels = torch.cat([labels_of(batch).cpu() for batch in learner.batches(task.train)])
        for label in _classes(task):
            visits = self.state["visits"].get(label, 0)
            places = (labels == label).nonzero()[:, 0]
            places = places[torch.randperm(len(places), generator=source)]
            stored = self.state.setdefault("rows", {}).setdefault(label, [])
            count = self.rows_a_class if not visits else max(self.rows_a_class // (visits + 1), 10)
            for place in places[:count].tolist():
                row = kept(task.train[place])
                if len(stored) < self.rows_a_class:
                    stored.append(row)
                else:
                    stored[int(torch.randint(len(stored), (), generator=source))] = row
            self.state["visits"][label] = visits + 1


def _classes(task: Any) -> Iterable[int]:
    return [int(each) for each in getattr(task, "classes", None) or []]
