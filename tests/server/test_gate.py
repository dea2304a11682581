"""Who comes in, how often, with how much, and what the log says of it."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest

from recollect.server.limits import Limits, Rates
from serving import Served


def test_keys_are_demanded_where_the_server_says_so(serve):
    server = serve(needs_key=True)
    assert server.client.get("/healthz").status_code == 200
    refused = server.client.get("/v1/stats")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    token = server.key("ana")
    http = server.as_key(token)
    assert http.post("/v1/episodes", json={"text": "I like tea."}).json()["user"] == "ana"
    for wrong in ("rk_x_y", "sk-else", token[:-2]):
        assert server.as_key(wrong).get("/v1/stats").status_code == 401
    server.house.keys.revoke(server.house.keys.list()[0].id)
    assert http.get("/v1/stats").status_code == 401


def test_scopes(serve):
    server = serve(needs_key=True)
    server.as_key(server.key("ana")).post("/v1/episodes", json={"text": "I like tea."})
    reader, writer = server.as_key(server.key("ana", "read")), server.as_key(server.key("ana", "write"))
    assert reader.post("/v1/recall", json={"query": "tea"}).json()[0]["text"] == "I like tea."
    assert reader.post("/v1/episodes", json={"text": "x"}).status_code == 403
    assert writer.post("/v1/recall", json={"query": "tea"}).status_code == 403
    for path in ("/v1/file", "/metrics"):
        assert reader.get(path).status_code == 403
        assert server.as_key(server.key("eve", "admin")).get(path).status_code == 200
    assert server.as_key(server.key("eve", "admin")).post("/v1/recall", json={"query": "tea"}).status_code == 403


def test_without_keys_only_loopback_names_and_own_pages_come_in(serve):
    http = serve().client
    assert http.get("/v1/stats", headers={"Host": "memory.example.com"}).status_code == 403
    assert http.get("/v1/stats", headers={"Origin": "https://evil.example.com"}).status_code == 403
    assert http.get("/v1/stats", headers={"Origin": "null"}).status_code == 403
    own = str(http.base_url).rstrip("/")
    assert http.get("/v1/stats", headers={"Origin": own}).status_code == 200
    assert http.get("/v1/stats", headers={"Host": "localhost:1"}).status_code == 200
    assert http.get("/v1/stats", headers={"Authorization": "Bearer sk-anything"}).status_code == 200
    assert http.get("/v1/stats", headers={"Authorization": "Bearer rk_a_b"}).status_code == 401


def test_a_key_at_an_open_server_opens_its_own_user(serve):
    server = serve()
    server.client.post("/v1/episodes", json={"text": "I am the owner."})
    guest = server.as_key(server.key("guest"))
    assert guest.post("/v1/recall", json={"query": "owner"}).json() == []


def test_rates(serve):
    http = serve(limits=Limits(rate_per_s=1)).client
    codes = [http.get("/v1/stats").status_code for _ in range(4)]
    assert codes[:2] == [200, 200]
    assert codes[-1] == 429
    assert int(http.get("/v1/stats").headers["retry-after"]) >= 1


def test_a_bucket_fills_again():
    rates = Rates(50)
    assert [rates.take("a") for _ in range(100)] == [0.0] * 100
    assert 0 < rates.take("a") <= 1 / 50
    assert rates.take("b") == 0
    time.sleep(0.05)
    assert rates.take("a") == 0


def test_oversized_bodies(serve):
    server = serve(limits=Limits(max_body_bytes=1000, max_upload_bytes=5000))
    large = server.client.post("/v1/episodes", json={"text": "x" * 2000})
    assert (large.status_code, large.json()["error"]["type"]) == (413, "too_large")

    def parts():
        yield b'{"text": "'
        for _ in range(5):
            yield b"x" * 400

    assert server.client.post("/v1/episodes", content=parts()).status_code == 413
    assert server.client.post("/v1/import", content=b"x" * 6000).status_code == 413
    long_line = server.client.post("/v1/episodes/bulk", content=b'{"text": "' + b"x" * 2000 + b'"}')
    assert "line 1" in long_line.json()["error"]["message"]
    assert server.client.get("/v1/stats").json()["num_episodes"] == 0


def test_slow_bodies(serve):
    server = serve(limits=Limits(body_timeout_s=0.3))
    for path in (b"/v1/episodes", b"/v1/episodes/bulk"):
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=5) as line:
            line.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            assert b"408" in line.recv(4000).split(b"\r\n")[0]


def test_too_many_and_too_late(serve, monkeypatch):
    server = serve(limits=Limits(num_concurrent=2, request_timeout_s=0.3))
    go = threading.Event()
    engine = server.house.memories.keeper.engine
    monkeypatch.setattr(type(engine.db), "get_state", _waiting(type(engine.db).get_state, go))
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(_ask(server))) for _ in range(5)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    finally:
        go.set()
    assert set(codes) == {503, 504}
    monkeypatch.undo()
    time.sleep(0.1)
    assert server.client.get("/v1/stats").status_code == 200


def _waiting(plain, go):
    def wait(*arguments):
        go.wait(5)
        return plain(*arguments)

    return wait


def _ask(server: Served) -> int:
    return server.client.post("/v1/recall", json={"query": "tea"}).status_code


def test_the_log_holds_no_text_no_key_and_no_query(serve, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    server = serve(needs_key=True)
    token = server.key("ana")
    http = server.as_key(token)
    http.post("/v1/episodes", json={"text": "my secret word is zanzibar", "session": "zanzibar"})
    http.get("/v1/episodes", params={"session": "zanzibar", "speaker": "zanzibar"})
    http.post("/v1/recall", json={"query": "zanzibar", "k": 0})
    http.post("/v1/import", params={"name": "zanzibar.csv"}, content="zanzibar")
    http.get("/v1/zanzibar")

    def fail(*_, **__):
        raise RuntimeError("the text was zanzibar")

    monkeypatch.setattr("recollect.store.memory.Memory.recall", fail)
    broken = http.post("/v1/recall", json={"query": "zanzibar"})
    assert (broken.status_code, broken.json()["error"]["type"]) == (500, "internal")
    assert "zanzibar" not in broken.text
    told = [record for record in caplog.records if record.name != "httpx2"]  # the client's own log
    text = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in told)
    assert "POST /v1/episodes 201" in text
    assert "unforeseen RuntimeError at" in text
    assert "zanzibar" not in text
    assert token not in text
    assert token.split("_", 2)[2] not in text


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_routes_and_methods(standing, method):
    reply = standing.client.request(method, "/v1/answer" if method == "DELETE" else "/nothing")
    assert reply.json()["error"]["code"] == (405 if method == "DELETE" else 404)
