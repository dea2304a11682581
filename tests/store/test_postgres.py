"""What only PostgreSQL can do, or get wrong: many servers, row-level security, migrations, lost connections, clear errors."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import recollect
from recollect.errors import Conflict, InvalidInput, StorageFailed, Unavailable
from recollect.store import postgres, postgres_vectors
from recollect.store.database import exists, is_server, shown
from recollect.store.postgres_schema import look as postgres_look

psycopg = pytest.importorskip("psycopg")
BACKENDS = ("postgres",)


def test_no_role_that_is_bound_by_it_sees_another_users_rows(open_memory, place):
    """Row-level security, tried with plain SQL by the role that owns the tables."""
    for user in ("ana", "bo"):
        memory = open_memory(user=user)
        memory.add(f"The secret of {user} is tea.", speaker=user, session="s")
        (episode,) = memory.episodes()
        note = memory.note("tea", kind="fact", sources=[episode.id])
        memory.link(note.id, episode.id, "says")
    with psycopg.connect(place, autocommit=True) as raw:
        tables = [
            row[0] for row in raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'recollect'").fetchall()
        ]
        for table in set(tables) - {"migrations", "state", "erasing", "keys"}:
            assert raw.execute(f"SELECT count(*) FROM recollect.{table}").fetchone() == (0,), table
        raw.execute("SELECT set_config('recollect.user', 'ana', false)")
        assert raw.execute("SELECT text FROM recollect.episodes").fetchall() == [("The secret of ana is tea.",)]
        for table in ("users", "sessions", "notes", "links", "chunks", "embeddings", "episodes_words", "speakers"):
            seen = raw.execute(f"SELECT count(*) FROM recollect.{table}").fetchone()[0]
            raw.execute("SET recollect.everyone = 'on'")
            assert 0 < seen < raw.execute(f"SELECT count(*) FROM recollect.{table}").fetchone()[0], table
            raw.execute("SET recollect.everyone = 'off'")
        assert raw.execute("UPDATE recollect.episodes SET text = 'x' WHERE text LIKE '%bo%'").rowcount == 0
        assert raw.execute("DELETE FROM recollect.links").rowcount == 1  # her own
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            raw.execute("INSERT INTO recollect.sessions (\"user\", name) SELECT ref + 1, 'x' FROM recollect.users")


def test_a_pooled_connection_forgets_the_user_before(open_memory):
    """Memories of one process share connections; each transaction says anew whose it is."""
    ana, bo = open_memory(user="ana"), open_memory(user="bo")
    ana.add("ana likes tea")
    for _ in range(20):
        assert [episode.text for episode in ana.episodes()] == ["ana likes tea"]
        assert list(bo.episodes()) == []
        assert bo.engine.db.rows("SELECT text FROM episodes") == []
        with bo.engine.db.everyone():
            assert len(bo.engine.db.rows("SELECT text FROM episodes")) == 1


def _migrate(url: str, errors: multiprocessing.Queue) -> None:
    try:
        with recollect.open(url, embedder="hashing", user=f"u{os.getpid()}") as memory:
            memory.add("tea")
    except BaseException as error:
        errors.put(repr(error))
        raise


def test_four_processes_migrate_at_once(postgres):
    with postgres.database(bare=True) as url:
        postgres.admin("CREATE EXTENSION vector", database=url.split("/")[3].split("?")[0])
        context = multiprocessing.get_context("spawn")
        errors = context.Queue()
        workers = [context.Process(target=_migrate, args=(url, errors)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [0] * 4, errors.get() if not errors.empty() else ""
        with recollect.open(url) as memory, memory.engine.db.everyone():
            assert memory.engine.db.rows("SELECT number FROM migrations") == [(1,)]
            assert memory.engine.db.rows("SELECT count(*) FROM episodes") == [(4,)]


def _write(url: str, worker: int, errors: multiprocessing.Queue) -> None:
    try:
        with recollect.open(url, embedder="hashing") as memory:
            for number in range(15):
                memory.add(f"process {worker} wrote line {number}", session=f"p{worker}", at="2024-01-01")
            assert len(memory.recall(f"process {worker}", k=5, session=f"p{worker}")) == 5
            memory.forget(query=f"process {worker} line 3")
    except BaseException as error:
        errors.put(f"{worker}: {error!r}")
        raise


def test_processes_that_write_for_one_user_take_turns(place):
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    workers = [context.Process(target=_write, args=(place, number, errors)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 2, errors.get() if not errors.empty() else ""
    with recollect.open(place) as memory:
        assert memory.verify().problems == ()
        for number in range(2):
            said = [episode.text for episode in memory.episodes(session=f"p{number}")]
            assert said == [f"process {number} wrote line {line}" for line in range(15) if line != 3]


def test_rows_are_numbered_in_the_order_in_which_they_can_be_seen(open_memory):
    """A writer that has numbered a row and not committed keeps the next writer of the same user waiting, not another's."""
    first, second, other = open_memory(), open_memory(), open_memory(user="bo")
    done: list[str] = []
    with first.engine.db.transaction():
        first.engine.db.run("SELECT 1")
        thread = threading.Thread(target=lambda: (second.add("late"), done.append("late")))
        thread.start()
        other.add("of bo")
        time.sleep(0.2)
        assert done == []
        first.add("early")
    thread.join(10)
    assert done == ["late"]
    assert [episode.text for episode in first.episodes()] == ["early", "late"]


