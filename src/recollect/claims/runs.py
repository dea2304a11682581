"""The runs of a claim: one for each row, seed and part, side by side where several processes are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev

from recollect.benchmarks.jobs import each
from recollect.claims.claim import Progress, Setting

Values = Mapping[str, float]
Work = Callable[["Run", Setting, Progress], Values]


@dataclass(frozen=True)
class Run:
    """One training, of a row of the table."""

    name: str  # of the row
    seed: int
    part: str = ""  # of the experiment, where it has several


def grid(names: Sequence[str], seeds: Sequence[int], parts: Sequence[str] = ("",)) -> list[Run]:
    """Each name with each part and each seed."""
    return [Run(name, seed, part) for name in names for part in parts for seed in seeds]


def averages(
    work: Work, runs: Sequence[Run], setting: Setting, progress: Progress, spread: bool = False
) -> Iterator[tuple[str, dict[str, float]]]:
    """(name, means of its values over its runs), a name when its last run ends; with `spread` deviations as well.

    `work` must be a function of a module where the setting has several workers.
    """
    found: dict[str, list[Values]] = {}
    told = progress if setting.workers == 1 else _silent
    for number, (run, values) in enumerate(each(partial(_work, work, setting, told), runs, setting.workers), 1):
        progress(f"{number} of {len(runs)} runs done, last {_said(run)}")
        found.setdefault(run.name, []).append(values)
        if len(found[run.name]) == sum(other.name == run.name for other in runs):
            yield run.name, _together(found[run.name], spread)


def _silent(line: str) -> None:
    """What runs in another process does not report."""


def _work(work: Work, setting: Setting, progress: Progress, run: Run) -> Values:
    return work(run, setting, lambda line: progress(f"{_said(run)}, {line}"))


def _said(run: Run) -> str:
    return ", ".join(part for part in (run.name, run.part, f"seed {run.seed}") if part)


def _together(runs: Sequence[Values], spread: bool) -> dict[str, float]:
    keys = dict.fromkeys(key for values in runs for key in values)
    values = {key: [values[key] for values in runs if key in values] for key in keys}
    found = {key: mean(each) for key, each in values.items()}
    if spread:
        found |= {f"{key} spread": stdev(each) if len(each) > 1 else 0.0 for key, each in values.items()}
    return found
