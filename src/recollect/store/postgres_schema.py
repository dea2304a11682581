"""The schema `recollect` of a PostgreSQL database: made, brought up to date, and looked at."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from recollect.errors import Conflict, Unavailable
from recollect.store.postgres_connections import connect, driver, translated

if TYPE_CHECKING:
    from psycopg import Connection

_LOCK = 0x7265636F6C6C6564  # the advisory lock on the schema


def look(url: str) -> tuple[str, str]:
    """What is at an address, as a sentence, and what to do about it, "" for nothing. Makes nothing. Raises as `recollect.open`."""
    with translated(url), connect(url) as connection:
        server = connection.info.server_version // 10000
        vectors = ".".join(map(str, extension(connection)))
        if not vectors:
            return f"PostgreSQL {server} without pgvector", "let a superuser run `CREATE EXTENSION vector` in it"
        if not version(connection):
            return f"PostgreSQL {server}, pgvector {vectors}, no memory yet; it is made at the first use", ""
        free = connection.execute(
            "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        advice = (
            "use a role that is no superuser and has no BYPASSRLS, so that row-level security holds"
            if free == (True,)
            else ""
        )
        connection.execute("SELECT set_config('recollect.everyone', 'on', false)")
        (episodes, num_bytes) = connection.execute(
            "SELECT count(*), pg_database_size(current_database()) FROM recollect.episodes"
        ).fetchone() or (0, 0)
        return f"PostgreSQL {server}, pgvector {vectors}, {episodes:,} episodes, {num_bytes / 1e6:.1f} MB", advice


def holds_memory(url: str) -> bool:
    """Whether there is a memory at an address; nothing is made. Raises StorageFailed and Unavailable."""
    with translated(url), connect(url) as connection:
        if not version(connection):
            return False
        return bool(connection.execute("SELECT 1 FROM recollect.state WHERE key = 'embedder'").fetchone())


def prepare(connection: Connection, path: str) -> str:
    """Bring the schema up to date, one process at a time; the type that vectors have in it.

    path: what messages call the database. Raises Conflict, also for a schema of another program, and Unavailable.
    """
    scripts = sorted(
        (entry for entry in (resources.files("recollect.store.migrations") / "postgres").iterdir()),
        key=lambda entry: entry.name,
    )
    scripts = [entry for entry in scripts if entry.name.endswith(".sql")]
    if version(connection) < len(scripts):
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            _migrate(connection, scripts, path)
    known = version(connection)
    if known > len(scripts):
        raise Conflict(
            f"database {path}: written by a newer recollect (schema {known}, this one knows {len(scripts)}); "
            "upgrade recollect."
        )
    found = connection.execute(
        "SELECT t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "WHERE a.attrelid = 'recollect.embeddings'::regclass AND a.attname = 'vector'"
    ).fetchone()
    return found[0] if found else "halfvec"


def _migrate(connection: Connection, scripts: Sequence[Any], path: str) -> None:
    known = version(connection)
    if known == 0:
        _create(connection, path)
    kind = "halfvec" if extension(connection) >= (0, 7) else "vector"
    connection.execute(f"SET LOCAL search_path = recollect, {place(connection)}, public".encode())
    for number, script in enumerate(scripts[known:], start=known + 1):
        connection.execute(script.read_text("utf-8").replace("{vector}", kind).encode())
        connection.execute("INSERT INTO recollect.migrations VALUES (%s)", (number,))
    if known == 0:
        connection.execute("INSERT INTO state VALUES ('uuid', %s), ('epoch', '0')", (uuid.uuid4().hex,))


def _create(connection: Connection, path: str) -> None:
    """The extension, the schema and the table of migrations."""
    errors = driver().errors
    if not extension(connection):
        try:
            with connection.transaction():
                connection.execute("CREATE EXTENSION vector")
        except errors.InsufficientPrivilege:
            raise Unavailable(
                f"database {path}: lacks the extension pgvector and this role may not create it; let a superuser run "
                "`CREATE EXTENSION vector` in it once."
            ) from None
        except (errors.UndefinedFile, errors.FeatureNotSupported, errors.UndefinedObject):
            raise Unavailable(
                f"database {path}: its server lacks the extension pgvector; install it (the image pgvector/pgvector "
                "has it), then run `CREATE EXTENSION vector`."
            ) from None
    if connection.execute("SELECT to_regnamespace('recollect')").fetchone() != (None,):
        raise Conflict(f"database {path}: has a schema `recollect` of another program; choose another database.")
    connection.execute("CREATE SCHEMA recollect")
    connection.execute("CREATE TABLE recollect.migrations (number BIGINT PRIMARY KEY)")


def version(connection: Connection) -> int:
    """How many migrations the database has seen."""
    if connection.execute("SELECT to_regclass('recollect.migrations')").fetchone() == (None,):
        return 0
    found = connection.execute("SELECT coalesce(max(number), 0) FROM recollect.migrations").fetchone()
    return found[0] if found else 0


def extension(connection: Connection) -> tuple[int, ...]:
    """The version of pgvector in the database; empty where there is none."""
    found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return tuple(int(part) for part in re.findall(r"\d+", found[0])) if found else ()


def place(connection: Connection) -> str:
    """The schema that pgvector lies in, quoted."""
    found = connection.execute(
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'vector'"
    ).fetchone()
    return found[0] if found else "public"