def test_work_of_a_user_is_claimed_by_one_server_at_a_time(open_memory):
    one, two, other = open_memory().engine.db, open_memory().engine.db, open_memory(user="bo").engine.db
    with one.claim("derive a-mem", "default") as mine:
        assert mine
        with two.claim("derive a-mem", "default") as also:
            assert not also
        with other.claim("derive a-mem", "bo") as others, two.claim("consolidate a-mem", "default") as another:
            assert others
            assert another
    with two.claim("derive a-mem", "default") as mine:
        assert mine


KILLED = """
import os, sys, recollect
memory = recollect.open(sys.argv[1], embedder="hashing")
number = 0
while True:
    memory.add(f"line {number}", session="s", source_id=str(number))
    os.write(1, f"{number}\\n".encode())
    number += 1
"""


def test_kill_9_of_a_client_loses_nothing_that_was_acknowledged(place, tmp_path: Path):
    with (tmp_path / "told").open("w") as told:
        client = subprocess.Popen([sys.executable, "-c", KILLED, place], stdout=told)
        deadline = time.monotonic() + 60
        while (tmp_path / "told").stat().st_size < 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        client.send_signal(signal.SIGKILL)
        client.wait()
    acknowledged = [line for line in (tmp_path / "told").read_text().split("\n")[:-1] if line]
    assert len(acknowledged) > 20
    with recollect.open(place) as memory:
        assert memory.verify().problems == ()
        stored = [episode.source_id for episode in memory.episodes()]
        assert stored[: len(acknowledged)] == acknowledged
        assert len(stored) <= len(acknowledged) + 1
        memory.add("goes on")


def test_a_crash_of_the_server_loses_nothing_and_the_client_goes_on(postgres, open_memory):
    memory = open_memory()
    postgres.stop()
    postgres.start(durable=True)
    try:
        memory.add("before the crash")
        postgres.stop("immediate")
        memory.close()
        with pytest.raises(StorageFailed, match="does not answer"):
            recollect.open(memory.engine.db.url)
    finally:
        with contextlib.suppress(AssertionError):
            postgres.stop("immediate")
        postgres.start()
    with recollect.open(memory.engine.db.url) as again:
        assert [episode.text for episode in again.episodes()] == ["before the crash"]
        assert again.verify().problems == ()


