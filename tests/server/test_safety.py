"""No key opens another user's memory, by any route; what was acknowledged survives a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

import recollect
from serving import Served

WORD = "zanzibar"

# What Eve tries at each route, with Ana's ids: (parameters of the address, body). A new route must be added here.
TRIES: dict[tuple[str, str], list[tuple[dict[str, Any], Any]]] = {
    ("get", "/healthz"): [({}, None)],
    ("get", "/metrics"): [({}, None)],
    ("post", "/v1/episodes"): [({}, {"text": "I am Eve.", "source_id": "ana-1", "session": "ana-session"})],
    ("get", "/v1/episodes"): [({}, None), ({"session": "ana-session"}, None), ({"after_id": "EP"}, None)],
    ("post", "/v1/episodes/bulk"): [({}, b'{"text": "I am Eve."}\n{"text": "", "source_id": "ana-1"}')],
    ("post", "/v1/recall"): [({}, {"query": WORD}), ({"agent": "helper", "method": "scm"}, {"query": WORD, "k": 100})],
    ("post", "/v1/answer"): [
        ({}, {"question": f"What is the secret word, {WORD}?"}),
        ({}, {"question": "Who is Ana?"}),
    ],
    ("get", "/v1/records/{id}"): [({"id": "EP"}, None), ({"id": "NO"}, None), ({"id": "%2e%2e"}, None)],
    ("get", "/v1/records/{id}/history"): [({"id": "EP"}, None), ({"id": "NO"}, None)],
    ("get", "/v1/records/{id}/related"): [({"id": "EP"}, None), ({"id": "NO"}, None)],
    ("get", "/v1/latest"): [({}, None), ({"at": "2100-01-01"}, None), ({"after_id": "EP"}, None)],
    ("get", "/v1/sessions"): [({}, None), ({"after": "9000000000000000_1"}, None)],
    ("get", "/v1/timeline"): [({}, None)],
    ("get", "/v1/about"): [({}, None), ({"agent": "helper"}, None)],
    ("get", "/v1/records/{id}/neighbourhood"): [({"id": "EP"}, None), ({"id": "NO"}, None)],
    ("get", "/v1/neighbourhood"): [({}, None), ({"agent": "helper"}, None)],
    ("get", "/v1/notes"): [({}, None), ({"of": "user"}, None), ({"kind": "fact"}, None), ({"after_id": "NO"}, None)],
    ("post", "/v1/notes"): [({}, {"text": "x", "kind": "fact", "sources": ["EP"]})],
    ("post", "/v1/links"): [({}, {"source": "EP", "target": "NO", "relation": "x"})],
    ("post", "/v1/forget"): [
        ({}, {"ids": ["EP"]}),
        ({}, {"ids": ["NO"], "dry_run": True}),
        ({}, {"user": "ana"}),
        ({}, {"session": "ana-session"}),
        ({}, {"query": WORD}),
        ({}, {"before": "2100-01-01"}),
    ],
    ("get", "/v1/stats"): [({}, None), ({"agent": "helper"}, None)],
    ("get", "/v1/file"): [({}, None)],
    ("post", "/v1/derive"): [({}, {"again": True}), ({"method": "scm"}, {"again": True, "retry": True})],
    ("post", "/v1/consolidate"): [({"method": "scm"}, {"dry_run": True}), ({"method": "scm"}, {})],
    ("get", "/v1/consolidations"): [({}, None)],
    ("post", "/v1/consolidations/undo"): [({}, {}), ({}, {"run": 1})],
    ("get", "/v1/export"): [({}, None)],
    ("post", "/v1/import"): [
        ({}, "STOLEN"),
        ({"name": "../memory.db"}, b"x"),
        ({"name": "/etc/passwd"}, b"x,y\n1,2\n"),
    ],
    ("post", "/v1/verify"): [({}, {}), ({}, {"repair": True})],
    ("post", "/v1/reindex"): [({}, None)],
    ("post", "/v1/chat/completions"): [
        ({}, {"messages": [{"role": "user", "content": f"What is the word, {WORD}?"}]}),
        ({}, {"messages": [{"role": "user", "content": "Who is Ana?"}], "recollect": {"session": "ana-session"}}),
        ({"agent": "helper"}, {"messages": [{"role": "user", "content": "again"}], "stream": True, "user": "ana"}),
    ],
    ("get", "/v1/models"): [({}, None)],
    ("post", "/v1/embeddings"): [({}, {"input": "tea"})],
}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A server with Ana's memory."""
    server = Served(tmp_path_factory.mktemp("house") / "memory.db", needs_key=True)
    ana = server.as_key(server.key("ana"))
    said = {"text": f"The secret word is {WORD}.", "speaker": "Ana", "session": "ana-session", "source_id": "ana-1"}
    episode = ana.post("/v1/episodes", json=said).json()["id"]
    note = ana.post("/v1/notes", json={"text": f"Ana's word: {WORD}", "kind": "fact", "sources": [episode]}).json()[
        "id"
    ]
    ana.post("/v1/episodes", params={"agent": "helper"}, json={"text": f"{WORD} again"})
    yield server, ana, episode, note
    server.close()


def test_every_route_is_tried(house):
    document = house[0].client.get("/openapi.json").json()
    routes = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert routes == set(TRIES)


