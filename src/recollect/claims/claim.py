"""Claims: what a paper says, a small honest experiment on it, and a rule that decides whether its direction holds.

A claim's module holds one object `CLAIM`. `reproduce` runs it and returns a Result, which `save` writes to
`results/claims/<key>.json`. The rule sees only the measured rows; what it decides is reported as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from recollect.benchmarks.provenance import provenance
from recollect.catalogue import system
from recollect.errors import InvalidInput

Scale = Literal["small", "full"]
Progress = Callable[[str], None]  # called with a line that says what is being done


@dataclass(frozen=True, slots=True)
class Row:
    """One measured line of a claim's table."""

    name: str
    role: Literal["system", "baseline", "paper"]  # "paper": quoted, for comparison; never decides
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a claim is run.

    Data sets are looked for under `data`; without it the claim makes its own. With several `workers` the claims that train many
    small models train as many side by side, in processes of one thread each.
    """

    scale: Scale = "small"
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim that can be tested."""

    key: str
    sentence: str  # the paper's claim, in our words
    figure: str  # the paper's figure, and where it stands
    experiment: str  # what is measured, on what, in one or two sentences
    rule: str  # when it holds, in words
    measure: Callable[[Setting, Progress], Iterable[Row]]
    decide: Callable[[Mapping[str, Row]], bool]  # rows by name
    devices: tuple[str, ...] = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of a claim gave."""

    key: str
    holds: bool
    rows: tuple[Row, ...]
    setting: Mapping[str, Any]
    seconds: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values: verdict, rows, seed, scale, device, seconds, commit, machine, versions."""
        return {
            "key": self.key,
            "verdict": "holds" if self.holds else "does not hold",
            "rows": [{"name": row.name, "role": row.role, **row.values} for row in self.rows],
            **self.setting,
            "seconds": round(self.seconds, 2),
            **self.provenance,
        }


def load(key: str) -> Claim:
    """The claim of a system. Raises NotFound for an unknown key."""
    return import_module(system(key).claim).CLAIM


def reproduce(
    key: str,
    setting: Setting,
    progress: Progress = lambda line: None,
    keep: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> Result:
    """Run the claim of a system; `keep` is given the rows so far after each that is measured.

    Raises NotFound for an unknown key, InvalidInput for a device that it cannot use.
    """
    claim = load(key)
    if setting.device not in claim.devices:
        raise InvalidInput(f"device: {setting.device!r:.20} is not one of {', '.join(claim.devices)}.")
    start = time.perf_counter()
    rows: tuple[Row, ...] = ()
    for row in claim.measure(setting, progress):
        rows += (row,)
        keep(rows)
    seconds = time.perf_counter() - start
    holds = bool(claim.decide({row.name: row for row in rows}))
    how = {name: value for name, value in asdict(setting).items() if name != "data"} | {
        "data": setting.data is not None
    }
    return Result(key, holds, rows, how, seconds, provenance())


def stem(key: str, scale: str) -> str:
    """How the files of a result are named: the key, for a full run `<key>-full`."""
    return key if scale == "small" else f"{key}-full"


def save_part(key: str, setting: Setting, folder: Path, rows: Sequence[Row]) -> None:
    """Write the rows measured so far to `<folder>/claims/<stem>.part.json`, which `save` removes."""
    path = folder / "claims" / f"{stem(key, setting.scale)}.part.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [{"name": row.name, "role": row.role, **row.values} for row in rows]
    part = {"key": key, "scale": setting.scale, "device": setting.device, "seed": setting.seed, "rows": found}
    path.write_text(json.dumps(part, indent=2) + "\n", "utf-8")


def save(result: Result, folder: Path) -> Path:
    """Write a result to `<folder>/claims/<key>.json`, for a full run `<key>-full.json`; returns the path."""
    name = stem(result.key, result.setting["scale"])
    path = folder / "claims" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    path.with_name(f"{name}.part.json").unlink(missing_ok=True)
    return path