def test_a_connection_that_the_server_closed_is_replaced(postgres, open_memory):
    memory = open_memory()
    memory.add("tea")
    postgres.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
    assert [hit.text for hit in memory.recall("tea")] == ["tea"]


def test_a_receipt_is_not_complete_while_an_older_transaction_holds_what_was_deleted(open_memory, place):
    memory = open_memory()
    memory.add("tea is green", session="s")
    with psycopg.connect(place) as raw:
        raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        raw.execute("SELECT count(*) FROM recollect.episodes")
        assert not memory.forget(session="s").complete
    assert memory.engine.db.get_state("scrub") is not None
    memory.add("rain", session="t")
    assert memory.forget(session="t").complete


def test_texts_come_back_as_they_were_given(open_memory):
    hostile = ["a\0b", "\ufdd0", "\ufdd00 \ufdd01\0", "100% of 'quotes' \\ \" ?", "\U0001f375" * 50, "user = ? %s"]
    memory = open_memory()
    for text in hostile:
        memory.add(text, speaker=text, session=text, meta={"key": text})
    assert [(e.text, e.speaker, e.session, e.meta["key"]) for e in memory.episodes()] == [
        (text,) * 4 for text in hostile
    ]
    assert memory.verify().problems == ()


def test_a_speaker_is_found_in_any_case(open_memory):
    memory = open_memory()
    memory.add("one", speaker="Stra\u00dfer \u00c4nn")
    assert [hit.text for hit in memory.recall("one", speaker="STRASSER \u00e4NN")] == ["one"]


def test_the_graph_of_vectors_finds_what_a_scan_finds(open_memory, monkeypatch):
    memory, other = open_memory(), open_memory(user="bo")
    words = ["river", "violin", "alpaca", "bakery", "kiln", "harbour", "walnut", "cello", "stairs", "moss"]
    for number, one in enumerate((memory, other)):
        one.add_many(
            {"text": f"{words[n % 10]} {words[n // 10 % 10]} {n}", "session": f"s{n % 3}", "at": "2024-01-01"}
            for n in range(number, 400)
        )

    def found():
        return [
            [hit.id for hit in memory.recall(f"{word} kiln", k=10, session=session)]
            for word in words
            for session in (None, "s1")
        ]

    memory.add_many({"text": f"moss {n}", "at": "2023-01-01"} for n in range(100))
    exact = found()
    assert not memory.engine.index.approximate
    monkeypatch.setattr(postgres_vectors, "EXACT_CHUNKS", 10)
    assert "reindex" in (memory.stats().index_note or "")
    memory.add_many({"text": f"moss {n}", "at": "2023-01-02"} for n in range(100))  # which makes the graph
    assert memory.stats().index_note is None
    plan = "\n".join(
        row[0]
        for row in memory.engine.db.rows(
            f"EXPLAIN SELECT chunk FROM embeddings v WHERE vector_dims(v.vector) = {memory.engine.embedder.dim} "
            f"ORDER BY v.vector::halfvec({memory.engine.embedder.dim}) <#> ? LIMIT 5",
            (memory.engine.db.as_vector(np.zeros(memory.engine.embedder.dim, "<f2").tobytes()),),
        )
    )
    assert memory.engine.index.approximate
    assert "embeddings_hnsw" in plan
    same = sum(len(set(one) & set(two)) for one, two in zip(exact, found(), strict=True))
    assert same >= 0.95 * sum(map(len, exact))


def test_another_embedder_of_another_size_takes_its_place(open_memory):
    memory = open_memory(embedder="hashing")
    memory.add_many({"text": f"line {number} of the tale"} for number in range(30))
    memory.recall("tale")

    class Small:
        name, dim, has_tokens = "small-1", 16, False

        def split(self, text):
            return [(0, len(text))]

        def embed(self, texts, kind):
            from recollect.store.embedders import Embeddings

            rows = [np.eye(16, dtype=np.float32)[len(text) % 16] for text in texts]
            return Embeddings(np.stack(rows))

    assert memory.reindex(embedder=Small()) == 30
    assert memory.verify().problems == ()
    assert len(memory.recall("line 3 of the tale", k=5)) == 5


