"""The exact scan: cosines of a query with int8 rows, and the best of many scores.

Blocks of rows are brought to float32 and multiplied, in the store's threads side by side. A block has so few rows that BLAS
works in the thread that calls it, whose fellows have blocks of their own.

Shapes: N rows, D dimension, k results. Ids are int64; row r - 1 holds id r.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from recollect.store import threads

_BLOCK_ROWS = 1024
_TOP_BLOCK = 64  # scores of which only the largest is looked at first
_THREADED_FROM = 16_384  # rows


def scores(rows: np.ndarray, query: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Cosines float32 (N,) of rows (values int8 (D,) and the step float32 that they count in) with a unit vector (D,).

    ids: only these rows, in their order. An empty row, whose step is 0, gets -inf.
    """
    num = len(rows) if ids is None else len(ids)
    found = np.empty(num, np.float32)

    def part(bounds: tuple[int, int]) -> None:
        buffer = np.empty((_BLOCK_ROWS, len(query)), np.float32)
        for first in range(*bounds, _BLOCK_ROWS):
            last = min(first + _BLOCK_ROWS, bounds[1])
            block = rows[first:last] if ids is None else rows[ids[first:last] - 1]
            values, step, out = buffer[: last - first], block["step"], found[first:last]
            np.copyto(values, block["values"])
            np.dot(values, query, out=out)
            out *= step
            out[step == 0] = -np.inf

    num_parts = threads.NUM_THREADS if num >= _THREADED_FROM else 1
    cuts = np.linspace(0, num, num_parts + 1).astype(int).tolist()
    threads.side_by_side(part, list(pairwise(cuts)))
    return found


def best(ids: np.ndarray | None, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of (ids, scores), best first, equal scores by id; without ids, row r is id r + 1. Empty rows are left out."""
    places = largest(scores, k)
    places = places[scores[places] > -np.inf]
    kept = places + 1 if ids is None else ids[places]
    order = np.lexsort((kept, -scores[places]))[:k]
    return kept[order].astype(np.int64), scores[places][order]


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest scores, in any order; more where several equal the last one; all when there are fewer.

    The k-th largest of the maxima of blocks is a bound that k scores reach, so that few scores have to be sorted.
    """
    if k >= len(scores):
        return np.arange(len(scores))
    whole = len(scores) // _TOP_BLOCK * _TOP_BLOCK
    maxima = scores[:whole].reshape(-1, _TOP_BLOCK).max(axis=1)
    bound = np.partition(maxima, -k)[-k] if k <= len(maxima) else -np.inf
    reached = np.flatnonzero(scores >= bound)
    last = np.partition(scores[reached], -k)[-k]
    return reached[scores[reached] >= last]
