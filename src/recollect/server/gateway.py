"""An OpenAI-compatible gateway: an unmodified client gets a memory by changing its base URL.

Before a request goes to the upstream, what the caller's memory holds for it is put in as marked data (`conversation.py`);
after it, the turn is remembered, also when the client hangs up in the middle of a reply. Everything else passes untouched.
The reply tells what was recalled in its field `recollect` (when streamed, of the first chunk) and in `X-Recollect-Recalled`.
Without an upstream the memory's own reader answers, and says so; its answers are quotes, so they are not remembered again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any, Literal

import httpx2
import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from recollect.server.conversation import RECALL_TOKENS, Turn
from recollect.server.desk import Desk, Reading
from recollect.server.problems import Refused
from recollect.server.streams import EVENTS, Stream
from recollect.server.upstream import lines
from recollect.store.memory import Memory

OWN_MODEL = "recollect"
DONE = b"data: [DONE]\n\n"
routes = APIRouter(prefix="/v1", tags=["gateway"])


class Options(BaseModel):
    """What a request may say to the memory, in its own field `recollect`."""

    model_config = ConfigDict(extra="forbid")
    session: str | None = Field(
        default=None, min_length=1, max_length=1000, description="the conversation; default: the same day and start"
    )
    agent: str | None = Field(default=None, description="narrow to one agent")
    recall_tokens: int = Field(
        default=RECALL_TOKENS, ge=0, le=100_000, description="how much may be recalled; 0 for nothing"
    )
    remember: bool = Field(default=True, description="whether the turn is remembered")


class Chat(BaseModel):
    """A request of OpenAI's chat protocol; all else in it passes untouched."""

    model_config = ConfigDict(extra="allow")
    messages: list[dict[str, Any]] = Field(min_length=1, examples=[[{"role": "user", "content": "Where do I live?"}]])
    model: str | None = None
    stream: bool | None = None
    recollect: Options = Options()


class Embedding(BaseModel):
    """A request of OpenAI's embedding protocol."""

    model_config = ConfigDict(extra="allow")
    input: str | list[str] | list[int] | list[list[int]] = Field(examples=["I like tea."])
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


@routes.post("/chat/completions", response_class=Response)
async def chat(body: Chat, request: Request, desk: Reading) -> Response:
    """OpenAI's chat completions with the caller's memory; `stream` as in OpenAI's."""
    options = body.recollect
    desk = Desk(desk.house, desk.caller, options.agent or desk.agent, desk.method)
    turn = Turn(body.messages, options.session, options.recall_tokens)
    remembers = options.remember and "write" in desk.caller.scopes
    upstream = desk.house.upstream
    if upstream is None:
        return await _from_memory(body, turn, desk, remembers)
    await desk.do(turn.recall)
    sent = json.loads(await request.body())
    sent.pop("recollect", None)
    sent["messages"] = turn.with_memories()
    if upstream.model and sent.get("model") in (None, "", OWN_MODEL):
        sent["model"] = upstream.model
    reply = await upstream.send("POST", "/chat/completions", sent)
    if reply.status_code != 200:
        return await upstream.relay(reply)
    headers = _headers(turn) | {"X-Recollect-Answered-By": "upstream"}
    keep = _Keeper(turn, desk, remembers)
    if body.stream:
        return Stream(_relayed(reply, keep), EVENTS, headers=headers, until_hangup=True)
    content = await upstream.read(reply)
    try:
        data = json.loads(content)
        said = data["choices"][0]["message"].get("content")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Refused(
            502,
            "unavailable",
            f"upstream: {upstream.url} does not answer as a chat endpoint; does it end in /v1?",
            "upstream",
        ) from None
    await keep.now(said if isinstance(said, str) else "", whole=True)
    return JSONResponse(data | {"recollect": turn.report() | {"answered_by": "upstream"}}, headers=headers)


@routes.get("/models", response_class=Response)
async def models(desk: Reading) -> Response:
    """The upstream's models; without one, the memory's own reader as one."""
    upstream = desk.house.upstream
    if upstream is not None:
        return await upstream.relay(await upstream.send("GET", "/models"))
    own = {"id": OWN_MODEL, "object": "model", "created": 0, "owned_by": "recollect"}
    return JSONResponse({"object": "list", "data": [own]})


