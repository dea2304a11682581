"""The database of the store: what every backend shares, in SQL that each of them understands.

Records (episodes, notes, links) are the truth; the full-text index, the term counts, the chunks and their embeddings are
caches beside them in the same transactions. A write is durable when its transaction returns. `sqlite.py` keeps it all in one
file, `postgres.py` in a PostgreSQL that several servers share; each gives the statements, the transactions and what only it
can do. SQL is written with `?` for values, and with `ON CONFLICT`, never with what one backend alone knows.

All SQL of the engine that runs on every call is here; checks and repairs are in `repair.py`.
"""

from __future__ import annotations

import json
import os
import threading
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

import numpy as np

from recollect.store.records import Episode, from_micros, to_micros

if TYPE_CHECKING:
    from recollect.store.notes import View

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
        from recollect.store.postgres import holds_memory

        return holds_memory(os.fspath(path))
    return os.path.exists(os.path.expanduser(path))


def open_database(path: str | os.PathLike[str]) -> Database:
    """The database at a path, ":memory:" or `postgresql://...`, made if there is none."""
    if is_server(path):
        from recollect.store.postgres import PostgresDatabase

        return PostgresDatabase(os.fspath(path))
    from recollect.store.sqlite import SqliteDatabase

    return SqliteDatabase(path)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records a read may see. The user is never left out; every other condition narrows further."""

    user: str
    agent: str | None = None
    session: str | None = None
    speaker: str | None = None
    until: int | None = None  # at <= until, microseconds: what was known then
    after: int | None = None  # at >= after
    before: int | None = None  # at < before

    def sql(self, alias: str) -> tuple[str, list[Any]]:
        """A WHERE condition over the table `alias` (episodes or notes) joined with `s` (sessions) and `u` (users)."""
        conditions = ["u.name = ?"]
        values: list[Any] = [self.user]
        for condition, value in (
            ("s.agent = ?", self.agent),
            ("s.name = ?", self.session),
            (f"{alias}.at <= ?", self.until),
            (f"{alias}.at >= ?", self.after),
            (f"{alias}.at < ?", self.before),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if self.speaker is not None:
            said = "casefold(e.speaker) = casefold(?)"
            if alias == "n":
                said = f"n.seq IN (SELECT note FROM note_sources ns JOIN episodes e ON e.seq = ns.episode WHERE {said})"
            conditions.append(said)
            values.append(self.speaker)
        return " AND ".join(conditions), values

    @property
    def whole_user(self) -> bool:
        """True when nothing but the user narrows the view."""
        return self == Filter(self.user)

    @property
    def whole_scope(self) -> bool:
        """True when nothing but the user, the agent and the time of asking narrows the view."""
        return self == Filter(self.user, self.agent, until=self.until)


@dataclass(slots=True)
class Chunk:
    """A passage of a record that the encoder can read at once, with its embedding (None: still to be made)."""

    first: int
    last: int
    vector: bytes | None = None  # float16
    tokens: bytes | None = None  # compressed token vectors


@dataclass(slots=True)
class NewEpisode:
    """An episode on its way into the database."""

    episode: Episode
    key: bytes
    terms: np.ndarray  # uint32
    shape: int | None = None  # from shape.shape; None: made where it is read
    chunks: list[Chunk] = field(default_factory=list)


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


@dataclass(frozen=True, slots=True)
class Selection:
    """Chunks as a condition that the database itself looks for: over `c` (chunks), `e`, `s` and `u` of an episode."""

    filter: Filter


class TextIndex(Protocol):
    """Full-text search over episodes and notes, confined to a user. Tables are "episodes" and "notes"."""

    def search(self, text: str, filter_: Filter, limit: int) -> list[int]:
        """Rows of the episodes that match any word of a text and that the filter lets through, best first."""
        ...

    def search_notes(self, text: str, view: View, limit: int) -> list[int]:
        """Rows of the notes of a view whose key matches any word of a text, best first."""
        ...

    def search_all(self, text: str, filter_: Filter) -> list[int]:
        """Rows of the episodes that hold every word of a text, common words aside, in order of writing."""
        ...

    def insert(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Take up texts: (row, text, row of the user)."""
        ...

    def delete(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Let go of texts that are about to be deleted."""
        ...

    def num_broken(self, table: str) -> int:
        """How many entries disagree with the texts, or 1 where that cannot be counted."""
        ...

    def rebuild(self, table: str) -> None:
        """Write all entries anew from the texts."""
        ...


class Vectors(Protocol):
    """The vectors of one database and embedder, as the engine searches them. Ids are those of chunks."""

    def sync(self, last_id: int, fetch: Callable[[int, int], Iterable[tuple[np.ndarray, np.ndarray]]]) -> int:
        """Take up what is missing up to `last_id`; how many."""
        ...

    def search(self, query: np.ndarray, k: int, *, allowed: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The k best (ids int64, cosines float32), best first, of those that `Database.allowed_chunks` gave, or of ids."""
        ...

    def get(self, ids: Iterable[int]) -> np.ndarray:
        """The vectors of ids, float32 (n, D); zeros for an id that is not there."""
        ...

    def erase(self, ids: Iterable[int]) -> list[str]:
        """Overwrite what was deleted; the files that were changed."""
        ...

    def drop(self) -> None:
        """Remove what can be made again; the next `sync` makes it."""
        ...

    def num_unlinked(self, count: int) -> int:
        """How many of `count` vectors the approximate index lacks; 0 when they are too few to matter."""
        ...

    def build_approximate(self, progress: Callable[[int], None] | None = None) -> bool:
        """Make or extend the approximate index where one is of use."""
        ...

    @property
    def approximate(self) -> bool:
        """Whether a search over everything goes through the approximate index."""
        ...

    @property
    def note(self) -> str | None:
        """What would make searching faster, as a sentence; None when nothing would."""
        ...

    def size_bytes(self) -> int:
        """Bytes that the index takes."""
        ...

    def verify(self, last_id: int, fetch: Callable[[int, int], Iterable[tuple[np.ndarray, np.ndarray]]]) -> np.ndarray:
        """The ids that disagree with the database."""
        ...


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

    def insert_episodes(self, items: Sequence[NewEpisode]) -> int:
        """Write episodes with their index entries in one transaction; those whose key exists are passed over."""
        added = 0
        with self.transaction():
            present = set(self.existing([item.key for item in items]))
            users: dict[str, int] = {}
            sessions: dict[tuple, tuple[int, int]] = {}
            counts: dict[int, Counter[int]] = {}
            totals: dict[int, list[int]] = {}
            voices: Counter[tuple[int, str]] = Counter()
            embeddings: list[tuple] = []
            texts: list[tuple] = []
            for item in items:
                if item.key in present:
                    continue
                present.add(item.key)
                episode = item.episode
                user = users.get(episode.user)
                if user is None:
                    user = users[episode.user] = self.user(episode.user)
                place = (user, episode.agent, episode.session)
                if place not in sessions:
                    ref = self.session(*place)
                    last = self.rows("SELECT coalesce(max(position), -1) FROM episodes WHERE session = ?", (ref,))[0][0]
                    sessions[place] = (ref, last)
                ref, position = sessions[place]
                sessions[place] = (ref, position + 1)
                seq = self.insert(
                    "INSERT INTO episodes (id, key, session, position, at, at_offset, recorded, recorded_offset, speaker, "
                    "source_id, text, meta, terms, shape) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        episode.id,
                        item.key,
                        ref,
                        position + 1,
                        *to_micros(episode.at),
                        *to_micros(episode.recorded_at),
                        episode.speaker,
                        episode.source_id,
                        episode.text,
                        dump_meta(episode.meta),
                        item.terms.astype(TERM_DTYPE).tobytes(),
                        item.shape,
                    ),
                )
                texts.append((seq, episode.text, user))
                embeddings += self.insert_chunk_rows("episode", seq, item.chunks)
                counts.setdefault(user, Counter()).update(set(item.terms.tolist()))
                total = totals.setdefault(user, [0, 0])
                total[0] += 1
                total[1] += len(item.terms)
                if episode.speaker:
                    voices[user, episode.speaker] += 1
                added += 1
            self.texts.insert("episodes", texts)
            self.run_many("INSERT INTO embeddings VALUES (?, ?, ?)", embeddings)
            self.count(counts, totals, voices, sign=1)
        return added

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

    def count(
        self, terms: dict[int, Counter[int]], totals: dict[int, list[int]], voices: Counter[tuple[int, str]], sign: int
    ) -> None:
        """Add (sign 1) or take away (sign -1) episodes in each user's counts of terms and speakers."""
        for user, (num_episodes, num_terms) in totals.items():
            self.run(
                "UPDATE users SET num_episodes = num_episodes + ?, num_terms = num_terms + ? WHERE ref = ?",
                (sign * num_episodes, sign * num_terms, user),
            )
        self.add_counts(
            "term_counts",
            "term",
            [(user, term, sign * n) for user, counter in terms.items() for term, n in sorted(counter.items())],
        )
        self.add_counts("speakers", "speaker", [(user, name, sign * n) for (user, name), n in voices.items()])
        if sign < 0:
            for table in ("term_counts", "speakers"):
                self.run_many(f"DELETE FROM {table} WHERE user = ? AND num_episodes <= 0", ((user,) for user in totals))

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
