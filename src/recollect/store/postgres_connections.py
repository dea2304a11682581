"""Connections to PostgreSQL: the driver, a pool that the memories of one process share, how values travel, errors made plain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.errors import InvalidInput, StorageFailed, Unavailable
from recollect.store.database import VECTOR_DTYPE, shown

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg_pool import ConnectionPool

MAX_CONNECTIONS = 16  # of one process to one address
CONNECT_TIMEOUT_S = 10
WAIT_S = 30  # for one of them
INSTALL = 'pip install "recollect[postgres]"'
_ESCAPE = "\ufdd0"  # no character, and never one of a text's: stands before 0 for NUL, before 1 for itself


def driver() -> Any:
    """The module psycopg. Raises Unavailable where it, or its pool, is not installed."""
    try:
        import psycopg
        import psycopg_pool  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"postgresql: {error.name} is not installed; run `{INSTALL}`.") from None
    return psycopg


def connect(url: str) -> Connection:
    """A connection of its own, in which each statement stands for itself. Raises errors of psycopg."""
    return driver().connect(url, connect_timeout=CONNECT_TIMEOUT_S, autocommit=True)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn PostgreSQL's errors into recollect's, with the way out and without the password."""
    psycopg = driver()
    errors = psycopg.errors
    try:
        yield
    except psycopg.Error as error:
        cause = " ".join(str(error).split())
        for secret in _secrets(url):
            cause = cause.replace(secret, "...")
        if isinstance(error, errors.ProgramLimitExceeded):
            raise InvalidInput(f"text: is longer than PostgreSQL can index ({cause}); shorten it.") from None
        if isinstance(error, errors.InsufficientPrivilege):
            advice = f"its role lacks a right ({cause}); see docs/postgres.md for what it needs"
        elif isinstance(error, errors.ReadOnlySqlTransaction):
            advice = "it is a standby that cannot be written; name the primary"
        elif isinstance(error, errors.DiskFull):
            advice = "the disk is full; free some space and try again, nothing was changed"
        elif isinstance(error, (errors.InvalidPassword, errors.InvalidAuthorizationSpecification)) or (
            "password" in cause
        ):
            advice = "it refused the role or its password; check both in the address, or set PGPASSWORD"
        elif isinstance(error, errors.InvalidCatalogName) or ("does not exist" in cause and "database" in cause):
            advice = "there is no such database; create it with `createdb`"
        elif isinstance(error, psycopg.OperationalError) and not error.sqlstate:
            advice = f"the server does not answer ({cause}); is it running, and is the address right?"
        else:
            advice = cause.rstrip(".")
        raise StorageFailed(f"database {shown(url)}: {advice}.") from None


def _secrets(url: str) -> list[str]:
    """The password of an address, as it stands there and as it is meant."""
    from urllib.parse import parse_qs, unquote, urlsplit

    try:
        parts = urlsplit(url)
        found = [parts.password or "", *parse_qs(parts.query).get("password", [])]
    except ValueError:
        return [url]
    return [secret for word in found if word for secret in (word, unquote(word))]


_pools: dict[str, tuple[Any, int]] = {}
_pools_lock = threading.Lock()


def lend(url: str, configure: Callable[[Connection], None]) -> ConnectionPool:
    """The pool of connections to an address, which is shared; `configure` sets up each new one. Give it back."""
    from psycopg_pool import ConnectionPool

    with _pools_lock:
        pool: Any
        pool, users = _pools.get(url, (None, 0))
        if pool is None:
            options = {"autocommit": True, "connect_timeout": CONNECT_TIMEOUT_S}
            pool = ConnectionPool(
                url,
                kwargs=options,
                min_size=1,
                max_size=MAX_CONNECTIONS,
                configure=configure,
                num_workers=1,
                timeout=WAIT_S,
                reconnect_timeout=1,
                open=True,
            )
        _pools[url] = (pool, users + 1)
        return pool


def give_back(url: str) -> None:
    """One user of the pool less; the last one closes it."""
    with _pools_lock:
        pool, users = _pools.pop(url)
        if users > 1:
            _pools[url] = (pool, users - 1)
            return
    pool.close()


class Vector(bytes):
    """The float16 bytes of a vector, to be bound."""


def adapt(connection: Connection, kind: str) -> None:
    """Let a connection write and read vectors as float16 bytes, and texts that hold NUL, which PostgreSQL's cannot.

    The binary form of a vector is its dimension, a zero and big-endian numbers.
    """
    from psycopg import pq
    from psycopg.adapt import Dumper, Loader
    from psycopg.types import TypeInfo
    from psycopg.types.string import StrDumperUnknown, TextBinaryLoader

    info = TypeInfo.fetch(connection, kind)
    assert info is not None
    number = np.dtype(">f2" if kind == "halfvec" else ">f4")

    class VectorDumper(Dumper):
        format = pq.Format.BINARY
        oid = info.oid

        def dump(self, obj: Any) -> bytes:
            values = np.frombuffer(obj, VECTOR_DTYPE)
            return len(values).to_bytes(2, "big") + b"\0\0" + values.astype(number).tobytes()

    class VectorLoader(Loader):
        format = pq.Format.BINARY

        def load(self, data: Any) -> bytes:
            return np.frombuffer(bytes(data)[4:], number).astype(VECTOR_DTYPE).tobytes()

    class TextDumper(StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            if "\0" in obj or _ESCAPE in obj:
                obj = obj.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")
            return super().dump(obj)

    class TextLoader(TextBinaryLoader):
        def load(self, data: Any) -> Any:
            text = str(super().load(data))
            if _ESCAPE in text:
                text = text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "1", _ESCAPE)
            return text

    adapters = connection.adapters
    adapters.register_dumper(Vector, VectorDumper)
    adapters.register_loader(info.oid, VectorLoader)
    adapters.register_dumper(str, TextDumper)
    adapters.register_loader("text", TextLoader)
