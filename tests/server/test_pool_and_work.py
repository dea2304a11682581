"""The open memories and the threads of a server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from recollect.config import load_settings
from recollect.errors import InvalidInput, StorageFailed, Unavailable
from recollect.server.pool import Memories
from recollect.server.problems import Refused
from recollect.server.work import Workers

BACKENDS = ("sqlite", "postgres")


@pytest.fixture
def memories(place):
    made = Memories(load_settings(db=str(place), embedder="hashing"), None, num_open=2)
    yield made
    made.close()


def test_one_memory_a_place_and_few_open(memories):
    with memories.lease("ana") as first, memories.lease("ana") as second, memories.lease("ana", "helper") as third:
        assert first is second
        assert third is not first
        assert third.agent == "helper"
        assert first.engine.embedder is third.engine.embedder
        with memories.lease("bo"), memories.lease("cy"):
            first.add("still open while in use")
    with memories.lease("bo"):
        pass
    with pytest.raises(StorageFailed):
        first.stats()
    with memories.lease("ana") as again:
        assert again.stats().num_episodes == 1


def test_many_users_at_a_time(memories):
    def use(number: int) -> None:
        with memories.lease(f"user {number % 7}") as memory:
            memory.add(f"number {number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(42)))
    for user in range(7):
        with memories.lease(f"user {user}") as memory:
            assert memory.stats().num_episodes == 6


def test_a_method_of_a_request_is_not_remembered(memories):
    with memories.lease("ana", None, "scm") as memory:
        assert memory.method.name == "scm"
    with memories.lease("ana") as memory:
        assert memory.method.name == "episodic"
    with pytest.raises(InvalidInput, match="method"), memories.lease("ana", None, "none"):
        pass


def test_a_memory_that_ends_with_the_process_is_not_served():
    with pytest.raises(InvalidInput, match="db"):
        Memories(load_settings(db=":memory:"), None)


def test_late_calls_go_on_and_the_end_waits_for_them():
    done: list[str] = []

    def slow(name: str) -> str:
        time.sleep(0.3)
        done.append(name)
        return name

    async def run() -> None:
        workers = Workers(timeout_s=0.05, num_waiting=2)
        assert await workers.run(lambda: 5) == 5
        with pytest.raises(Refused) as late:
            await workers.run(lambda: slow("late"))
        assert late.value.status_code == 504
        with pytest.raises(RuntimeError, match="own"):
            await workers.run(_raise)
        workers.in_background(workers.run_to_end(lambda: slow("background")))
        long = asyncio.ensure_future(workers.run_long(lambda: slow("long")))
        await asyncio.sleep(0)
        long.cancel()
        workers.check()
        await workers.stop()
        assert sorted(done) == ["background", "late", "long"]
        with pytest.raises(Unavailable):
            workers.check()

    asyncio.run(run())


def _raise() -> None:
    raise RuntimeError("own")


def test_too_many_waiting_calls_are_refused():
    go = threading.Event()

    async def run() -> None:
        workers = Workers(timeout_s=5, num_waiting=1)
        first = asyncio.ensure_future(workers.run(go.wait))
        await asyncio.sleep(0.01)
        with pytest.raises(Refused) as busy:
            await workers.run(lambda: None)
        assert busy.value.status_code == 503
        go.set()
        assert await first
        await workers.stop()

    asyncio.run(run())


def test_commands_that_do_not_serve_load_no_server():
    code = (
        "import sys, recollect.cli.main; print([name for name in ('fastapi', 'uvicorn', 'mcp', 'starlette', 'httpx2', "
        "'prometheus_client') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
