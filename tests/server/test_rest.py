"""Every operation of the store over HTTP, with a real server and a real client."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from recollect.server.run import listen


def events(text: str) -> list[tuple[str, dict]]:
    """The server-sent events of a reply."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_add_recall_answer_get_history_forget(serve):
    http = serve().client
    first = http.post("/v1/episodes", json={"text": "I moved to Lisbon in May.", "speaker": "Ana", "at": "2024-05-12"})
    assert first.status_code == 201
    again = http.post("/v1/episodes", json={"text": "I moved to Lisbon in May.", "speaker": "Ana", "at": "2024-05-12"})
    assert again.json() == first.json()
    http.post("/v1/episodes", json={"text": "The cat is called Pixel.", "speaker": "Bo", "session": "s1"})
    hits = http.post("/v1/recall", json={"query": "Where did Ana move?", "k": 1}).json()
    assert [hit["text"] for hit in hits] == ["I moved to Lisbon in May."]
    assert hits[0]["why"][0]["name"]
    answer = http.post("/v1/answer", json={"question": "What is the cat called?"}).json()
    assert "Pixel" in answer["text"]
    assert answer["quotes"][0]["text"] == "The cat is called Pixel."
    id_ = first.json()["id"]
    assert http.get(f"/v1/records/{id_}").json() == first.json()
    assert http.get(f"/v1/records/{id_}/history").json()["record"] == first.json()
    assert http.get("/v1/stats").json()["num_episodes"] == 2
    shown = http.post("/v1/forget", json={"ids": [id_], "dry_run": True}).json()
    assert shown["episodes"] == [id_]
    assert http.get(f"/v1/records/{id_}").status_code == 200
    assert http.post("/v1/forget", json={"ids": [id_]}).json()["episodes"] == [id_]
    gone = http.get(f"/v1/records/{id_}")
    assert gone.status_code == 404
    assert gone.json()["error"]["param"] == "id"


def test_notes_and_links(serve):
    http = serve().client
    source = http.post("/v1/episodes", json={"text": "I moved to Lisbon."}).json()["id"]
    note = http.post("/v1/notes", json={"text": "Ana lives in Lisbon.", "kind": "fact", "sources": [source]})
    assert note.status_code == 201
    assert http.get(f"/v1/records/{note.json()['id']}").json()["kind"] == "fact"
    link = http.post("/v1/links", json={"source": source, "target": note.json()["id"], "relation": "supports"})
    assert link.status_code == 201
    near = http.get(f"/v1/records/{source}/related").json()
    assert [entry["record"]["id"] for entry in near] == [note.json()["id"]]


