"""The approximate index: a graph (HNSW, arXiv:1603.09320, 2016) of usearch over the rows of a vector index.

A graph is a file beside the rows, named after the file of rows that it was made from (its serial), the erasures of that
file so far, how many rows it covers and its size, so that a graph that is stale or cut short is never opened. It may cover
only the first rows; the caller scans the others. It keeps its own copy of the vectors, so an erasure removes it.

Cost: building about 3,000 to 6,000 rows a second on two cores, 850 bytes a row; extending costs the new rows, and reading
and writing the file.

Shapes: D dimension, k results. Ids are int64 and start at 1.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recollect.native import load_usearch

_ROWS_AT_A_TIME = 16_384
_EXPANSION = 768  # how many neighbours usearch keeps in hand while it looks


def available() -> bool:
    """Whether usearch is installed."""
    return find_spec("usearch") is not None


def make_index(ndim: int, metric: str, dtype: str, **options: Any) -> Any:
    """An empty index of usearch."""
    return load_usearch()(ndim=ndim, metric=metric, dtype=dtype, **options)


class Graph:
    """The graph of one folder. Whoever writes must hold the folder's lock for `publish` and `remove`."""

    def __init__(self, folder: Path, dim: int):
        self._folder = folder
        self._dim = dim
        self._index: Any = None
        self._path: Path | None = None
        self.num_rows = 0  # that the opened graph covers

    def files(self) -> list[Path]:
        """The files of graphs, whole or not, stale or not."""
        return sorted([*self._folder.glob("graph-*.usearch"), *self._folder.glob("graph-*.tmp")])

    def open(self, serial: int, erasures: int) -> bool:
        """Have the graph of these rows in hand, if there is one."""
        start = f"graph-{serial:016x}-{erasures}-"
        if self._path is not None and self._path.name.startswith(start) and self._path.exists():
            return True
        self._index = self._path = None
        self.num_rows = 0
        for path in self._folder.glob(f"{start}*.usearch"):
            rows, size = path.stem.split("-")[-2:]
            if path.stat().st_size == int(size) and available():
                self._index = make_index(self._dim, "cos", "i8", expansion_search=_EXPANSION)
                self._index.view(str(path))
                self._index.expansion_search = _EXPANSION
                self._path, self.num_rows = path, int(rows)
                return True
        return False

    def candidates(self, query: np.ndarray, k: int, count: int) -> np.ndarray:
        """Ids worth scoring: up to k that the opened graph finds for a unit vector (D,), and all rows up to `count` after it."""
        counted = np.rint(query * (127 / max(float(np.abs(query).max()), 1e-9))).astype(np.int8)
        found = self._index.search(counted, min(k, self.num_rows)).keys.astype(np.int64)
        return np.concatenate([found, np.arange(self.num_rows + 1, count + 1)])

    def build(self, rows: np.ndarray, progress: Callable[[int], None] | None) -> Path:
        """A temporary file with the graph of `rows` (values int8 (D,), step: 0 for none), grown from the opened one if any.

        `progress` is told how many rows were added each time.
        """
        graph = make_index(self._dim, "cos", "i8", expansion_search=_EXPANSION)
        first = 0
        if self._path is not None:
            graph.load(str(self._path))
            first = self.num_rows
        for start in range(first, len(rows), _ROWS_AT_A_TIME):
            block = rows[start : start + _ROWS_AT_A_TIME]
            kept = np.flatnonzero(block["step"])
            if len(kept):
                graph.add(start + 1 + kept, np.ascontiguousarray(block["values"][kept]))
            if progress is not None:
                progress(len(block))
        temporary = self._folder / f"graph-{secrets.token_hex(4)}.tmp"
        graph.save(str(temporary))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        return temporary

    def publish(self, temporary: Path, serial: int, erasures: int, num_rows: int) -> None:
        """Put a file of `build` in the place of the graphs that are there."""
        for path in self._folder.glob("graph-*.usearch"):
            path.unlink(missing_ok=True)
        size = temporary.stat().st_size
        temporary.replace(self._folder / f"graph-{serial:016x}-{erasures}-{num_rows}-{size}.usearch")

    def remove(self) -> list[str]:
        """Remove every file; returns those that there were."""
        removed = [str(path) for path in self.files()]
        for path in self.files():
            path.unlink(missing_ok=True)
        return removed
