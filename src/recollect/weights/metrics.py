"""How well a learner kept what it learned: the matrix of scores, and what the literature computes from it.

`Scores` keeps R, whose entry R[i, j] is the score on task j after training on task i (0 the first); beside it the score b
of the untrained learner and a* of one trained on everything at once, where they were measured. All measures come from R on
demand, since papers disagree on their denominators. Scores are better when larger; give losses with a minus sign.

Sources: ACC and BWT, Lopez-Paz and Ranzato, arXiv:1706.08840; FWT as the survey arXiv:2404.16789 writes it; forgetting and
intransigence, Chaudhry et al., arXiv:1801.10112; OP and BWT over t, TRACE, arXiv:2310.06762, section 3.4; omega, Kemker et
al., arXiv:1708.02072; FUAR, Jang et al., arXiv:2110.03215.

Shapes: T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal

from recollect.errors import InvalidInput

MEASURES = {  # name: what it says, for reports
    "ACC": "mean score of all tasks at the end",
    "AIA": "mean of ACC after each task",
    "BWT": "change of earlier tasks since each was learned",
    "FWT": "score of a task before it is learned, above the untrained learner",
    "forgetting": "loss of earlier tasks against the best each ever had",
    "intransigence": "what joint training has of the last task above this learner",
}


@dataclass
class Scores:
    """The matrix R and its references. `tasks`: names in the order of training; scores are set as they are measured."""

    tasks: Sequence[str]
    untrained: dict[int, float] = field(default_factory=dict)  # b, by task
    joint: dict[int, float] = field(default_factory=dict)  # a*, by task
    _scores: dict[tuple[int, int], float] = field(default_factory=dict)

    def set(self, after: int, task: int, score: float) -> None:
        """Record the score on `task` after training on task number `after`; both count from 0.

        Raises InvalidInput for a number outside of the tasks or a score that is not finite.
        """
        for name, number in (("after", after), ("task", task)):
            if not 0 <= number < len(self.tasks):
                raise InvalidInput(f"{name}: {number} is not between 0 and {len(self.tasks) - 1}.")
        if not math.isfinite(score):
            raise InvalidInput(f"score: {score} is not a finite number.")
        self._scores[after, task] = float(score)

    def get(self, after: int, task: int) -> float:
        """R[after, task]. Raises InvalidInput when it was not measured."""
        if (after, task) not in self._scores:
            raise InvalidInput(f"scores: task {task} was not tested after task {after}; test it there first.")
        return self._scores[after, task]

    def __contains__(self, place: tuple[int, int]) -> bool:
        return place in self._scores

    @property
    def num_trained(self) -> int:
        """Tasks after which something was tested."""
        return 1 + max((after for after, _ in self._scores), default=-1)

    def accuracy(self, trained: int | None = None) -> float:
        """ACC_t, the overall performance OP_t: the mean over j <= t of R[t, j]; None: after the last task."""
        last = self._last(trained)
        return mean(self.get(last, task) for task in range(last + 1))

    def average_incremental(self) -> float:
        """AIA: the mean of ACC_t over all t so far."""
        return mean(self.accuracy(count) for count in range(1, self.num_trained + 1))

    def backward_transfer(self, trained: int | None = None, divisor: Literal["t-1", "t"] = "t-1") -> float:
        """BWT_t: the sum over j < t of R[t, j] - R[j, j], over t - 1, or over t as TRACE has it; 0 for one task."""
        last = self._last(trained)
        changes = [self.get(last, task) - self.get(task, task) for task in range(last)]
        return sum(changes) / max(1, last + (divisor == "t"))

    def forward_transfer(self) -> float:
        """FWT: the mean over j >= 2 of R[j-1, j] - b[j]. Raises InvalidInput without the untrained learner's scores."""
        later = range(1, self._last(None) + 1)
        if not later or any(task not in self.untrained for task in later):
            raise InvalidInput("untrained: forward transfer needs two tasks and the untrained learner's score on each.")
        return mean(self.get(task - 1, task) - self.untrained[task] for task in later)

    def forgetting(self, trained: int | None = None) -> float:
        """F_t: the mean over j < t of max over j <= l < t of R[l, j], minus R[t, j]; 0 for one task."""
        last = self._last(trained)
        lost = [
            max(self.get(after, task) for after in range(task, last)) - self.get(last, task) for task in range(last)
        ]
        return mean(lost) if lost else 0.0

    def intransigence(self, trained: int | None = None) -> float:
        """I_t: a*[t] - R[t, t]. Raises InvalidInput without the jointly trained learner's score on the task."""
        last = self._last(trained)
        if last not in self.joint:
            raise InvalidInput("joint: intransigence needs the score of a learner trained on all tasks at once.")
        return self.joint[last] - self.get(last, last)

    def omega(self) -> dict[str, float]:
        """Kemker's base, new and all: means over i >= 2 of R[i, 1] / ideal, R[i, i] and ACC_i / ideal.

        The ideal is the mean of the jointly trained learner's scores. Raises InvalidInput without them.
        """
        last = self._last(None)
        if last < 1 or any(task not in self.joint for task in range(last + 1)):
            raise InvalidInput("joint: omega needs two tasks and the score of a learner trained on all tasks at once.")
        ideal = mean(self.joint[task] for task in range(last + 1))
        later = range(1, last + 1)
        return {
            "base": mean(self.get(after, 0) for after in later) / ideal,
            "new": mean(self.get(after, after) for after in later),
            "all": mean(self.accuracy(after + 1) for after in later) / ideal,
        }

    def summary(self) -> dict[str, float]:
        """Every measure of `MEASURES` that can be computed from what was recorded."""
        values = {
            "ACC": self.accuracy(),
            "AIA": self.average_incremental(),
            "BWT": self.backward_transfer(),
            "forgetting": self.forgetting(),
        }
        for name, measure in (("FWT", self.forward_transfer), ("intransigence", self.intransigence)):
            try:
                values[name] = measure()
            except InvalidInput:
                continue
        return {name: values[name] for name in MEASURES if name in values}

    def to_json(self) -> dict[str, Any]:
        """Tasks, R as rows with null where nothing was measured, references and measures."""
        size = range(self.num_trained)
        rows = [[self._scores.get((after, task)) for task in range(len(self.tasks))] for after in size]
        references = {name: {str(key): value for key, value in getattr(self, name).items()} for name in REFERENCES}
        return {"tasks": list(self.tasks), "scores": rows, **references, "measures": self.summary() if rows else {}}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Scores:
        """What `to_json` wrote."""
        untrained, joint = ({int(key): value for key, value in saved[name].items()} for name in REFERENCES)
        made = cls(saved["tasks"], untrained, joint)
        for after, row in enumerate(saved["scores"]):
            for task, score in enumerate(row):
                if score is not None:
                    made.set(after, task, score)
        return made

    def __rich__(self) -> Any:
        """R as a table, the score of each task right after it was learned in bold, and the measures below."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table("after", *(escape(name) for name in self.tasks), "ACC")
        for after in range(self.num_trained):
            cells = [
                Text(
                    f"{self._scores[after, task]:.3f}" if (after, task) in self else "",
                    style="bold" * (after == task),
                )
                for task in range(len(self.tasks))
            ]
            table.add_row(Text(self.tasks[after]), *cells, f"{self.accuracy(after + 1):.3f}")
        told = [Text(f"{name} {value:.3f}  ({MEASURES[name]})") for name, value in self.summary().items()]
        return Group(table, *told)

    def _last(self, trained: int | None) -> int:
        """The number of the last of `trained` tasks. Raises InvalidInput when so many were not trained."""
        count = self.num_trained if trained is None else trained
        if not 1 <= count <= self.num_trained:
            raise InvalidInput(f"trained: {count} tasks were asked for, {self.num_trained} were tested; test first.")
        return count - 1


REFERENCES = ("untrained", "joint")


def fuar(
    old: Sequence[tuple[float, float]], updated: Sequence[tuple[float, float]], new: Sequence[tuple[float, float]]
) -> float:
    """FUAR of a knowledge update, from scores (before, after) on kept, updated and new facts.

    What was forgotten over what was gained: sum of max(0, before - after) on the old ones, over the gains on the updated
    and on the new ones, each at least 0. 0 is ideal, 1 an even trade. Raises InvalidInput when nothing was gained.
    """
    lost = sum(max(0.0, before - after) for before, after in old)
    gained = sum(max(0.0, sum(after - before for before, after in part)) for part in (updated, new))
    if gained == 0:
        raise InvalidInput("scores: nothing was gained, so that the measure is undefined; learn more first.")
    return lost / gained


def retained(before: Sequence[float], after: Sequence[float]) -> float:
    """TRACE's delta: the mean over general tasks of the score after minus the score before."""
    if len(before) != len(after) or not before:
        raise InvalidInput(
            f"scores: {len(before)} before and {len(after)} after; give the same number, and at least one."
        )
    return mean(later - earlier for earlier, later in zip(before, after, strict=True))


@dataclass
class Curve:
    """Scores along a stream, for streams too long for a matrix. `reference`: the score of training on everything at once."""

    steps: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    reference: float = 1.0

    def add(self, step: int, score: float) -> None:
        """Record a score at a step; steps ascend."""
        if self.steps and step <= self.steps[-1]:
            raise InvalidInput(f"step: {step} does not come after {self.steps[-1]}.")
        self.steps.append(step)
        self.scores.append(score)

    def normalised(self) -> list[float]:
        """Scores over the reference, as SCoLe reports them."""
        return [score / self.reference for score in self.scores]

    def reaches(self, share: float) -> int | None:
        """The first step at which the normalised score is at least `share`, or None."""
        return next((step for step, score in zip(self.steps, self.normalised(), strict=True) if score >= share), None)

    def half_life(self) -> int | None:
        """Steps after its best until a score first is at most half of it, or None."""
        if not self.scores:
            return None
        best = max(range(len(self.scores)), key=self.scores.__getitem__)
        later = zip(self.steps[best:], self.scores[best:], strict=True)
        return next((step - self.steps[best] for step, score in later if score <= self.scores[best] / 2), None)