def test_episodes_come_in_pages(serve):
    http = serve().client
    for number in range(5):
        http.post("/v1/episodes", json={"text": f"number {number}", "session": "a" if number % 2 else "b"})
    seen, after = [], None
    while True:
        page = http.get("/v1/episodes", params={"limit": 2} | ({"after_id": after} if after else {})).json()
        seen += [episode["text"] for episode in page["episodes"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [f"number {number}" for number in range(5)]
    only = http.get("/v1/episodes", params={"session": "a"}).json()["episodes"]
    assert [episode["text"] for episode in only] == ["number 1", "number 3"]


def test_bulk_is_acknowledged_while_it_arrives_and_names_the_bad_line(serve):
    http = serve().client
    good = [json.dumps({"text": f"memory {number}", "source_id": str(number)}) for number in range(600)]
    lines = http.post("/v1/episodes/bulk", content="\n".join(good)).text.splitlines()
    assert json.loads(lines[-1]) == {"done": True, "lines": 600, "added": 600, "existing": 0}
    more = [*good, "", '{"text": "one more"}', '{"text": ""}', '{"text": "never read"}']
    lines = http.post("/v1/episodes/bulk", content="\n".join(more)).text.splitlines()
    last = json.loads(lines[-1])
    assert last["error"]["message"].startswith("line 603: text")
    assert last["error"]["param"] == "text"
    assert last["existing"] == 512
    assert http.get("/v1/stats").json()["num_episodes"] == 600
    for content, said in ((b'{"text": "\xff"}', "UTF-8"), (b"{", "JSON"), (b'["x"]', "mapping"), (b"[" * 9999, "JSON")):
        reply = http.post("/v1/episodes/bulk", content=content)
        assert reply.status_code == 422, content
        assert said in reply.json()["error"]["message"]
        assert "line 1" in reply.json()["error"]["message"]


def test_export_import_round_trip_and_events(serve, tmp_path):
    http = serve().client
    for number in range(3):
        http.post("/v1/episodes", json={"text": f"tea number {number}"})
    exported = http.get("/v1/export")
    assert "attachment" in exported.headers["content-disposition"]
    assert exported.text.splitlines()[-1] == '{"end": 3}'
    other = serve(db=tmp_path / "other.db").client
    reply = other.post("/v1/import", content=exported.content, headers={"Accept": "text/event-stream"})
    name, data = events(reply.text)[-1]
    assert (name, data["episodes"]) == ("done", 3)
    assert other.post("/v1/import", content=exported.content).json()["existing"] == 3
    table = "text,at\nhello,2024-01-01\nagain,2024-01-02\n"
    report = other.post("/v1/import", params={"name": "notes.csv"}, content=table).json()
    assert (report["format"], report["added"]) == ("table", 2)
    cut = other.post("/v1/import", content=exported.content[:-20], headers={"Accept": "text/event-stream"})
    name, data = events(cut.text)[-1]
    assert name == "error"
    assert data["error"]["code"] == 422


@pytest.mark.parametrize(
    "name", ["../../escape.csv", "..\\escape.csv", "/etc/escape.csv", "a/../../escape.csv", "..", ""]
)
def test_a_name_leads_nowhere(serve, tmp_path, name):
    http = serve().client
    reply = http.post("/v1/import", params={"name": name}, content="text,at\nx,2024-01-01\n")
    assert reply.status_code in (200, 422), reply.text
    if name.endswith(".csv"):
        assert reply.json()["added"] == 1
    assert "recollect-" not in reply.text, "the server's folders are told"
    assert not list(tmp_path.parent.rglob("*escape*"))


def test_derive_consolidate_undo(serve):
    http = serve().client
    http.post("/v1/episodes", json={"text": "I live in Porto.", "speaker": "Ana", "at": "2024-01-01"})
    http.post("/v1/episodes", json={"text": "I live in Lisbon.", "speaker": "Ana", "at": "2024-06-01"})
    reply = http.post("/v1/derive", params={"method": "scm"}, json={}, headers={"Accept": "text/event-stream"})
    name, data = events(reply.text)[-1]
    assert (name, data["episodes"]) == ("done", 2)
    assert http.get("/v1/stats", params={"method": "scm"}).json()["notes"] == {"scm": data["notes"]}
    assert http.get("/v1/stats").json()["method"] == "episodic", "a request's method is not the database's"
    assert http.post("/v1/consolidate", params={"method": "scm"}, json={"dry_run": True}).json()["run"] is None
    assert http.post("/v1/consolidate", params={"method": "scm"}, json={}).status_code == 200
    runs = http.get("/v1/consolidations").json()
    undone = http.post("/v1/consolidations/undo", json={})
    assert undone.json() == runs if runs else undone.status_code == 404
    assert http.post("/v1/derive", params={"method": "none_such"}, json={}).json()["error"]["param"] == "method"


def test_care(serve):
    http = serve().client
    http.post("/v1/episodes", json={"text": "I like tea."})
    assert http.post("/v1/verify", json={}).json()["problems"] == []
    assert http.post("/v1/reindex").json() == 1
    assert http.get("/v1/file").json()["database_bytes"] > 0
    assert http.get("/healthz").json()["status"] == "ok"
    metrics = http.get("/metrics").text
    assert 'recollect_requests_total{method="POST",route="/v1/episodes",status="201"} 1.0' in metrics
    assert "recollect_episodes_added_total 1.0" in metrics


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/episodes", {"text": ""}, 422, "text"),
        ("/v1/episodes", {"text": 5}, 422, "text"),
        ("/v1/episodes", {"text": "x", "at": "soon"}, 422, "at"),
        ("/v1/episodes", {"text": "x", "colour": "red"}, 422, "colour"),
        ("/v1/recall", {"query": "x", "k": 0}, 422, "k"),
        ("/v1/recall", {"query": " "}, 422, "query"),
        ("/v1/recall", {"query": "x", "before": "2024-01-01", "after": "2024-01-02"}, 422, "after"),
        ("/v1/forget", {}, 422, "forget"),
        ("/v1/forget", {"user": "somebody"}, 422, "user"),
        ("/v1/forget", {"ids": ["ep_x"]}, 404, "id"),
        ("/v1/notes", {"text": "x", "kind": "fact", "sources": ["ep_x"]}, 422, "sources"),
        ("/v1/consolidations/undo", {"run": 7}, 404, "run"),
    ],
)
def test_errors_are_one_sentence_and_a_field(standing, path, body, status, field):
    reply = standing.client.post(path, json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, status, field)
    assert error["message"].endswith(".")


def test_a_conflict_is_409(serve):
    http = serve().client
    http.post("/v1/episodes", json={"text": "one", "source_id": "a"})
    assert http.post("/v1/episodes", json={"text": "two", "source_id": "a"}).status_code == 409


def test_malformed_bodies(serve):
    http = serve().client
    for content in (b"{", b'{"text": "\xff\xfe"}', b"\x00", b"[" * 5000):
        reply = http.post("/v1/episodes", content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code in (400, 422), content
        assert reply.json()["error"]["param"] in ("body", None)
    half = http.post("/v1/episodes", content=b'{"text": "\\ud800"}', headers={"Content-Type": "application/json"})
    assert half.status_code in (400, 422)


def test_many_requests_at_a_time_are_all_kept(serve):
    server = serve()

    def talk(number: int) -> str:
        http = server.client
        id_ = http.post(
            "/v1/episodes", json={"text": f"Person {number} likes tea.", "session": str(number % 3)}
        ).json()["id"]
        assert http.post("/v1/recall", json={"query": f"Person {number}"}).status_code == 200
        return id_

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(talk, range(40)))
    stored = {episode["id"] for episode in server.client.get("/v1/episodes").json()["episodes"]}
    assert stored == set(ids)


def test_connections_send_what_they_have_at_once():
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_openapi_has_examples(standing):
    document = standing.client.get("/openapi.json").json()
    assert document["components"]["schemas"]["NewEpisode"]["properties"]["text"]["examples"]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert len(document["paths"]) > 18
