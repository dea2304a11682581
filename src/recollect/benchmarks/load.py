"""A server under load: many clients that add and recall at once against a full database, and then kill -9.

`recollect serve` runs as a process of its own, as anybody runs it. Each client keeps one connection and sends requests one
after the other: one in four is a recall, the others add a memory. After it, every memory that was acknowledged must be
there. Then the same load goes on until the server is killed with SIGKILL, and again everything acknowledged must be there,
and the database must verify.

The database is filled beforehand with replayed embeddings (see speed.py); what the clients add and ask is really embedded.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import recollect
from recollect.benchmarks import speed
from recollect.benchmarks.provenance import provenance
from recollect.errors import InvalidInput, StorageFailed, Unavailable
from recollect.store.embedders import make_embedder

RECALLS = 4  # one request of so many is a recall
START_S = 60.0  # for the server to answer
Progress = Callable[[str], None]


def run(
    num_memories: int = 100_000,
    num_clients: int = 64,
    seconds: float = 30.0,
    database: str | None = None,
    embedder: str | None = None,
    progress: Progress = lambda what: None,
) -> dict[str, Any]:
    """Fill a database, load a server on it for `seconds`, check, kill the server under load, check; one JSON object.

    database: None for a SQLite file in a temporary folder; else the address of an empty PostgreSQL database.
    Raises Unavailable when the server does not start, StorageFailed when something acknowledged is missing.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = database or str(Path(folder) / "memory.db")
        progress(f"storing {num_memories:,} memories")
        filled = fill(place, num_memories, embedder, progress)
        numbers = count(num_memories)
        acknowledged: set[str] = set()
        server, address = start(place, Path(folder) / "server.log")
        try:
            progress(f"{num_clients} clients for {seconds:.0f} s")
            calm = asyncio.run(_load(address, num_clients, seconds, numbers, acknowledged))
            missing = _missing(place, acknowledged)
            progress("killing the server under load")
            killed: set[str] = set()

            async def until_killed() -> None:
                load = asyncio.create_task(_load(address, num_clients, seconds, numbers, killed))
                await asyncio.sleep(min(5.0, seconds / 2))
                server.send_signal(signal.SIGKILL)
                await load

            asyncio.run(until_killed())
        finally:
            server.kill()
            server.wait()
        lost = _missing(place, acknowledged | killed)
        progress("verifying")
        with recollect.open(place) as memory:
            clean = memory.verify().clean
    if missing or lost or not clean:
        raise StorageFailed(
            f"load: {missing} acknowledged memories were missing after the load, {lost} after the kill, and the database "
            f"{'verifies' if clean else 'does not verify'}."
        )
    return {
        "benchmark": "load",
        "database": "postgresql" if database else "sqlite",
        "num_memories": num_memories,
        "num_clients": num_clients,
        "seconds": seconds,
        "embedder": filled,
        **calm,
        "acknowledged": len(acknowledged),
        "acknowledged_before_kill": len(killed),
        "missing": missing,
        "lost_by_kill": lost,
        "verified": clean,
        "total_seconds": round(time.perf_counter() - began, 1),
        **provenance(),
    }


class _Filling(speed.Replay):
    """Replayed embeddings in a database that goes on with the real embedder."""

    @property
    def name(self) -> str:
        return self.real.name


def check_empty(place: str) -> None:
    """Raise InvalidInput unless a database can be opened and holds nothing; as `recollect.open` does when it cannot."""
    with recollect.open(place) as memory:
        if memory.engine.db.rows("SELECT 1 FROM users LIMIT 1"):
            raise InvalidInput("postgres: this database holds memories; name an empty one.")


def fill(place: str, number: int, embedder: str | None, progress: Progress) -> str:
    """Store `number` memories with replayed embeddings; the embedder's name."""
    real = make_embedder(embedder)
    replay = _Filling(real, [speed.text(n) for n in range(min(number, speed.REAL_TEXTS))])
    with recollect.open(place, embedder=replay) as memory:
        items = ({"text": speed.text(n), "session": f"day {n // 50}"} for n in range(number))
        done = 0

        def told(some: int) -> None:
            nonlocal done
            done += some
            progress(f"stored {done:,} of {number:,} memories")

        memory.add_many(items, progress=told)
        memory.recall("Where was the kiln?", 1)  # brings the index up to date
    return real.name