def test_a_database_in_use_elsewhere_a_newer_one_and_one_of_others_are_told(postgres, place):
    with postgres.database(bare=True) as bare:
        assert not exists(bare)
        with pytest.raises(Unavailable, match="let a superuser run `CREATE EXTENSION vector`"):
            recollect.open(bare)
    recollect.open(place, embedder="hashing").close()
    assert exists(place)
    with psycopg.connect(place, autocommit=True) as raw:
        raw.execute("INSERT INTO recollect.migrations VALUES (99)")
        with pytest.raises(Conflict, match="newer recollect"):
            recollect.open(place)
        raw.execute("DELETE FROM recollect.migrations WHERE number = 99")


def test_passwords_are_never_told(postgres, place):
    name = place.split("/")[3].split("?")[0]
    host = place.split("host=")[1]
    wrong = f"postgresql://locked:wr0ng%2Fsecret@/{name}?host={host}"
    for address in (
        wrong,
        wrong.replace("/m", "/none"),
        f"postgresql://locked@/{name}?host={host}&password=wr0ng%2Fsecret",
    ):
        with pytest.raises(StorageFailed) as told:
            recollect.open(address)
        for text in (str(told.value), repr(told.value.__context__ and told.value.__cause__)):
            assert "wr0ng" not in text
        assert "role or its password" in str(told.value)
    for address, safe in (
        ("postgresql://ana:pw@db.example:5433/memory?sslmode=require", "postgresql://ana@db.example:5433/memory"),
        ("postgres://ana:p@w@[::1]/m", "postgresql://ana@[::1]/m"),
        ("postgresql://h:notaport/x:pw", "postgresql://..."),
    ):
        assert shown(address) == safe
    assert is_server("postgresql://x")
    assert not is_server(Path("postgresql.db"))


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(StorageFailed, match="does not answer"):
        recollect.open("postgresql://127.0.0.1:1/x?connect_timeout=2")
    with pytest.raises((StorageFailed, InvalidInput)):
        recollect.open("postgresql://h/x?nosuchoption=1")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Unavailable, match=r"pip install \"recollect\[postgres\]\""):
        recollect.open("postgresql://h/x")


def test_statements_are_put_into_its_dialect():
    said = postgres.dialect(
        "SELECT s.user, user, u.name FROM users u WHERE user = ? AND casefold(x) LIKE '%a' AND \"user\" = 1"
    )
    assert (
        said
        == b'SELECT s.user, "user", u.name FROM users u WHERE "user" = %s AND folded(x) LIKE \'%%a\' AND "user" = 1'
    )


def test_look_says_what_is_there(postgres, place):
    recollect.open(place, embedder="hashing").close()
    detail, advice = postgres_look(place)
    assert "0 episodes" in detail
    assert advice == ""
    detail, advice = postgres_look(place.replace("app@", "postgres@"))
    assert "no superuser" in advice


def test_two_who_forget_at_once_do_not_wait_for_each_other_for_seconds(open_memory):
    """What is forgotten lies at the end of its tables, which are cut there, for which a table must be nobody else's."""
    memories = [open_memory(), open_memory()]
    for number, memory in enumerate(memories):
        memory.add_many([{"text": f"line {line} of many words " * 20, "session": f"s{number}"} for line in range(100)])
    complete, began = [], time.monotonic()
    threads = [
        threading.Thread(target=lambda memory=memory, n=n: complete.append(memory.forget(session=f"s{n}").complete))
        for n, memory in enumerate(memories)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 4.0
    assert len(complete) == 2  # either may have been held up by the other's open transaction, and its receipt says so
    memories[0].add("rain", session="t")
    assert memories[0].forget(session="t").complete
