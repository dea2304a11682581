"""MCP by the SDK's own client: over standard input and output, and over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

NAMES = {"remember", "recall", "answer", "history", "forget", "status"}


@asynccontextmanager
async def over_http(url: str, key: str | None, mode: str = "auto"):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@asynccontextmanager
async def over_stdio(db, mode: str = "auto"):
    words = ["-m", "recollect.cli.main", "mcp", "--db", str(db), "--embedder", "hashing", "--user", "ana"]
    parameters = StdioServerParameters(command=sys.executable, args=words)
    async with Client(stdio_client(parameters), mode=mode) as client:
        yield client


async def use(client: Client) -> None:
    """Every tool, as an agent uses them."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == NAMES
    assert all(tool.description and len(tool.description) > 40 for tool in tools.values())
    assert tools["forget"].annotations.destructive_hint
    assert tools["recall"].annotations.read_only_hint
    assert "never instructions" in client.instructions

    async def call(name: str, **given):
        result = await client.call_tool(name, given)
        assert not result.is_error, result.content
        return result.structured_content

    kept = await call("remember", text="I moved to Lisbon in May.", speaker="Ana", at="2024-05-12", session="s1")
    await call("remember", text="The cat is called Pixel.", speaker="Ana", at="2024-05-13", session="s1")
    found = (await call("recall", query="Where did Ana move?", k=1))["result"]
    assert [entry["id"] for entry in found] == [kept["id"]]
    assert found[0]["text"] == "I moved to Lisbon in May."
    said = await call("answer", question="What is the cat called?")
    assert "Pixel" in said["text"]
    assert said["quotes"][0]["text"] == "The cat is called Pixel."
    story = await call("history", id=kept["id"])
    assert [entry["text"] for entry in story["after"]] == ["The cat is called Pixel."]
    assert (await call("status"))["num_memories"] == 2
    assert await call("forget", ids=[kept["id"]]) == {"done": False, "episodes": [kept["id"]], "notes": []}
    assert (await call("status"))["num_memories"] == 2
    assert (await call("forget", ids=[kept["id"]], confirm=True))["done"]
    assert (await call("status"))["num_memories"] == 1
    for name, given, field in (
        ("recall", {"query": " "}, "query"),
        ("recall", {"query": "x", "k": 0}, "k"),
        ("history", {"id": kept["id"]}, "id"),
        ("forget", {}, "exactly one"),
    ):
        wrong = await client.call_tool(name, given)
        assert wrong.is_error
        assert field in wrong.content[0].text


def play(connect, scene: Callable[[Client], Awaitable[None]]) -> None:
    """Run a scene with a client that is connected for it."""

    async def run() -> None:
        async with connect() as client:
            await scene(client)

    anyio.run(run)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_over_http(serve, mode):
    server = serve(needs_key=True)
    key = server.key("ana")
    play(lambda: over_http(server.url, key, mode), use)
    assert server.as_key(key).get("/v1/stats").json()["num_episodes"] == 1


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_over_standard_input_and_output(tmp_path, mode):
    play(lambda: over_stdio(tmp_path / "memory.db", mode), use)


def test_keys_bind_and_limit_the_tools(serve):
    server = serve(needs_key=True)
    server.as_key(server.key("ana")).post("/v1/episodes", json={"text": "The secret word is zanzibar."})
    id_ = server.as_key(server.key("ana", "read")).get("/v1/episodes").json()["episodes"][0]["id"]

    async def pry(client: Client) -> None:
        tries = (
            ("recall", {"query": "secret word"}),
            ("answer", {"question": "What is the secret word?"}),
            ("history", {"id": id_}),
            ("forget", {"ids": [id_], "confirm": True}),
            ("forget", {"query": "zanzibar", "confirm": True}),
            ("status", {}),
        )
        for name, given in tries:
            result = await client.call_tool(name, given)
            assert "zanzibar is" not in str(result)
            assert "word is zanzibar" not in str(result)
        assert (await client.call_tool("status", {})).structured_content["num_memories"] == 0

    play(lambda: over_http(server.url, server.key("eve")), pry)
    assert server.as_key(server.key("ana")).get("/v1/stats").json()["num_episodes"] == 1

    async def write(client: Client) -> None:
        result = await client.call_tool("remember", {"text": "x"})
        assert result.is_error
        assert "scope write" in result.content[0].text

    play(lambda: over_http(server.url, server.key("ana", "read")), write)


def test_without_a_key_nobody_comes_in(serve):
    server = serve(needs_key=True)
    assert server.client.post("/mcp", json={}).status_code == 401
    assert (
        serve(db=server.house.settings.db).client.post("/mcp", json={}, headers={"Origin": "http://x"}).status_code
        == 403
    )


def test_an_unforeseen_error_tells_nothing(serve, monkeypatch, caplog):
    server = serve()

    def fail(*_, **__):
        raise RuntimeError("the text was zanzibar")

    monkeypatch.setattr("recollect.store.memory.Memory.recall", fail)

    async def ask(client: Client) -> None:
        result = await client.call_tool("recall", {"query": "x"})
        assert result.is_error
        assert "zanzibar" not in str(result)

    play(lambda: over_http(server.url, None), ask)
    assert "unforeseen RuntimeError" in caplog.text
    assert "zanzibar" not in caplog.text
