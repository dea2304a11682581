"""The database of the store: one SQLite file in WAL mode that several processes read and write.

Records (episodes, notes, links) are the truth; the full-text index, the term counts, the chunks and their embeddings are
caches beside them in the same file and the same transactions. A write is durable when its transaction returns
(`synchronous=FULL`). What is deleted is overwritten with zeros (`secure_delete`), merged out of the full-text index and
truncated out of the write-ahead log.

All SQL of the engine that runs on every call is here; checks and repairs are in `repair.py`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from recollect.errors import Conflict, InvalidInput, StorageFailed
from recollect.store.records import Episode, from_micros, to_micros

BUSY_TIMEOUT_S = 60.0
VECTOR_DTYPE = np.dtype("<f2")
TERM_DTYPE = np.dtype("<u4")
_MAX_VARIABLES = 500  # SQLite allows 999 or more host parameters in every build


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


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into StorageFailed with the cause and the way out."""
    try:
        yield
    except sqlite3.Error as error:
        cause = str(error)
        if "full" in cause:
            advice = "the disk is full; free some space and try again, nothing was changed"
        elif "readonly" in cause or "read-only" in cause:
            advice = "the file or its folder cannot be written; check their permissions"
        elif "locked" in cause or "busy" in cause:
            advice = f"another process kept it locked for {BUSY_TIMEOUT_S:.0f} s; try again"
        elif "not a database" in cause:
            advice = "the file is not a recollect database; choose another path"
        elif "malformed" in cause:
            advice = "the file is damaged; run `recollect verify --repair`, or restore an export"
        elif "unable to open" in cause:
            advice = "it cannot be opened; check that the folder exists and may be written"
        elif "disk I/O" in cause:
            advice = "the disk refused to read or write; nothing was changed"
        else:
            advice = cause
        raise StorageFailed(f"database {path}: {advice}.") from error


class Growing:
    """The last few ascending arrays of row numbers that grow at their end only, until something is deleted.

    Rows are numbered in the order in which they are committed, and a deletion changes the state `epoch`.
    """

    def __init__(self, num_kept: int):
        self._num_kept = num_kept
        self._kept: OrderedDict[Hashable, tuple[int, np.ndarray]] = OrderedDict()

    def get(self, key: Hashable, epoch: int, read: Callable[[int], np.ndarray]) -> np.ndarray:
        """The array of `key`, int64 (N,); `read(last)` gives its numbers above `last`, 0 for all of them."""
        known, numbers = self._kept.get(key, (epoch, np.empty(0, np.int64)))
        if known != epoch:
            numbers = np.empty(0, np.int64)
        fresh = read(int(numbers[-1]) if len(numbers) else 0)
        if len(fresh):
            numbers = np.concatenate([numbers, fresh])
        self._kept[key] = (epoch, numbers)
        self._kept.move_to_end(key)
        while len(self._kept) > self._num_kept:
            self._kept.popitem(last=False)
        return numbers


