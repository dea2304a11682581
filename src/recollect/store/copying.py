"""Copying a memory from a SQLite file into PostgreSQL: every table, ids and vectors and all, whole or not at all.

One transaction on the target, from one snapshot of the source. Rows keep their numbers, so that links between them hold and
what methods derived need not be derived again; only the words of the full-text index are made anew, since the two databases
keep them differently. At the end the rows of every table are counted on both sides. An unfinished change of embedder is not
copied, nor are the keys of a server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from recollect.errors import Conflict, InvalidInput, StorageFailed
from recollect.store.database import Database, is_server
from recollect.store.postgres import TABLES, PostgresDatabase
from recollect.store.sqlite import SqliteDatabase

BATCH = 500
_OWN = ("next_chunks", "erasing", "state")  # of each database
COPIED = tuple(table for table in TABLES if table not in _OWN)
_TEXTS = {"episodes": "e.text", "notes": "coalesce(e.key, e.text)"}
_STATE = ("embedder", "embedder_spec", "method", "epoch")
_SEQUENCES = {"users": "ref", "sessions": "ref", "runs": "ref", "episodes": "seq", "notes": "seq"}


def sqlite_to_postgres(
    source: str | os.PathLike[str],
    target: str,
    progress: Callable[[str, int, int], None] = lambda table, done, total: None,
) -> dict[str, int]:
    """Copy the memory in the file `source` to the address `target`; the number of rows of each table.

    progress: called with a table, how many of its rows are copied, and how many there are.
    Raises InvalidInput, Conflict when the target holds anything, StorageFailed, also when counts differ, and Unavailable. The
    target is unchanged then.
    """
    if not is_server(target):
        raise InvalidInput("target: is no address of PostgreSQL; write it as postgresql://user@host/database.")
    if is_server(source) or not Path(source).expanduser().is_file():
        raise InvalidInput(f"source: {os.fspath(source)!r:.200} is no file; give the file of a memory.")
    one = SqliteDatabase(source)
    try:
        other = PostgresDatabase(target)
        try:
            with one.snapshot(), other.transaction():
                counts = _copy(one, other, progress)
            other.refresh()
        finally:
            other.close()
    finally:
        one.close()
    return counts


def _copy(one: SqliteDatabase, other: PostgresDatabase, progress: Callable[[str, int, int], None]) -> dict[str, int]:
    held = next((table for table in COPIED if _count(other, table)), None)
    if held is not None or other.get_state("embedder") is not None:
        raise Conflict(f"target: {other.path} is not empty (it has {held or 'an embedder'}); copy into a new database.")
    other.run("SET CONSTRAINTS ALL DEFERRED")
    counts = {table: _count(one, table) for table in COPIED}
    for table in COPIED:
        done = 0
        columns = [row[1] for row in one.rows(f"PRAGMA table_info({table})")]
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for rows in _batches(one, table, columns):
            if "vector" in columns:
                place = columns.index("vector")
                rows = [(*row[:place], other.as_vector(row[place]), *row[place + 1 :]) for row in rows]
            other.run_many(insert, rows)
            done += len(rows)
            progress(table, done, counts[table])
    for table, text in _TEXTS.items():
        last = 0
        while rows := one.rows(
            f"SELECT e.seq, {text}, s.user FROM {table} e JOIN sessions s ON s.ref = e.session WHERE e.seq > ? "
            f"ORDER BY e.seq LIMIT {BATCH}",
            (last,),
        ):
            other.texts.insert(table, rows)  # type: ignore[arg-type]
            last = rows[-1][0]
    for key in _STATE:
        other.set_state(key, one.get_state(key))
    given = dict(one.rows("SELECT name, seq FROM sqlite_sequence"))
    for table, column in _SEQUENCES.items():
        last = max(given.get(table, 0), one.rows(f"SELECT coalesce(max({column}), 0) FROM {table}")[0][0])
        other.rows("SELECT setval(pg_get_serial_sequence(?, ?), ?)", (f"recollect.{table}", column, max(last, 1)))
    other.rows("SELECT setval('chunk_ids', ?)", (max(given.get("chunks", 0), 1),))
    wrong = [f"{table} has {_count(other, table)} of {n}" for table, n in counts.items() if _count(other, table) != n]
    wrong += [
        f"{table}_words has {n} of {counts[table]}"
        for table in _TEXTS
        if (n := _count(other, f"{table}_words")) != counts[table]
    ]
    wrong += [f"{key} differs" for key in _STATE if other.get_state(key) != one.get_state(key)]
    if wrong:
        raise StorageFailed(
            f"target: {'; '.join(wrong)}; nothing was copied, check the source with `recollect verify`."
        )
    return counts


def _batches(db: SqliteDatabase, table: str, columns: list[str]) -> Iterator[list[tuple]]:
    """All rows of a table, in the order of its key."""
    key = [row[1] for row in sorted(db.rows(f"PRAGMA table_info({table})"), key=lambda row: row[5]) if row[5]]
    names, order = ", ".join(columns), ", ".join(key)
    last: tuple = ()
    while True:
        after = f"WHERE ({order}) > ({', '.join('?' * len(key))})" if last else ""
        rows = db.rows(f"SELECT {names} FROM {table} {after} ORDER BY {order} LIMIT {BATCH}", last)
        if not rows:
            return
        yield rows
        last = tuple(rows[-1][columns.index(column)] for column in key)


def _count(db: Database, table: str) -> int:
    return db.rows(f"SELECT count(*) FROM {table}")[0][0]
