"""Keys: who may reach a server from elsewhere, each bound to one user.

They lie in a small SQLite file of their own beside the database, `memory.db-keys`, or in a table of the PostgreSQL that the
memory is in: several processes may change them at once, a revoked key is refused at the next request, and neither an export
nor a copy of the memory hands them out. Of a key only a SHA-256 is kept; as its secret is 256 random bits, no slower hash is needed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from recollect.errors import InvalidInput, NotFound, StorageFailed
from recollect.store.checks import MAX_NAME_CHARS, checked_text
from recollect.store.database import Database, is_server, open_database
from recollect.store.records import from_micros, to_micros

SCOPES = ("read", "write", "admin")
PREFIX = "rk_"


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret."""

    id: str
    user: str
    scopes: tuple[str, ...]  # of "read", "write" and "admin"; admin cares for the file, and reads no other user's data
    created_at: datetime


class KeyRing:
    """The keys of the database at `db`. Safe to use from several threads and processes."""

    def __init__(self, db: str | os.PathLike[str]):
        self._shelf = _Table(os.fspath(db)) if is_server(db) else _File(Path(f"{os.fspath(db)}-keys"))

    def close(self) -> None:
        """Close what holds them."""
        self._shelf.close()

    def create(self, user: str, scopes: Iterable[str]) -> tuple[Key, str]:
        """A new key and its secret, `rk_...`, which is nowhere kept. Raises InvalidInput and StorageFailed."""
        user = checked_text(user, "user", MAX_NAME_CHARS)
        wanted = set(scopes)
        for scope in sorted(wanted - set(SCOPES)):
            raise InvalidInput(f"scopes: {scope!r:.40} is not known; choose of {', '.join(SCOPES)}.")
        if not wanted:
            raise InvalidInput(f"scopes: name at least one of {', '.join(SCOPES)}.")
        key = Key(
            id=base64.b32encode(secrets.token_bytes(5)).decode().lower(),
            user=user,
            scopes=tuple(scope for scope in SCOPES if scope in wanted),
            created_at=datetime.now(UTC),
        )
        token = f"{PREFIX}{key.id}_{secrets.token_urlsafe(32)}"
        self._shelf.run(
            "INSERT INTO keys VALUES (?, ?, ?, ?, ?) RETURNING id",
            (key.id, _hash(token), key.user, ",".join(key.scopes), to_micros(key.created_at)[0]),
        )
        return key, token

    def list(self) -> tuple[Key, ...]:
        """All keys, the oldest first."""
        rows = self._shelf.run("SELECT id, user, scopes, created FROM keys ORDER BY created, id")
        return tuple(_key(row) for row in rows)

    def revoke(self, id_: str) -> None:
        """Refuse a key from now on. Raises NotFound."""
        if not self._shelf.run("DELETE FROM keys WHERE id = ? RETURNING id", (id_,)):
            raise NotFound(f"id: there is no key {id_!r:.60}; `recollect keys list` shows those that there are.")

    def find(self, token: str) -> Key | None:
        """The key whose secret this is, or None."""
        id_, _, secret = token.removeprefix(PREFIX).partition("_")
        if not token.startswith(PREFIX) or not secret or not id_.isascii():
            return None
        rows = self._shelf.run("SELECT id, user, scopes, created, hash FROM keys WHERE id = ?", (id_,))
        if not rows or not hmac.compare_digest(rows[0][4], _hash(token)):
            return None
        return _key(rows[0])


class _File:
    """Keys in a SQLite file, which is made with the first of them."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    def run(self, sql: str, values: tuple = ()) -> list[tuple]:
        try:
            if not sql.startswith("INSERT") and not self._path.exists():
                return []
            with self._lock:
                return self._connection().execute(sql, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise StorageFailed(f"keys: {self._path} cannot be read or written ({error}).") from None

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._opened = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
            self._opened.execute("PRAGMA secure_delete = ON")
            self._opened.execute(
                "CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, hash BLOB NOT NULL, user TEXT NOT NULL, "
                "scopes TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID"
            )
        return self._opened


class _Table:
    """Keys in a table of the database on a server."""

    def __init__(self, url: str):
        self._url = url
        self._lock = threading.Lock()
        self._opened: Database | None = None

    def run(self, sql: str, values: tuple = ()) -> list[tuple]:
        with self._lock:
            self._opened = self._opened or open_database(self._url)
        return self._opened.rows(sql, values)

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _key(row: tuple) -> Key:
    return Key(row[0], row[1], tuple(row[2].split(",")), from_micros(row[3]))