class Database:
    """One open database file (or ":memory:"). Safe to use from several threads; calls take turns."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self.in_memory = self.path == ":memory:"
        self.read_only = False
        self._lock = threading.RLock()
        self._depth = 0
        self._allowed = Growing(8)
        self.postings = Growing(64)
        if not self.in_memory:
            self.path = str(Path(self.path).expanduser().absolute())
            if os.path.isdir(self.path):
                raise InvalidInput(f"path: {self.path} is a folder; give the name of a file.")
            parent = os.path.dirname(self.path)
            if not os.path.isdir(parent):
                raise InvalidInput(f"path: the folder {parent} does not exist; create it first.")
        with translated(self.path):
            self._connect()
            self._migrate()
        self.uuid = self.get_state("uuid") or ""

    def _connect(self) -> None:
        exists = not self.in_memory and os.path.exists(self.path)
        self.read_only = exists and not (
            os.access(self.path, os.W_OK) and os.access(os.path.dirname(self.path), os.W_OK)
        )
        options: dict[str, Any] = {"timeout": BUSY_TIMEOUT_S, "isolation_level": None, "check_same_thread": False}
        if self.read_only:
            quoted = Path(self.path).as_uri()
            self._connection = sqlite3.connect(f"{quoted}?mode=ro", uri=True, **options)
            try:
                self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.OperationalError:
                self._connection.close()
                self._connection = sqlite3.connect(f"{quoted}?immutable=1", uri=True, **options)
        else:
            self._connection = sqlite3.connect(self.path, **options)
        self._connection.create_function("casefold", 1, lambda text: text and text.casefold(), deterministic=True)
        run = self._connection.execute
        if not self.read_only:
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
            run("PRAGMA secure_delete = ON")
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA cache_size = -65536")
        run("PRAGMA temp_store = MEMORY")

    def _migrate(self) -> None:
        """Apply the numbered scripts that this file has not seen; each in one transaction."""
        folder = resources.files("recollect.store.migrations")
        scripts = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(scripts):
            self._connection.close()
            raise Conflict(
                f"database {self.path}: written by a newer recollect (schema {version}, this one knows {len(scripts)}); "
                "upgrade recollect."
            )
        if version == len(scripts):
            return
        if version == 0 and self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            current = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if current == 0:
                self._connection.close()
                raise Conflict(f"database {self.path}: holds the tables of another program; choose another path.")
        for number, name in enumerate(scripts, start=1):
            with self.transaction():
                if self._connection.execute("PRAGMA user_version").fetchone()[0] >= number:
                    continue
                for statement in _statements((folder / name).read_text("utf-8")):
                    self._connection.execute(statement)
                if number == 1:
                    self.set_state("uuid", uuid.uuid4().hex)
                    self.set_state("epoch", "0")
                self._connection.execute(f"PRAGMA user_version = {number}")

    def close(self) -> None:
        """Close the file. Further calls fail."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: committed and durable when the block ends, rolled back when it raises. May be nested."""
        with self._lock:
            if self._depth:
                yield
                return
            with translated(self.path):
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                with translated(self.path):
                    yield
                    self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads that see the same state of the database."""
        with self._lock:
            if self._depth:
                yield
                return
            with translated(self.path):
                self._connection.execute("BEGIN")
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
                self._connection.execute("COMMIT")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        """All rows of one statement."""
        with self._lock, translated(self.path):
            return self._connection.execute(sql, values).fetchall()

    def rows_in(self, sql: str, values: Iterable[Any], before: Sequence[Any] = ()) -> list[tuple]:
        """Rows of a statement with `IN ({})`, in the order of its index, not of the values.

        Numbers are handed over as one JSON list, so that the statement is the same for any count of them and prepared once;
        anything else in slices that fit SQLite's limit on parameters.
        """
        items, found = list(values), []
        if items and isinstance(items[0], int):
            return self.rows(sql.format("SELECT value FROM json_each(?)"), [*before, json.dumps(items)])
        for start in range(0, len(items), _MAX_VARIABLES):
            part = items[start : start + _MAX_VARIABLES]
            found += self.rows(sql.format(",".join("?" * len(part))), [*before, *part])
        return found

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        with self._lock, translated(self.path):
            return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values."""
        with self._lock, translated(self.path):
            self._connection.executemany(sql, values)

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
        self.set_state("epoch", str(int(self.get_state("epoch") or 0) + 1))

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
                texts.append((seq, episode.text, f"u{user}"))
                embeddings += self.insert_chunk_rows("episode", seq, item.chunks)
                counts.setdefault(user, Counter()).update(set(item.terms.tolist()))
                total = totals.setdefault(user, [0, 0])
                total[0] += 1
                total[1] += len(item.terms)
                if episode.speaker:
                    voices[user, episode.speaker] += 1
                added += 1
            self.run_many("INSERT INTO episodes_fts (rowid, text, owner) VALUES (?, ?, ?)", texts)
            self.run_many("INSERT INTO embeddings VALUES (?, ?, ?)", embeddings)
            self.count(counts, totals, voices, sign=1)
        return added

    def insert(self, sql: str, values: Sequence[Any]) -> int:
        """Insert one row; its number."""
        with self._lock:
            return self._connection.execute(sql, values).lastrowid or 0

    def insert_chunk_rows(self, owner: str, seq: int, chunks: Sequence[Chunk]) -> list[tuple[int, bytes, bytes | None]]:
        """Insert the chunks of a record; returns the embedding rows to insert."""
        rows = []
        for chunk in chunks:
            sql = f"INSERT INTO chunks ({owner}, first, last) VALUES (?, ?, ?)"
            id_ = self.insert(sql, (seq, chunk.first, chunk.last))
            if chunk.vector is not None:
                rows.append((id_, chunk.vector, chunk.tokens))
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
        upsert = "INSERT INTO {0} VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET num_episodes = num_episodes + excluded.num_episodes"
        self.run_many(
            upsert.format("term_counts"),
            ((user, term, sign * n) for user, counter in terms.items() for term, n in sorted(counter.items())),
        )
        self.run_many(upsert.format("speakers"), ((user, name, sign * n) for (user, name), n in voices.items()))
        if sign < 0:
            for table in ("term_counts", "speakers"):
                self.run_many(f"DELETE FROM {table} WHERE user = ? AND num_episodes <= 0", ((user,) for user in totals))

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

    def allowed_chunks(self, filter_: Filter) -> np.ndarray | None:
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

    def size_bytes(self) -> int:
        """Bytes of the database file and its log."""
        if self.in_memory:
            return self.rows("PRAGMA page_count")[0][0] * self.rows("PRAGMA page_size")[0][0]
        return sum(os.path.getsize(self.path + end) for end in ("", "-wal") if os.path.exists(self.path + end))


def _statements(script: str) -> Iterator[str]:
    """The statements of an SQL script, one at a time (executescript would commit the open transaction)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


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
