"""The database in one SQLite file in WAL mode that several processes read and write.

A write is durable when its transaction returns (`synchronous=FULL`). What is deleted is overwritten with zeros
(`secure_delete`), merged out of the full-text index and truncated out of the write-ahead log.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from recollect.errors import Conflict, InvalidInput, StorageFailed
from recollect.store.database import Database
from recollect.store.fulltext import Fts5
from recollect.store.vectors import VectorIndex

BUSY_TIMEOUT_S = 60.0
_MAX_VARIABLES = 500  # SQLite allows 999 or more host parameters in every build


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


class SqliteDatabase(Database):
    """One open database file (or ":memory:"). Safe to use from several threads; calls take turns."""

    texts: Fts5

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__()
        self.path = os.fspath(path)
        self.in_memory = self.path == ":memory:"
        self.texts = Fts5(self)
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._lock = threading.RLock()
        self._depth = 0
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
        if self._temporary is not None:
            self._temporary.cleanup()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: committed and durable when the block ends, rolled back when it raises. May be nested."""
        with self._lock:
            if self._depth:
                yield
                return
            with translated(self.path):
                self._begin_to_write()
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

    def _begin_to_write(self) -> None:
        """Begin as soon as no other process writes.

        SQLite's own wait looks ten times a second in the end, and starves beside processes that write without a pause.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        with _waiting(self, 0.0):
            while True:
                try:
                    self._connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
                time.sleep(random.uniform(0.001, 0.005))

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

    def insert(self, sql: str, values: Sequence[Any]) -> int:
        """Insert one row; its number."""
        with self._lock:
            return self._connection.execute(sql, values).lastrowid or 0

    def open_index(self, embedder_name: str, dim: int) -> VectorIndex:
        """The vector index in the folder beside the file, or in a temporary one where there can be none."""
        folder = self.path + "-index"
        writable = os.access(folder if os.path.isdir(folder) else os.path.dirname(folder) or ".", os.W_OK)
        if self.in_memory or (self.read_only and not writable):
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="recollect-")
            folder = self._temporary.name
        identity = f"{self.uuid}/{self.get_state('generation') or 0}"
        return VectorIndex(folder, database_uuid=identity, embedder_name=embedder_name, dim=dim)

    def turns(self, spans: Sequence[Sequence[int]], columns: str, where: str, values: Sequence[Any]) -> list[tuple]:
        """Columns of the episodes `e` in any of these spans (session, first position, last position)."""
        return self.rows(
            f"SELECT {columns} FROM json_each(?) p CROSS JOIN episodes e "
            "ON e.session = p.value ->> 0 AND e.position BETWEEN p.value ->> 1 AND p.value ->> 2 "
            f"WHERE {where}",
            (json.dumps(spans), *values),
        )

    def num_damaged(self) -> int:
        """Pages that are damaged, at most 100."""
        return sum(row[0] != "ok" for row in self.rows("PRAGMA integrity_check(100)"))

    def scrub(self, traces: Sequence[str] | None) -> bool:
        """Merge the full-text index, truncate the log, look for what was deleted, and rewrite the file if it is there.

        The file is rewritten too when the texts are not known.
        """
        self.texts.merge()
        clean = self.in_memory or _truncate_log(self)
        if clean and not self.in_memory and (traces is None or _holds(self, traces)):
            self.run("VACUUM")
            clean = _truncate_log(self)
        if clean:
            self.set_state("scrub", None)
            if not self.in_memory:
                _truncate_log(self)
        return clean

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


def _truncate_log(db: SqliteDatabase, wait_s: float = 5.0) -> bool:
    """Move the write-ahead log into the file and cut it to nothing; False when a reader held it for `wait_s`."""
    deadline = time.monotonic() + wait_s
    with _waiting(db, 0.2):
        while db.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


@contextmanager
def _waiting(db: SqliteDatabase, seconds: float) -> Iterator[None]:
    """A block in which a statement waits no longer than this for another process."""
    db.run(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
    try:
        yield
    finally:
        db.run(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")


_SEARCH = """
import json, sys
samples = [bytes.fromhex(sample) for sample in json.load(sys.stdin)]
overlap = max(map(len, samples))
tail = b""
with open(sys.argv[1], "rb") as file:
    while block := file.read(1 << 24):
        if any(sample in tail + block for sample in samples):
            sys.exit(10)
        tail = block[-overlap:]
sys.exit(11)
"""


def _holds(db: SqliteDatabase, traces: Sequence[str]) -> bool:
    """Whether the beginning, the middle or the end of any of these texts still stands somewhere in the file.

    A process of its own reads the file: were it opened and closed in this one, POSIX would drop every lock that SQLite
    holds on it here, and another process could damage it.
    """
    samples = {
        part.encode()
        for text in traces[:500]
        for part in (text[:40], text[len(text) // 2 :][:40], text[-40:])
        if len(part) >= 4
    }
    if not samples:
        return False
    asked = json.dumps([sample.hex() for sample in samples])
    command = [sys.executable, "-I", "-S", "-c", _SEARCH, db.path]
    try:
        found = subprocess.run(command, input=asked, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return True
    return found.returncode != 11