@pytest.mark.parametrize("route", TRIES, ids=lambda route: " ".join(route))
def test_no_route_shows_or_changes_another_users_memory(house, route):
    server, ana, episode, note = house
    before = _records(ana)
    method, path = route
    eve = server.as_key(server.key(f"eve, {method} {path}", "read", "write", "admin"))  # who has said nothing yet
    for params, body in TRIES[route]:
        filled = {name: value.replace("EP", episode).replace("NO", note) for name, value in params.items()}
        place = re.sub(r"\{(\w+)\}", lambda found, filled=filled: filled.pop(found[1]), path)
        content = _fill(body, episode, note, ana)
        asked = content if isinstance(content, bytes) else json.dumps(content).encode()
        for accept in ("application/json", "text/event-stream"):
            reply = eve.request(method, place, params=filled, content=asked, headers={"Accept": accept})
            assert reply.status_code < 500, reply.text
            assert WORD not in _without_echo(reply.text, asked), (params, body)
    assert _records(ana) == before


def _fill(body: Any, episode: str, note: str, ana: httpx2.Client) -> Any:
    """A body with Ana's ids; STOLEN is an export that claims notes and links on Ana's records."""
    if body != "STOLEN":
        return (
            body
            if isinstance(body, bytes)
            else json.loads(json.dumps(body).replace('"EP"', f'"{episode}"').replace('"NO"', f'"{note}"'))
        )
    lines = [json.loads(text) for text in ana.get("/v1/export").text.splitlines()]
    stolen = [lines[0] | {"user": "ana"}, *(text for text in lines if "note" in text or "link" in text)]
    stolen.append({"link": {"source": episode, "target": note, "relation": "mine", "weight": 1.0, "method": "user"}})
    text = "".join(json.dumps(entry) + "\n" for entry in [*stolen, {"end": len(stolen) - 1}])
    return text.replace(WORD, "guess").encode()


def _without_echo(reply: str, asked: bytes) -> str:
    """A reply without what it repeats of the question."""
    return reply if WORD.encode() not in asked else reply.replace(asked.decode(), "")


def _records(client: httpx2.Client) -> list[str]:
    """Everything of a user but the time of the export and what a method has read."""
    return client.get("/v1/export").text.splitlines()[1:]


def test_an_import_marks_no_episode_of_another_user(house):
    server, ana, episode, _ = house
    eve = server.as_key(server.key("eve"))
    scm = {"method": "scm"}
    eve.post("/v1/episodes", params=scm, json={"text": "I am Eve."})
    lines = [json.loads(text) for text in eve.get("/v1/export").text.splitlines()]
    lines[0]["derived"]["scm"]["waiting"] = [[episode, 1, "planted"]]
    reply = eve.post("/v1/import", content="".join(json.dumps(entry) + "\n" for entry in lines))
    assert reply.status_code == 200, reply.text
    assert ana.post("/v1/derive", params=scm, json={}).json()["waiting"] == 0


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("episode", "text", 5),
        ("episode", "text", "\ud800"),
        ("episode", "id", "\0"),
        ("episode", "meta", {"a": float("nan")}),
        ("episode", "agent", 5),
        ("recollect_export", "derived", 5),
        ("recollect_export", "derived", {"scm": {"version": "1"}}),
    ],
)
def test_an_export_of_wrong_types_is_refused(serve, kind, field, value):
    http = serve().client
    http.post("/v1/episodes", json={"text": "I like tea."})
    lines = [json.loads(text) for text in http.get("/v1/export").text.splitlines()]
    (line,) = [entry for entry in lines if kind in entry]
    (line if kind == "recollect_export" else line[kind])[field] = value
    reply = http.post("/v1/import", content="".join(json.dumps(entry) + "\n" for entry in lines))
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["message"].startswith("path: line")


def test_counts_of_others_are_no_users_business(house):
    server, ana, *_ = house
    eve = server.as_key(server.key("eve", "read"))
    before = eve.get("/v1/stats").json()
    ana.post("/v1/episodes", json={"text": "one more"})
    assert eve.get("/v1/stats").json() == before


def _start(db: Path, *words: str) -> tuple[subprocess.Popen, str]:
    """`recollect serve` as a process of its own, and its address."""
    environ = {**os.environ, "RECOLLECT_EMBEDDER": "hashing"}
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "recollect.cli.main",
            "serve",
            "--port",
            "0",
            "--rate",
            "10000",
            "--db",
            str(db),
            *words,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert process.stderr is not None
    found = re.search(r"http://\S+?(?=,)", process.stderr.readline())
    assert found, process.stderr.read()
    threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
    for _ in range(500):
        try:
            httpx2.get(f"{found[0]}/healthz")
            return process, found[0]
        except httpx2.TransportError:
            time.sleep(0.02)
    raise AssertionError("the server did not answer")


def _drain(stream) -> None:
    with stream:
        stream.read()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_was_acknowledged_survives_the_end_of_the_server(tmp_path, end):
    db = tmp_path / "memory.db"
    process, url = _start(db)
    acknowledged: list[str] = []

    def add(worker: int) -> None:
        with httpx2.Client(base_url=url, timeout=10) as client:
            for number in range(10_000):
                try:
                    reply = client.post("/v1/episodes", json={"text": f"worker {worker} says {number}"})
                except httpx2.TransportError:
                    return
                if reply.status_code == 201:
                    acknowledged.append(reply.json()["id"])

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 60:
        time.sleep(0.01)
    process.send_signal(end)
    code = process.wait(30)
    for thread in threads:
        thread.join(30)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: -15, signal.SIGINT: 0}[end]
    with recollect.open(db) as memory:
        assert set(acknowledged) <= {episode.id for episode in memory.episodes()}
        assert memory.verify().clean


def test_another_address_demands_keys(tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "recollect.cli.main",
            "serve",
            "--host",
            "0.0.0.0",
            "--port",
            "0",
            "--db",
            str(tmp_path / "m.db"),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert "recollect keys create" in " ".join(run.stderr.split())