@routes.post("/embeddings", response_class=Response)
async def embeddings(body: Embedding, request: Request, desk: Reading) -> Response:
    """The upstream's embeddings; without one, those of the memory's own embedder."""
    upstream = desk.house.upstream
    if upstream is not None:
        return await upstream.relay(await upstream.send("POST", "/embeddings", json.loads(await request.body())))
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refused(422, "invalid_input", "input: give texts; the memory's embedder reads no token numbers.", "input")
    engine = desk.house.memories.keeper.engine
    vectors = await desk.house.workers.run(lambda: engine.embed([str(text) for text in texts]))
    data = [
        {"object": "embedding", "index": number, "embedding": _encoded(vector, body.encoding_format)}
        for number, vector in enumerate(vectors)
    ]
    tokens = sum(len(str(text)) for text in texts) // 4
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "model": engine.embedder.name, "data": data, "usage": usage})


def _encoded(vector: np.ndarray, form: str) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


def _headers(turn: Turn) -> dict[str, str]:
    return {"X-Recollect-Recalled": ",".join(hit.id for hit in turn.hits)}


class _Keeper:
    """Remembers a turn once."""

    def __init__(self, turn: Turn, desk: Desk, remembers: bool):
        self.turn, self._desk, self._open = turn, desk, remembers
        desk.house.figures.turns.inc()

    async def now(self, reply: str, *, whole: bool) -> None:
        """Remember, and return when it is on the disk."""
        if self._open:
            self._open = False
            await self._desk.house.workers.run_to_end(self._work(reply, whole))

    def later(self, reply: str) -> None:
        """Remember what there is of a reply that was cut; no request waits for it, but the server's end does."""
        if self._open:
            self._open = False
            self._desk.house.workers.in_background(self._desk.house.workers.run_to_end(self._work(reply, False)))

    def _work(self, reply: str, whole: bool):
        def remember(memory: Memory) -> None:
            self.turn.remember(memory, reply, whole=whole)

        return lambda: self._desk.with_memory(remember)


async def _relayed(reply: httpx2.Response, keep: _Keeper) -> AsyncGenerator[bytes, None]:
    """The upstream's events as they are, but for our field in the first chunk; the turn is remembered before the end."""
    said: list[str] = []
    told = False
    try:
        async for line in lines(reply):
            data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                await keep.now("".join(said), whole=True)
            elif data:
                chunk = _chunk(data)
                said.append(_delta(chunk))
                if not told and isinstance(chunk, dict):
                    told = True
                    chunk["recollect"] = keep.turn.report() | {"answered_by": "upstream"}
                    line = b"data: " + json.dumps(chunk).encode() + b"\n"
            yield line
    except httpx2.HTTPError:
        problem = Refused(502, "unavailable", "upstream: broke off its reply; try again.", "upstream").problem
        yield b"data: " + json.dumps({"error": problem.model_dump()}).encode() + b"\n\n"
    finally:
        keep.later("".join(said))
        await asyncio.shield(reply.aclose())


def _chunk(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _delta(chunk: Any) -> str:
    """The text that a chunk adds to the first choice."""
    try:
        choice = chunk["choices"][0]
        text = choice["delta"].get("content") if choice.get("index", 0) == 0 else None
    except (LookupError, TypeError, AttributeError):
        return ""
    return text if isinstance(text, str) else ""


async def _from_memory(body: Chat, turn: Turn, desk: Desk, remembers: bool) -> Response:
    """The reply of the memory's own reader, in the form of a chat completion."""
    if not turn.question:
        raise Refused(422, "invalid_input", "messages: hold no text of the user to answer.", "messages")
    answer = await desk.do(lambda memory: memory.answer(turn.question))
    turn.hits = answer.hits
    await _Keeper(turn, desk, remembers).now("", whole=True)
    note = f"[recollect: read from memory by the {answer.reader} reader; no upstream is configured]"
    content, reader = f"{answer.text}\n\n{note}", f"{OWN_MODEL}/{answer.reader}"
    report = turn.report() | {"answered_by": reader, "abstained": answer.abstained}
    headers = _headers(turn) | {"X-Recollect-Answered-By": reader}
    base = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": reader}
    if body.stream:

        async def parts() -> AsyncGenerator[bytes, None]:
            frame = base | {"object": "chat.completion.chunk"}
            for delta, end in (({"role": "assistant", "content": content}, None), ({}, "stop")):
                choice = {"index": 0, "delta": delta, "finish_reason": end}
                more = {} if end else {"recollect": report}
                yield b"data: " + json.dumps(frame | {"choices": [choice]} | more).encode() + b"\n\n"
            yield DONE

        return Stream(parts(), EVENTS, headers=headers)
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    used = {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens}
    usage = used | {"total_tokens": sum(used.values())}
    whole = base | {"object": "chat.completion", "choices": [choice], "usage": usage, "recollect": report}
    return JSONResponse(whole, headers=headers)
