"""The database in PostgreSQL, in the schema `recollect`, which several servers may read and write at once.

Memories of one process on one address share a few connections. A statement, a snapshot or a transaction takes one of them
for as long as it lasts and tells it the user (`recollect.user`), which row-level security goes by: a session sees that
user's rows and no others, unless it takes care of the whole database (`everyone`). That holds for every role but a superuser
or one with BYPASSRLS, so give the servers a plain role.

Transactions that write for one user take turns by an advisory lock, so that none sees a row with a larger number before one
with a smaller number, and none waits for another in a ring. Vectors are pgvector's `halfvec`, `vector` where pgvector is
older than 0.7. Needs psycopg 3 and psycopg_pool: `pip install "recollect[postgres]"`.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from recollect.errors import StorageFailed
from recollect.store.database import Database, shown
from recollect.store.postgres_connections import (
    MAX_CONNECTIONS,
    Vector,
    adapt,
    connect,
    driver,
    give_back,
    lend,
    translated,
)
from recollect.store.postgres_schema import extension, place, prepare
from recollect.store.postgres_text import WordIndex
from recollect.store.postgres_vectors import GRAPHS, StoredVectors
from recollect.store.views import Filter, Selection

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg_pool import ConnectionPool

EF_SEARCH = 200  # that HNSW looks at: as many as the first stage of a recall asks for
TABLES = (  # in an order in which each comes after those that it refers to
    *("users", "sessions", "runs", "episodes", "notes", "note_sources", "links", "derivations", "underived"),
    *("term_counts", "speakers", "chunks", "embeddings", "next_chunks", "erasing", "state"),
)
_WORDS = ("episodes_words", "notes_words")
_ARRAYS = {str: "text", bytes: "bytea", object: "bigint"}  # of values to look for
_NUMBERED = {"episodes": "seq", "notes": "seq", "chunks": "id", "runs": "ref"}
_WHOLE = 0x7265636F6C6C6563  # the advisory lock on all users
_SCRUB = _WHOLE + 1  # and of who frees space


@lru_cache(maxsize=4096)
def dialect(sql: str) -> bytes:
    """A statement of the shared code as psycopg and PostgreSQL read it."""
    sql = sql.replace("%", "%%").replace("?", "%s")
    sql = re.sub(r'(?<![.\w"])user(?!["\w])', '"user"', sql)
    return sql.replace("casefold(", "folded(").replace("CROSS JOIN", "JOIN").encode()


class PostgresDatabase(Database):
    """One database on a PostgreSQL server. Safe to use from several threads, which read and write side by side."""

    def __init__(self, url: str):
        """url: `postgresql://user@host:port/database`, with what else libpq understands. Raises StorageFailed, Unavailable."""
        super().__init__()
        self._psycopg = driver()
        self.url, self.path = url, shown(url)
        self.texts = WordIndex(self)
        self._local = threading.local()
        self._pool: ConnectionPool | None = None
        with self.translated():
            with connect(url) as connection:
                self.read_only = connection.execute("SHOW transaction_read_only").fetchone() == ("on",)
                self.vector_type = prepare(connection, self.path)
            self._pool = lend(url, self.configure)
        self.uuid = self.get_state("uuid") or ""

    def configure(self, connection: Connection) -> None:
        """Set up a new connection of the pool."""
        connection.execute(
            f"SET search_path = recollect, {place(connection)}, public; SET synchronous_commit = on; SET jit = off".encode()
        )
        if extension(connection) >= (0, 8):
            connection.execute("SET hnsw.iterative_scan = strict_order")
        connection.execute(f"SET hnsw.ef_search = {EF_SEARCH}".encode())
        adapt(connection, self.vector_type)

    def close(self) -> None:
        """Give the connections back."""
        pool, self._pool = self._pool, None
        if pool is not None:
            give_back(self.url)

    def translated(self) -> AbstractContextManager[None]:
        """A block whose errors of PostgreSQL become recollect's."""
        return translated(self.url)

    # Statements

    @contextmanager
    def _begun(self, begin: str) -> Iterator[Connection]:
        """This thread's connection within a transaction; one that is under way is joined."""
        held = getattr(self._local, "connection", None)
        if held is not None:
            yield held
            return
        if self._pool is None:
            raise StorageFailed(f"database {self.path}: is closed.")
        connection = self._taken(begin)
        self._local.connection = connection
        try:
            yield connection
            with self.translated():
                connection.execute("COMMIT")
        except BaseException:
            with suppress(self._psycopg.Error):
                connection.rollback()
            raise
        finally:
            self._local.connection = None
            self._pool.putconn(connection)

    def _taken(self, begin: str) -> Connection:
        """A connection on which a transaction has begun; one that the server has closed meanwhile is passed over."""
        statement = f"{begin}; {self._told()}".encode()
        with self.translated():
            assert self._pool is not None
            for _ in range(MAX_CONNECTIONS + 1):
                if not self._pool.get_stats()["pool_size"]:
                    self._look()
                connection = self._pool.getconn()
                try:
                    connection.execute(statement, prepare=False)
                    return connection
                except BaseException as error:
                    broken = isinstance(error, self._psycopg.OperationalError) and connection.broken
                    self._pool.putconn(connection)
                    if not broken:
                        raise
                self._look()
            raise self._psycopg.OperationalError("every connection was closed by the server")

    def _look(self) -> None:
        """See that the server answers, lest the pool waits for it and then cannot say why."""
        connect(self.url).close()

    def _told(self) -> str:
        """What a transaction is told first: its user, or that it takes care of all."""
        everyone = self.bound is None or getattr(self._local, "everyone", False)
        user = self._psycopg.sql.quote(self.bound or "")
        return (
            f"SELECT set_config('recollect.user', {user}, true), "
            f"set_config('recollect.everyone', '{'on' if everyone else 'off'}', true)"
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: committed and durable when the block ends, rolled back when it raises. May be nested.

        One that begins within a snapshot belongs to it.
        """
        if self.bound is None or getattr(self._local, "everyone", False):
            lock = f"SELECT pg_advisory_xact_lock({_WHOLE})"
        else:
            lock = f"SELECT pg_advisory_xact_lock_shared({_WHOLE}), pg_advisory_xact_lock({_number(self.bound)})"
        with self._begun(f"BEGIN; {lock}"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads that see the same state of the database."""
        with self._begun("BEGIN ISOLATION LEVEL REPEATABLE READ"):
            yield

    @contextmanager
    def everyone(self) -> Iterator[None]:
        """A block that sees the records of all users. A transaction that begins in it keeps all others from writing."""
        before = getattr(self._local, "everyone", False)
        self._local.everyone = True
        self._tell_again()
        try:
            yield
        finally:
            self._local.everyone = before
            self._tell_again()

    def _tell_again(self) -> None:
        held = getattr(self._local, "connection", None)
        if held is not None and held.info.transaction_status == self._psycopg.pq.TransactionStatus.INTRANS:
            held.execute(self._told().encode())

    @contextmanager
    def claim(self, work: str, user: str) -> Iterator[bool]:
        """A block that does some work of a user; False where another server, or another thread here, is at it.

        The claim is the lock on a row of `work`, held by a connection of its own: it ends with the process that holds it.
        """
        if getattr(self._local, "connection", None) is not None or self.read_only:
            yield True
            return
        with self.transaction():
            self.run("INSERT INTO work VALUES (?, ?) ON CONFLICT DO NOTHING", (work, self.user(user)))
            ref = self.user(user)
        with self.translated():
            connection = connect(self.url)
        try:
            with self.translated():
                connection.execute(f"BEGIN; {self._told()}".encode())
                found = connection.execute(
                    'SELECT 1 FROM recollect.work WHERE name = %s AND "user" = %s FOR UPDATE SKIP LOCKED', (work, ref)
                ).fetchone()
            yield found is not None
        finally:
            connection.close()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        """All rows of one statement."""
        with self._begun("BEGIN") as connection, self.translated():
            return connection.execute(dialect(sql), tuple(values), binary=True).fetchall()

    def rows_in(self, sql: str, values: Iterable[Any], before: Sequence[Any] = ()) -> list[tuple]:
        """Rows of a statement with `IN ({})`, in the order of its index, not of the values."""
        items = list(values)
        if not items:
            return []
        kind = next(name for type_, name in _ARRAYS.items() if isinstance(items[0], type_))
        return self.rows(sql.format(f"SELECT unnest(?::{kind}[])"), [*before, items])

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        with self._writing() as connection, self.translated():
            return connection.execute(dialect(sql), tuple(values)).rowcount

    def run_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of values, all or none."""
        with self._writing() as connection, self.translated():
            connection.cursor().executemany(dialect(sql), [tuple(row) for row in values])

    def insert(self, sql: str, values: Sequence[Any]) -> int:
        """Insert one row; its number."""
        table = sql.split(maxsplit=3)[2]
        with self._writing() as connection, self.translated():
            numbered = f"{sql} RETURNING {_NUMBERED[table]}"
            found = connection.execute(dialect(numbered), tuple(values)).fetchone()
            return found[0]  # type: ignore[index]

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self.transaction():
            yield self._local.connection

    # What only it can do

    def as_vector(self, data: bytes) -> Any:
        """What is bound for a vector, from its float16 bytes."""
        return Vector(data)

    def open_index(self, embedder_name: str, dim: int) -> StoredVectors:
        """The vectors, which lie in the database itself."""
        return StoredVectors(self, dim)

    def allowed_chunks(self, filter_: Filter) -> Selection:
        """The episodes' chunks that the filter lets through, as a condition for the search itself."""
        return Selection(filter_)

    def add_counts(self, table: str, column: str, counts: Sequence[tuple[int, Any, int]]) -> None:
        """Add to a table of counts in one statement."""
        if counts:
            kind = "text" if column == "speaker" else "bigint"
            self.run(
                f"INSERT INTO {table} SELECT * FROM unnest(?::bigint[], ?::{kind}[], ?::bigint[]) "
                f"{self._ADDED.format(table, column)}",
                [list(values) for values in zip(*counts, strict=True)],
            )

    def last_chunk(self) -> int:
        """The largest chunk id that was given out."""
        return self.rows("SELECT last_value FROM chunk_ids")[0][0]

    def turns(self, spans: Sequence[Sequence[int]], columns: str, where: str, values: Sequence[Any]) -> list[tuple]:
        """Columns of the episodes `e` in any of these spans (session, first position, last position)."""
        if not spans:
            return []
        return self.rows(
            f"SELECT {columns} FROM unnest(?::bigint[], ?::bigint[], ?::bigint[]) p (session, first, last) "
            f"JOIN episodes e ON e.session = p.session AND e.position BETWEEN p.first AND p.last WHERE {where}",
            (*(list(column) for column in zip(*spans, strict=True)), *values),
        )

    def scrub(self, traces: Sequence[str] | None) -> bool:
        """Free the space of what was deleted: `VACUUM` of every table. False where an older transaction still holds some of it.

        Freed space is overwritten when it is used again; what the write-ahead log or a backup holds is not reached.
        """
        if getattr(self._local, "connection", None) is not None:
            return False
        assert self._pool is not None
        with self.translated():
            held: list[str] = []

            def hear(notice: Any) -> None:
                held.extend(re.findall(r"([1-9]\d*) are dead but not yet removable", notice.message_primary or ""))
                held.extend(re.findall(r"([1-9]\d*) are dead but not yet removable", notice.message_detail or ""))

            connection = self._pool.getconn()
            connection.add_notice_handler(hear)
            try:
                with _alone(connection):
                    connection.execute(f"VACUUM (VERBOSE) {', '.join((*TABLES, *_WORDS))}".encode(), prepare=False)
            finally:
                connection.remove_notice_handler(hear)
                self._pool.putconn(connection)
        if held:
            return False
        self.set_state("scrub", None)
        return True

    def refresh(self) -> None:
        """After very many writes: let PostgreSQL look at what is there, and make the vectors' index."""
        assert self._pool is not None
        with self.translated(), self._pool.connection() as connection:
            connection.execute(f"ANALYZE {', '.join((*TABLES, *_WORDS))}".encode(), prepare=False)
        found = self.rows("SELECT vector_dims(vector) FROM embeddings LIMIT 1")
        if found:
            self.open_index("", found[0][0]).build_approximate()

    def num_damaged(self) -> int:
        """Indexes that PostgreSQL holds for invalid."""
        return self.rows(
            "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
            "WHERE c.relnamespace = 'recollect'::regnamespace AND NOT i.indisvalid"
        )[0][0]

    def size_bytes(self) -> int:
        """Bytes of all tables and indexes but the vectors' index."""
        whole = self.rows(
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
            "WHERE relnamespace = 'recollect'::regnamespace AND relkind = 'r'"
        )[0][0]
        return whole - self.index_bytes()

    def index_bytes(self) -> int:
        """Bytes of the vectors' index."""
        return self.rows(
            f"SELECT coalesce(sum(pg_relation_size(('recollect.' || relname)::regclass)), 0)::bigint FROM ({GRAPHS}) graphs"
        )[0][0]


@contextmanager
def _alone(connection: Any) -> Iterator[None]:
    """A block that one client at a time is in, because who waits for a table keeps the other from cutting off its end.

    The lock is asked for and not waited for: a statement that waits would keep what was deleted from being freed. Who holds it
    for a minute may be a client that is cut off; the block is then entered all the same, and takes some seconds more at worst.
    """
    end = time.monotonic() + 60
    while (
        not (got := connection.execute(f"SELECT pg_try_advisory_lock({_SCRUB})").fetchone()[0])
        and time.monotonic() < end
    ):
        time.sleep(0.02)
    try:
        yield
    finally:
        if got and not connection.closed:
            connection.execute(f"SELECT pg_advisory_unlock({_SCRUB})")


def _number(user: str) -> int:
    """The advisory lock of a user."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big", signed=True)
