"""Running a learner over a stream of tasks, and the figures that claims report of several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from recollect.weights.learner import Learner


def run(learner: Learner, tasks: Sequence[Any]) -> dict[str, float]:
    """Learn the tasks in order: accuracy (mean over all tasks at the end) and BWT (change since each was learned)."""
    own = []
    for task in tasks[:-1]:
        own.append(learner.learn(task, evaluate=[task])[task.name])
    final = learner.learn(tasks[-1], evaluate=tasks)
    changes = [final[task.name] - score for task, score in zip(tasks, own, strict=False)]
    return {"accuracy": mean(final[task.name] for task in tasks), "BWT": mean(changes) if changes else 0.0}


def over_seeds(runs: Iterable[Mapping[str, float]], spread_of: str = "accuracy") -> dict[str, float]:
    """Means of the figures over runs, and the standard deviation of one of them as "sd"."""
    found = list(runs)
    values = {name: mean(each[name] for each in found) for name in found[0]}
    return values | {"sd": stdev(each[spread_of] for each in found) if len(found) > 1 else 0.0}