def start(place: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """`recollect serve` on a free port, and its address, once it answers. Raises Unavailable."""
    import httpx2

    words = ["-m", "recollect.cli.main", "serve", "--port", "0", "--rate", "1000000", "--concurrency", "1024"]
    with log.open("wb") as file:
        server = subprocess.Popen([sys.executable, *words, "--db", place], stderr=file, stdout=subprocess.DEVNULL)
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        if found := re.search(r"http://\S+?(?=,)", log.read_text()):
            try:
                if httpx2.get(f"{found[0]}/healthz").status_code == 200:
                    return server, found[0]
            except httpx2.TransportError:
                pass
        time.sleep(0.05)
    server.kill()
    raise Unavailable(f"server: it did not answer within {START_S:.0f} s; `recollect serve` tells why.")


async def _load(
    address: str, num_clients: int, seconds: float, numbers: count[int], acknowledged: set[str]
) -> dict[str, Any]:
    """Let the clients work; throughput, latencies by kind of request in ms, and errors by status."""
    import httpx2

    took: dict[str, list[float]] = {"add": [], "recall": []}
    errors: dict[str, int] = {}
    until = time.perf_counter() + seconds
    limits = httpx2.Limits(max_connections=num_clients, max_keepalive_connections=num_clients)
    async with httpx2.AsyncClient(base_url=address, limits=limits, timeout=60) as http:

        async def client(own: int) -> None:
            for turn in count(own):
                if time.perf_counter() >= until:
                    return
                number, kind = next(numbers), "recall" if turn % RECALLS == 0 else "add"
                if kind == "recall":
                    path, body = "/v1/recall", {"query": speed.question(number), "k": 10}
                else:
                    path, body = "/v1/episodes", {"text": speed.text(number), "session": f"client {own}"}
                start = time.perf_counter()
                try:
                    reply = await http.post(path, json=body)
                except httpx2.TransportError as error:
                    errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
                    return
                took[kind].append(time.perf_counter() - start)
                if reply.status_code >= 400:
                    errors[str(reply.status_code)] = errors.get(str(reply.status_code), 0) + 1
                elif kind == "add":
                    acknowledged.add(reply.json()["id"])

        await asyncio.gather(*(client(own) for own in range(num_clients)))
    return {
        "requests_per_s": round(sum(map(len, took.values())) / seconds, 1),
        "errors": errors,
        **{kind: _spread(values) | {"per_s": round(len(values) / seconds, 1)} for kind, values in took.items()},
    }


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{share}_ms": round(1000 * float(np.percentile(values, share)), 1) for share in (50, 95, 99)}


def _missing(place: str, ids: set[str]) -> int:
    """How many of these episodes are not in the database."""
    with recollect.open(place) as memory:
        stored = memory.engine.db.episodes_by_id(ids)
    return len(ids - set(stored))


def show(results: list[dict[str, Any]], console: Any) -> None:
    """Print a table, one line for each run and kind of request."""
    from rich.table import Table

    table = Table("database", "request", "a second", "p50 ms", "p95 ms", "p99 ms", "errors")
    for result in results:
        for kind in ("add", "recall"):
            own = result[kind]
            spread = [
                f"{own[f'p{share}_ms']:,.0f}" if own.get(f"p{share}_ms") is not None else "" for share in (50, 95, 99)
            ]
            table.add_row(result["database"], kind, f"{own['per_s']:.1f}", *spread, str(sum(result["errors"].values())))
    console.print(table)
    first = results[0]
    console.print(
        f"{first['num_clients']} clients for {first['seconds']:.0f} s on {first['num_memories']:,} memories. Acknowledged and "
        "there after the load and after kill -9: "
        + ", ".join(
            f"{each['acknowledged'] + each['acknowledged_before_kill']:,} ({each['database']})" for each in results
        )
        + "."
    )
