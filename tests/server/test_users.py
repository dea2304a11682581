"""Several users on one server, in any order of requests: no key ever sees what another user has written.

Every text carries a word of its own. The model knows whose it is and whether it was forgotten; every reply, error messages
among them, is searched for all words that the caller may not see. A question may hold any word, so what a reply repeats of
its question is taken out first.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from serving import Served

USERS = ("ana", "ben", "eve")
who = st.sampled_from(USERS)
RPC = {"Accept": "application/json, text/event-stream"}


class SeveralUsers(RuleBasedStateMachine):
    """Ana, Ben and Eve, by REST, the gateway, MCP and the page."""

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.server = Served(Path(self.folder.name) / "m.db", needs_key=True)
        scopes = ("read", "write", "admin")
        self.http = {user: self.server.as_key(self.server.key(user, *scopes)) for user in USERS}
        self.live: dict[str, dict[str, str]] = {user: {} for user in USERS}  # word -> id of its episode
        self.gone: set[str] = set()
        self.number = 0

    def teardown(self):
        self.server.close()
        self.folder.cleanup()

    def word(self, user: str) -> str:
        """A word that nobody has used."""
        self.number += 1
        return f"{user}word{self.number}zz"

    def send(self, user: str, method: str, path: str, **given: Any) -> Any:
        """The reply to one user, after a look for words that are not theirs."""
        reply = self.http[user].request(method, path, **given)
        assert reply.status_code < 500, reply.text
        asked = json.dumps(given, default=lambda part: part.decode()) + path
        hidden = self.gone.union(*(self.live[other] for other in USERS if other != user))
        for word in hidden:
            assert word in asked or word not in reply.text, (user, method, path, word)
            assert word not in str(dict(reply.headers)), (user, method, path, word)
        return reply

    def other(self, user: str, number: int) -> tuple[str, str] | None:
        """A word and the id of an episode of somebody else."""
        theirs = [pair for name in USERS if name != user for pair in self.live[name].items()]
        return theirs[number % len(theirs)] if theirs else None

    @rule(user=who)
    def adds(self, user):
        word = self.word(user)
        body = {"text": f"My secret is {word}.", "speaker": word, "session": f"s-{word}", "source_id": "same-for-all"}
        reply = self.send(user, "POST", "/v1/episodes", json=body)
        assert reply.status_code == 201
        self.live[user][word] = reply.json()["id"]

    @rule(user=who)
    def adds_lines(self, user):
        words = [self.word(user) for _ in range(2)]
        lines = "\n".join(json.dumps({"text": f"A secret: {word}"}) for word in words)
        self.send(user, "POST", "/v1/episodes/bulk", content=lines.encode())
        self.send(user, "POST", "/v1/episodes/bulk", content=lines.encode() + b'\n{"text": ""}')
        self.look_up(user, words)

    @rule(user=who)
    def chats(self, user):
        word = self.word(user)
        body = {"messages": [{"role": "user", "content": f"Note that my secret is {word}. What is the secret?"}]}
        self.send(user, "POST", "/v1/chat/completions", json=body)
        self.look_up(user, [word])

    @rule(user=who)
    def remembers_by_mcp(self, user):
        word = self.word(user)
        self.tool(user, "remember", {"text": f"By MCP: {word}"})
        self.look_up(user, [word])

    def look_up(self, user: str, words: list[str]) -> None:
        """Learn the ids of what was written without being told."""
        page = self.http[user].get("/v1/episodes", params={"limit": 1000}).json()
        for word in words:
            found = [episode["id"] for episode in page["episodes"] if word in episode["text"]]
            assert found, f"{word} of {user} was not kept"
            self.live[user][word] = found[0]

    def tool(self, user: str, name: str, given: dict[str, Any]) -> Any:
        """One call of a tool over MCP."""
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": given}}
        return self.send(user, "POST", "/mcp", json=call, headers=RPC)

    @rule(user=who)
    def derives_a_note(self, user):
        if self.live[user]:
            word, id_ = next(iter(self.live[user].items()))
            body = {"text": f"A note on {word}", "kind": "fact", "sources": [id_]}
            assert self.send(user, "POST", "/v1/notes", json=body).status_code == 201

    @rule(user=who, number=st.integers(0, 9))
    def asks_for_all(self, user, number):
        theirs = self.other(user, number)
        query = "What is the secret? " + (theirs[0] if theirs else "")
        for path, body in (
            ("/v1/recall", {"query": query, "k": 100}),
            ("/v1/answer", {"question": query}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": query}]}),
        ):
            # the question may repeat a word of somebody else's: ask without it too
            plain = json.loads(json.dumps(body).replace(theirs[0], "")) if theirs else body
            self.send(user, "POST", path, json=plain)
            if path != "/v1/chat/completions":
                self.send(user, "POST", path, json=body)
        self.tool(user, "recall", {"query": "What is the secret?", "k": 50})
        self.tool(user, "answer", {"question": "What is the secret?"})
        self.tool(user, "status", {})

    @rule(user=who, number=st.integers(0, 9))
    def reaches_for_a_record_of_another(self, user, number):
        theirs = self.other(user, number)
        if theirs is None:
            return
        id_ = theirs[1]
        for path in (f"/v1/records/{id_}", f"/v1/records/{id_}/history", f"/v1/records/{id_}/related"):
            assert self.send(user, "GET", path).status_code == 404
        self.send(user, "GET", "/v1/episodes", params={"after_id": id_})
        assert self.send(user, "POST", "/v1/forget", json={"ids": [id_]}).status_code == 404
        assert self.send(
            user, "POST", "/v1/notes", json={"text": "x", "kind": "fact", "sources": [id_]}
        ).status_code in (404, 422)
        self.tool(user, "history", {"id": id_})
        self.tool(user, "forget", {"ids": [id_], "confirm": True})

    @rule(user=who)
    def reads_everything(self, user):
        reply = self.send(user, "GET", "/v1/export")
        for word in self.live[user]:
            assert word in reply.text
        for path in ("/v1/stats", "/v1/episodes", "/v1/consolidations", "/v1/file", "/metrics", "/", "/openapi.json"):
            self.send(user, "GET", path)

    @rule(user=who)
    def consolidates(self, user):
        for body in ({"dry_run": True}, {}):
            self.send(user, "POST", "/v1/consolidate", params={"method": "scm"}, json=body)
        self.send(user, "POST", "/v1/consolidations/undo", json={})

    @rule(user=who, number=st.integers(0, 9))
    def forgets(self, user, number):
        if not self.live[user]:
            return
        word = sorted(self.live[user])[number % len(self.live[user])]
        reply = self.send(user, "POST", "/v1/forget", json={"ids": [self.live[user][word]]})
        assert reply.status_code == 200
        assert self.live[user].pop(word) in reply.json()["episodes"]
        said = self.http[user].get("/v1/export").text
        if word not in said:  # a reply of the gateway, an episode of its own, may have repeated it
            self.gone.add(word)

    @precondition(lambda self: self.number > 0)
    @rule(user=who)
    def comes_with_a_revoked_key(self, user):
        secret = self.server.key(user, "read")
        self.server.house.keys.revoke(self.server.house.keys.list()[-1].id)
        reply = self.server.as_key(secret).get("/v1/export")
        assert reply.status_code == 401
        assert not any(word in reply.text for words in self.live.values() for word in words)


TestSeveralUsers = SeveralUsers.TestCase
TestSeveralUsers.settings = settings(
    max_examples=6, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
