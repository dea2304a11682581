"""The database of the store: what every backend shares, in SQL that each of them understands.

Records (episodes, notes, links) are the truth; the full-text index, the term counts, the chunks and their embeddings are
caches beside them in the same transactions. A write is durable when its transaction returns. `sqlite.py` keeps it all in one
file, `postgres.py` in a PostgreSQL that several servers share; each gives the statements, the transactions and what only it
can do. SQL is written with `?` for values, and with `ON CONFLICT`, never with what one backend alone knows.

The SQL that runs on every call is here and, of what is written, in `episodes.py` and `notes.py`; checks and repairs are in
`repair.py`.
"""

from __future__ import annotations

import json
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np

from recollect.store.records import Episode, from_micros
from recollect.store.views import Filter, Selection

if TYPE_CHECKING:
    from recollect.store.indexes import TextIndex, Vectors

VECTOR_DTYPE = np.dtype("<f2")
TERM_DTYPE = np.dtype("<u4")
_SERVERS = ("postgres://", "postgresql://")


def is_server(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the address of a database server, `postgresql://...`."""
    return os.fspath(path).startswith(_SERVERS)


def shown(path: str | os.PathLike[str]) -> str:
    """A path as messages may show it: an address without its password and its options."""
    if not is_server(path):
        return os.fspath(path)
    try:
        parts = urlsplit(os.fspath(path))
        place = parts.hostname or ""
        place = f"[{place}]" if ":" in place else place
        user = f"{quote(parts.username)}@" if parts.username else ""
        port = f":{parts.port}" if parts.port else ""
        return f"postgresql://{user}{place}{port}{parts.path}"
    except ValueError:
        return "postgresql://..."


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a memory at a path already, which remembers its embedder."""
    if is_server(path):
        from recollect.store.postgres_schema import holds_memory

        return holds_memory(os.fspath(path))
    return os.path.exists(os.path.expanduser(path))


def open_database(path: str | os.PathLike[str]) -> Database:
    """The database at a path, ":memory:" or `postgresql://...`, made if there is none."""
    if is_server(path):
        from recollect.store.postgres import PostgresDatabase

        return PostgresDatabase(os.fspath(path))
    from recollect.store.sqlite import SqliteDatabase

    return SqliteDatabase(path)


@dataclass(slots=True)
class Chunk:
    """A passage of a record that the encoder can read at once, with its embedding (None: still to be made)."""

    first: int
    last: int
    vector: bytes | None = None  # float16
    tokens: bytes | None = None  # compressed token vectors


class Growing:
    """The last few ascending arrays of row numbers that grow at their end only, until something is deleted.

    Rows are numbered in the order in which they are committed, and a deletion changes the state `epoch`. Safe to use from
    several threads; one whose snapshot is older may be given numbers that it cannot see yet.
    """

    def __init__(self, num_kept: int):
        self._num_kept = num_kept
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[int, np.ndarray]] = OrderedDict()

    def get(self, key: Hashable, epoch: int, read: Callable[[int], np.ndarray]) -> np.ndarray:
        """The array of `key`, int64 (N,); `read(last)` gives its numbers above `last`, 0 for all of them."""
        known, numbers = self._kept.get(key, (epoch, np.empty(0, np.int64)))
        if known != epoch:
            numbers = np.empty(0, np.int64)
        fresh = read(int(numbers[-1]) if len(numbers) else 0)
        if len(fresh):
            numbers = np.concatenate([numbers, fresh])
        with self._lock:
            self._kept[key] = (epoch, numbers)
            self._kept.move_to_end(key)
            while len(self._kept) > self._num_kept:
                self._kept.popitem(last=False)
        return numbers


