"""Buckets: locality-sensitive hashing of unit vectors, so that a search looks at a few of them only.

F(x) = argmax([x R; -x R]) puts a vector into one of b buckets, R being drawn once from a seed: vectors that point the same
way mostly get the same bucket. The mean of the vectors is taken off first, since embeddings share a direction that would
send most of them to few buckets; it is fixed when the buckets are made. A query looks into the `num_probes` buckets that it
fits best, by the same scores, in each of several tables; while these hold too few vectors it goes on to the next, and in
the end has looked into all.

Buckets are never stored: they are made from the vectors, so that they are right after any change of these.

Paper: Reformer, Kitaev et al., arXiv:2001.04451 (2020), sec. 2; used for memories by Think-in-Memory, arXiv:2311.08719 (2023).
Cost: N * (4 D + 4 tables) bytes; a search multiplies 2 D b/2 tables numbers and then D for each vector looked at, about
N * num_probes / b of them in each table.

Shapes: N vectors, D dimension, b buckets, L tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class Buckets:
    """Vectors in hash tables; each has a row number in order of arrival."""

    def __init__(self, vectors: np.ndarray, num_buckets: int = 64, num_tables: int = 1, seed: int = 0):
        """vectors: float32 (N, D), unit rows. num_buckets: b, even. num_tables: L."""
        self.num_buckets, self.num_tables = num_buckets, num_tables
        dim = vectors.shape[1]
        self._directions = np.random.default_rng(seed).standard_normal((dim, num_tables * num_buckets // 2), np.float32)
        self._mean = vectors.mean(axis=0) if len(vectors) else np.zeros(dim, np.float32)
        self._sort(np.arange(len(vectors)), vectors.astype(np.float32))

    def __len__(self) -> int:
        return len(self._rows) + len(self._unsorted)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """How well vectors (n, D) fit each bucket of each table, float32 (n, L, b)."""
        along = ((vectors - self._mean) @ self._directions).reshape(len(vectors), self.num_tables, -1)
        return np.concatenate([along, -along], axis=2)

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """F of vectors (n, D): their bucket in each table, int32 (n, L)."""
        return self.scores(vectors).argmax(axis=2).astype(np.int32)

    def add(self, vectors: np.ndarray) -> None:
        """Append vectors (n, D). Every search compares them until they are a tenth; then they get their buckets."""
        self._unsorted = np.concatenate([self._unsorted, vectors.astype(np.float32)])
        if len(self._unsorted) > 0.1 * len(self._rows):
            self._sort(
                np.concatenate([self._rows, np.arange(len(self._rows), len(self))]),
                np.concatenate([self._vectors, self._unsorted]),
            )

    def _sort(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Lay rows and their vectors out by the bucket of the first table, so that a bucket is one stretch of memory."""
        buckets = self.of(vectors) if len(vectors) else np.zeros((0, self.num_tables), np.int32)
        order = buckets[:, 0].argsort(kind="stable")
        self._rows, self._vectors, self._buckets = rows[order], vectors[order], buckets[order]
        self._unsorted = np.zeros((0, vectors.shape[1]), np.float32)
        self._places = self._buckets.argsort(axis=0, kind="stable")  # (N, L), of the vectors by bucket
        edges = np.arange(self.num_buckets + 1)
        self._starts = [
            np.searchsorted(self._buckets[places, table], edges) for table, places in enumerate(self._places.T)
        ]

    def search(self, query: np.ndarray, k: int, num_probes: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(rows, cosines) of the k best for a unit vector (D,) among the buckets that are looked into, best first.

        The rows are those of the `num_probes` best buckets of each table, or of as many as it takes to hold k.
        """
        best = (-self.scores(query[None])[0]).argsort(axis=1)  # (L, b)
        held = np.cumsum(np.diff(self._starts[0])[best[0]])
        probes = max(num_probes, int(np.searchsorted(held, k)) + 1)
        spans = [slice(*self._starts[0][bucket : bucket + 2]) for bucket in best[0, :probes]]
        rows = [*(self._rows[span] for span in spans), np.arange(len(self._rows), len(self))]
        cosines = [*(self._vectors[span] @ query for span in spans), self._unsorted @ query]
        if self.num_tables > 1:
            places = np.concatenate(
                [
                    self._places[slice(*self._starts[table][bucket : bucket + 2]), table]
                    for table in range(1, self.num_tables)
                    for bucket in best[table, :probes]
                ]
            )
            places = np.unique(places[~np.isin(self._buckets[places, 0], best[0, :probes])])
            rows.append(self._rows[places])
            cosines.append(self._vectors[places] @ query)
        found, scores = np.concatenate(rows), np.concatenate(cosines)
        if len(found) > k:
            part = np.argpartition(-scores, k - 1)[:k]
            found, scores = found[part], scores[part]
        order = np.lexsort((found, -scores))
        return found[order], scores[order]


@dataclass(slots=True)
class Hashed:
    """Buckets of vectors that have ids, some of which may have ended since."""

    of: str  # what state of the vectors they were made from
    epoch: str | None  # the state of the database that the ids were last held against
    ids: np.ndarray  # int64 (N,), ascending
    buckets: Buckets
    num_first: int  # ids when the mean was taken

    def search(self, vector: np.ndarray, k: int, num_probes: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, cosines) of the k best of the allowed ids, which are sorted."""
        rows, cosines = self.buckets.search(vector, k + len(self.ids) - len(allowed), num_probes)
        ids = self.ids[rows]
        places = np.searchsorted(allowed, ids).clip(0, len(allowed) - 1)
        held = allowed[places] == ids
        return ids[held][:k], cosines[held][:k]
