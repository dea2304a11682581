"""`recollect.wrap` around the real openai clients, in front of a real upstream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest

import recollect
from chatting import ChatServer
from recollect.errors import InvalidInput
from recollect.server.conversation import END, START

ASK = [{"role": "user", "content": "Where do I live?"}]


@pytest.fixture
def upstream() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def memory(open_memory):
    made = open_memory(user="ana")
    made.add("I moved to Lisbon in May.", speaker="Ana", at="2024-05-12")
    return made


@pytest.fixture
def plain(upstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=upstream.url, api_key="sk-mine", max_retries=0) as client:
        yield client


def texts(memory) -> list[str]:
    return [episode.text for episode in memory.episodes()][1:]


def test_two_lines(plain, upstream, memory):
    client = recollect.wrap(plain, memory=memory)
    assert isinstance(client, openai.OpenAI)
    reply = client.chat.completions.create(model="big", messages=ASK, temperature=0)
    assert reply.choices[0].message.content == "You live in Lisbon."
    assert reply.recollect["recalled"][0]["text"] == "I moved to Lisbon in May."
    told = upstream.asked[0]["messages"][0]["content"]
    assert "Lisbon" in told.split(START)[1].split(END)[0]
    assert told.endswith("Where do I live?")
    assert ASK == [{"role": "user", "content": "Where do I live?"}], "the caller's messages stay as they are"
    assert texts(memory) == ["Where do I live?", "You live in Lisbon."]
    plain.chat.completions.create(model="big", messages=ASK)
    assert upstream.asked[1]["messages"] == ASK, "the client itself stays as it was"
    assert [model.id for model in client.models.list()] == ["big"]


def test_streaming_to_the_end_and_broken_off(plain, upstream, memory):
    client = recollect.wrap(plain, memory=memory, session="s")
    with client.chat.completions.create(model="big", messages=ASK, stream=True) as stream:
        chunks = list(stream)
    assert chunks[0].recollect["recalled"]
    assert texts(memory) == ["Where do I live?", "You live in Lisbon."]
    stream = client.chat.completions.create(model="big", messages=[{"role": "user", "content": "Again?"}], stream=True)
    next(stream)
    next(stream)
    stream.close()
    assert texts(memory)[2:] == ["Again?", "You live"]
    for _ in client.chat.completions.create(
        model="big", messages=[{"role": "user", "content": "Once more?"}], stream=True
    ):
        break
    assert texts(memory)[4:] == ["Once more?", "You"]
    assert [episode.meta for episode in memory.episodes(session="s")][1::2] == [{}, {"cut": True}, {"cut": True}]


def test_the_asynchronous_client(upstream, memory):
    async def talk() -> None:
        async with openai.AsyncOpenAI(base_url=upstream.url, api_key="sk-mine", max_retries=0) as plain:
            client = recollect.wrap(plain, memory=memory)
            reply = await client.chat.completions.create(model="big", messages=ASK)
            assert reply.recollect["recalled"]
            stream = await client.chat.completions.create(
                model="big", messages=[{"role": "user", "content": "Again?"}], stream=True
            )
            async with stream:
                assert "".join([chunk.choices[0].delta.content async for chunk in stream]) == "You live in Lisbon."

    asyncio.run(talk())
    assert texts(memory) == ["Where do I live?", "You live in Lisbon.", "Again?", "You live in Lisbon."]


def test_a_memory_of_the_settings_is_opened_for_the_user(plain, monkeypatch, tmp_path):
    monkeypatch.setenv("RECOLLECT_EMBEDDER", "hashing")
    client = recollect.wrap(plain, user="bo", db=tmp_path / "m.db")
    client.chat.completions.create(model="big", messages=ASK)
    with recollect.open(tmp_path / "m.db", user="bo") as memory:
        assert memory.stats().num_episodes == 2
        assert memory.engine.embedder.name.startswith("hashing")
    with recollect.open(tmp_path / "m.db") as memory:
        assert memory.stats().num_episodes == 0


def test_wrong_input(plain, memory):
    with pytest.raises(InvalidInput, match="client"):
        recollect.wrap("client", user="ana")  # type: ignore[type-var]
    with pytest.raises(InvalidInput, match="memory"):
        recollect.wrap(plain, user="ana", memory=memory)


def test_a_turn_that_cannot_be_remembered_is_a_warning(plain, memory, monkeypatch):
    client = recollect.wrap(plain, memory=memory)

    def full(*_, **__):
        raise recollect_errors.StorageFailed("the disk is full")

    from recollect import errors as recollect_errors

    monkeypatch.setattr(memory, "add_many", full)
    with pytest.warns(UserWarning, match="the disk is full"):
        reply = client.chat.completions.create(model="big", messages=ASK)
    assert reply.choices[0].message.content == "You live in Lisbon."


def test_no_server_is_imported_for_it():
    code = "import sys, recollect; recollect.wrap; print([name for name in ('fastapi', 'uvicorn', 'mcp') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