class Database(ABC):
    """One open database. Safe to use from several threads."""

    path: str  # of the file, or the address without its password: what messages show
    read_only: bool = False
    uuid: str
    texts: TextIndex
    bound: str | None = None  # the user that it is opened for; None is all

    def __init__(self) -> None:
        self._allowed = Growing(8)
        self.postings = Growing(64)

    # What a backend gives

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing: committed and durable when the block ends, rolled back when it raises. May be nested.

        The transactions that write for one user take turns, so that a row with a larger number is never seen before one with
        a smaller number.
        """

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """Several reads that see the same state of the database."""

    @abstractmethod
    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        """All rows of one statement."""

    @abstractmethod
    def rows_in(self, sql: str, values: Iterable[Any], before: Sequence[Any] = ()) -> list[tuple]:
        """Rows of a statement with `IN ({})`, in the order of its index, not of the values."""

    @abstractmethod
    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""

    @abstractmethod
    def run_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""

    @abstractmethod
    def insert(self, sql: str, values: Sequence[Any]) -> int:
        """Insert one row; its number."""

    @abstractmethod
    def close(self) -> None:
        """Close it. Further calls fail."""

    @abstractmethod
    def open_index(self, embedder_name: str, dim: int) -> Vectors:
        """The vectors that an embedder made."""

    @abstractmethod
    def turns(self, spans: Sequence[Sequence[int]], columns: str, where: str, values: Sequence[Any]) -> list[tuple]:
        """Columns of the episodes `e` in any of these spans (session, first position, last position)."""

    @abstractmethod
    def scrub(self, traces: Sequence[str] | None) -> bool:
        """Remove the last bytes of what was deleted from the files.

        traces: texts that were deleted; None when they are not known, as when an earlier deletion is finished.
        Returns False when others kept it from being finished; the flag `scrub` in the state stays, and the next forget, verify
        or close tries again.
        """

    @abstractmethod
    def num_damaged(self) -> int:
        """Pages or indexes that the database itself finds damaged."""

    @abstractmethod
    def size_bytes(self) -> int:
        """Bytes of the database."""

    def as_vector(self, data: bytes) -> Any:
        """What is bound for a vector, from its float16 bytes. A vector that is read comes as those bytes."""
        return data

    def bind(self, user: str) -> None:
        """Say whose records this database is opened for. A backend that can lets nothing else be seen."""
        self.bound = user

    def everyone(self) -> AbstractContextManager[None]:
        """A block that sees the records of all users, for the care of the whole database."""
        return nullcontext()

    def claim(self, work: str, user: str) -> AbstractContextManager[bool]:
        """A block that does some work of a user; False where another server is at it, which is then left to it."""
        return nullcontext(True)

    # State

    def get_state(self, key: str) -> str | None:
        """A value of the table `state`."""
        found = self.rows("SELECT value FROM state WHERE key = ?", (key,))
        return found[0][0] if found else None

    def set_state(self, key: str, value: str | None) -> None:
        """Set or, with None, delete a value of the table `state`."""
        if value is None:
            self.run("DELETE FROM state WHERE key = ?", (key,))
        else:
            self.run(
                "INSERT INTO state VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
            )

    def bump_epoch(self) -> None:
        """Tell every process that what it remembers of ids and views is out of date."""
        self.run("UPDATE state SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'epoch'")

    # Writing

    def user(self, name: str) -> int:
        """The row of a user, made if there is none."""
        self.run("INSERT INTO users (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
        return self.rows("SELECT ref FROM users WHERE name = ?", (name,))[0][0]

    def session(self, user: int, agent: str | None, name: str | None) -> int:
        """The row of a session, made if there is none."""
        key = (user, agent or "", name or "")
        found = self.rows("SELECT ref FROM sessions WHERE user = ? AND agent = ? AND name = ?", key)
        if not found:
            self.run("INSERT INTO sessions (user, agent, name) VALUES (?, ?, ?)", key)
            found = self.rows("SELECT ref FROM sessions WHERE user = ? AND agent = ? AND name = ?", key)
        return found[0][0]

    def existing(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
        """For those of the keys that are stored: key -> (id, text)."""
        return {
            key: (id_, text)
            for key, id_, text in self.rows_in("SELECT key, id, text FROM episodes WHERE key IN ({})", keys)
        }

    def insert_chunk_rows(self, owner: str, seq: int, chunks: Sequence[Chunk]) -> list[tuple[int, Any, bytes | None]]:
        """Insert the chunks of a record; returns the embedding rows to insert."""
        rows = []
        for chunk in chunks:
            sql = f"INSERT INTO chunks ({owner}, first, last) VALUES (?, ?, ?)"
            id_ = self.insert(sql, (seq, chunk.first, chunk.last))
            if chunk.vector is not None:
                rows.append((id_, self.as_vector(chunk.vector), chunk.tokens))
        return rows

    def insert_chunks(self, owner: str, seq: int, chunks: Sequence[Chunk]) -> None:
        """Insert the chunks and embeddings of a record; owner is "episode" or "note"."""
        with self.transaction():
            self.run_many("INSERT INTO embeddings VALUES (?, ?, ?)", self.insert_chunk_rows(owner, seq, chunks))

    _ADDED = "ON CONFLICT (user, {1}) DO UPDATE SET num_episodes = {0}.num_episodes + excluded.num_episodes"

    def add_counts(self, table: str, column: str, counts: Sequence[tuple[int, Any, int]]) -> None:
        """Add to a table of counts: (row of the user, value of `column`, number), each pair once."""
        self.run_many(f"INSERT INTO {table} VALUES (?, ?, ?) {self._ADDED.format(table, column)}", counts)

    # Reading

    _EPISODE = (
        "SELECT e.seq, e.id, e.text, e.at, e.at_offset, e.recorded, e.recorded_offset, e.speaker, s.name, u.name, s.agent, "
        "e.source_id, e.meta FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE "
    )

    def episodes(self, seqs: Iterable[int]) -> dict[int, Episode]:
        """Episodes by database row."""
        return {row[0]: _episode(row) for row in self.rows_in(self._EPISODE + "e.seq IN ({})", seqs)}

    def episodes_by_id(self, ids: Iterable[str]) -> dict[str, Episode]:
        """Episodes by id."""
        return {row[1]: _episode(row) for row in self.rows_in(self._EPISODE + "e.id IN ({})", ids)}

    def episodes_where(
        self, filter_: Filter, extra: str = "", values: Sequence[Any] = (), at_once: int = 1000
    ) -> Iterator[tuple[int, Episode]]:
        """(row, episode) of all that the filter lets through, in order of writing, read `at_once` at a time."""
        where, bound = filter_.sql("e")
        last = 0
        while True:
            sql = f"{self._EPISODE}{where} {extra} AND e.seq > ? ORDER BY e.seq LIMIT ?"
            rows = self.rows(sql, [*bound, *values, last, at_once])
            if not rows:
                return
            yield from ((row[0], _episode(row)) for row in rows)
            last = rows[-1][0]

    def only_user(self) -> str | None:
        """The user's name when the database holds one user only."""
        names = self.rows("SELECT name FROM users LIMIT 2")
        return names[0][0] if len(names) == 1 else None

    def allowed_chunks(self, filter_: Filter) -> np.ndarray | Selection | None:
        """Sorted chunk ids of the episodes that the filter lets through; None when that is all of the database.

        Kept for the last filters, so that a repeated query pays for news only.
        """
        if filter_.whole_user and self.only_user() == filter_.user and not self.rows("SELECT 1 FROM notes LIMIT 1"):
            return None
        where, values = filter_.sql("e")

        def read(last: int) -> np.ndarray:
            fresh = self.rows(
                "SELECT c.id FROM chunks c JOIN episodes e ON e.seq = c.episode JOIN sessions s ON s.ref = e.session "
                f"JOIN users u ON u.ref = s.user WHERE {where} AND c.id > ? ORDER BY c.id",
                [*values, last],
            )
            return np.fromiter((row[0] for row in fresh), np.int64, len(fresh))

        return self._allowed.get(filter_, int(self.get_state("epoch") or 0), read)

    def fetch_vectors(self, first: int, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(chunk ids (n,), vectors float32 (n, D)) for first <= id <= last, in slices."""
        while first <= last:
            rows = self.rows(
                "SELECT chunk, vector FROM embeddings WHERE chunk BETWEEN ? AND ? ORDER BY chunk LIMIT 4096",
                (first, last),
            )
            if not rows:
                return
            ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
            vectors = np.frombuffer(b"".join(row[1] for row in rows), VECTOR_DTYPE).reshape(len(rows), -1)
            yield ids, vectors.astype(np.float32)
            first = int(ids[-1]) + 1

    def last_chunk(self) -> int:
        """The largest chunk id that has a vector."""
        return self.rows("SELECT coalesce(max(chunk), 0) FROM embeddings")[0][0]

    def num_episodes(self, user: str) -> int:
        """How many episodes a user has."""
        found = self.rows("SELECT num_episodes FROM users WHERE name = ?", (user,))
        return found[0][0] if found else 0

    def document_frequency(self, user: str, terms: Iterable[int]) -> dict[int, int]:
        """How many of the user's episodes hold each term."""
        sql = "SELECT term, t.num_episodes FROM term_counts t JOIN users u ON u.ref = t.user WHERE u.name = ? AND term IN ({})"
        return dict(self.rows_in(sql, terms, (user,)))


def dump_meta(meta: Any) -> str | None:
    """The JSON that is kept for `meta`; None for none."""
    return json.dumps(dict(meta), ensure_ascii=False, allow_nan=False) if meta else None


def _episode(row: tuple) -> Episode:
    return Episode(
        id=row[1],
        text=row[2],
        at=from_micros(row[3], row[4]),
        recorded_at=from_micros(row[5], row[6]),
        speaker=row[7],
        session=row[8] or None,
        user=row[9],
        agent=row[10] or None,
        source_id=row[11],
        meta=json.loads(row[12]) if row[12] else {},
    )
