"""Vectors in PostgreSQL: exact inner products for a small selection, pgvector's HNSW for a large one.

A search goes through the graph only where more than EXACT_CHUNKS may be found; below that a scan of them is as quick and finds
all. So the graph is made once a user has that many, after an addition of many or by `reindex`, and every write keeps it from
then on, at some milliseconds a vector. In the graph, rows that the filter keeps out are passed over until enough are found
(`hnsw.iterative_scan`, pgvector 0.8).

Shapes: D the embedder's dimension, k results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.store.database import VECTOR_DTYPE
from recollect.store.views import Selection

if TYPE_CHECKING:
    from recollect.store.postgres import PostgresDatabase

EXACT_CHUNKS = 20_000  # that are scanned at most
GRAPHS = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'recollect'::regnamespace AND relkind = 'i' "
    "AND relname LIKE 'embeddings_hnsw_%'"
)
_MAX_DIM = {"halfvec": 4000, "vector": 2000}  # that HNSW takes


class StoredVectors:
    """The vectors of a database in PostgreSQL."""

    def __init__(self, db: PostgresDatabase, dim: int):
        self._db, self._dim = db, dim
        self._column = f"vector::{db.vector_type}({dim})"
        self._name = f"embeddings_hnsw_{dim}"

    def sync(self, last_id: int, fetch: Any) -> int:
        """Nothing: the vectors are always there."""
        return 0

    def search(self, query: np.ndarray, k: int, *, allowed: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The k best (ids int64, cosines float32), best first; fewer when there are fewer.

        `query` is a unit vector (D,). `allowed`: a Selection, sorted ids, or None for all that may be seen.
        """
        if k < 1 or (isinstance(allowed, np.ndarray) and not len(allowed)):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        vector = self._db.as_vector(np.asarray(query, np.float32).astype(VECTOR_DTYPE).tobytes())
        source, where, values = "embeddings v", "true", []
        if isinstance(allowed, Selection):
            where, values = allowed.filter.sql("e")
            source = (
                "embeddings v JOIN chunks c ON c.id = v.chunk JOIN episodes e ON e.seq = c.episode "
                "JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user"
            )
            if allowed.filter.whole_user and self._db.bound == allowed.filter.user:
                source, where, values = "embeddings v JOIN chunks c ON c.id = v.chunk", "c.episode IS NOT NULL", []
        elif allowed is not None:
            where, values = "v.chunk IN (SELECT unnest(?))", [np.asarray(allowed, np.int64).tolist()]
        column = "v.vector"
        if self._through_graph(allowed):
            column, where = f"v.{self._column}", f"{where} AND vector_dims(v.vector) = {self._dim}"
        found = self._db.rows(
            f"SELECT v.chunk, {column} <#> ? FROM {source} WHERE {where} ORDER BY 2 LIMIT ?", (vector, *values, k)
        )
        ids = np.array([row[0] for row in found], np.int64)
        scores = -np.array([row[1] for row in found], np.float32)
        order = np.lexsort((ids, -scores))
        return ids[order], scores[order]

    def _through_graph(self, allowed: Any) -> bool:
        """Whether a selection is too large to be scanned."""
        if isinstance(allowed, np.ndarray) or not self._pays() or not self.approximate:
            return False
        if allowed is None or allowed.filter.whole_user:
            return True
        where, values = allowed.filter.sql("e")
        rows = self._db.rows(
            "SELECT count(*) FROM (SELECT 1 FROM episodes e JOIN sessions s ON s.ref = e.session "
            f"JOIN users u ON u.ref = s.user WHERE {where} LIMIT {EXACT_CHUNKS + 1}) found",
            values,
        )
        return rows[0][0] > EXACT_CHUNKS

    def get(self, ids: Iterable[int]) -> np.ndarray:
        """The vectors of ids, float32 (n, D); zeros for an id that is not there."""
        wanted = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64)
        found = dict(self._db.rows_in("SELECT chunk, vector FROM embeddings WHERE chunk IN ({})", set(wanted.tolist())))
        nothing = bytes(self._dim * VECTOR_DTYPE.itemsize)
        data = b"".join(found.get(id_, nothing) for id_ in wanted.tolist())
        return np.frombuffer(data, VECTOR_DTYPE).reshape(len(wanted), self._dim).astype(np.float32)

    def erase(self, ids: Iterable[int]) -> list[str]:
        """Nothing: a vector goes with its row, and its space with the next VACUUM."""
        return []

    def drop(self) -> None:
        """Drop the graph; `build_approximate` makes it again."""
        with self._db.everyone(), self._db.transaction():
            for (name,) in self._db.rows(GRAPHS):
                self._db.run(f"DROP INDEX IF EXISTS {name}")

    def num_unlinked(self, count: int) -> int:
        """`count` where a graph is missing that would pay, else 0: every write keeps the one that there is."""
        return count if self._pays() and not self.approximate else 0

    def build_approximate(self, progress: Callable[[int], None] | None = None) -> bool:
        """Make the graph where there is none; False where no user has vectors enough, or they have too many dimensions."""
        if not self._pays():
            return False
        if not self.approximate:
            with self._db.everyone(), self._db.transaction():
                self._db.run(
                    f"CREATE INDEX IF NOT EXISTS {self._name} ON embeddings USING hnsw "
                    f"(({self._column}) {self._db.vector_type}_ip_ops) WHERE vector_dims(vector) = {self._dim}"
                )
        return True

    def _fits(self) -> bool:
        return self._dim <= _MAX_DIM[self._db.vector_type]

    def _pays(self) -> bool:
        """Whether a user that may be seen has more vectors than are scanned."""
        most = self._db.rows("SELECT coalesce(max(num_episodes), 0) FROM users")[0][0]
        return most > EXACT_CHUNKS and self._fits()

    @property
    def approximate(self) -> bool:
        """Whether there is a graph."""
        return self._db.rows("SELECT to_regclass(?) IS NOT NULL", (f"recollect.{self._name}",))[0][0]

    @property
    def note(self) -> str | None:
        """What would make searching faster, as a sentence; None when nothing would."""
        if self._fits():
            return None if not self._pays() or self.approximate else "`recollect reindex` builds the graph of vectors."
        most = _MAX_DIM[self._db.vector_type]
        return f"vectors of {self._dim} numbers are scanned exactly; those of an embedder with at most {most} get HNSW."

    def size_bytes(self) -> int:
        """Bytes of the graph."""
        return self._db.index_bytes()

    def verify(self, last_id: int, fetch: Any) -> np.ndarray:
        """The chunks whose vector has another dimension than the embedder's."""
        rows = self._db.rows("SELECT chunk FROM embeddings WHERE vector_dims(vector) <> ? ORDER BY chunk", (self._dim,))
        return np.array([row[0] for row in rows], np.int64)
