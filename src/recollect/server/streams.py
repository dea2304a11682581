"""Replies that are sent while they are made: lines of JSON, server-sent events, files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
from fastapi import Request, Response
from pydantic import TypeAdapter
from starlette.types import Receive, Scope, Send

from recollect.server.desk import Desk
from recollect.server.problems import problem_of
from recollect.store.memory import Memory, Progress

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
EVERY_S = 0.5  # between two events of progress


class Stream(Response):
    """A reply made part by part; the parts' generator is closed at the end, come what may.

    An error before the first part is an ordinary error reply. until_hangup: stop when the client goes away; only for a
    request whose body has been read.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        media_type: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
        until_hangup: bool = False,
    ):
        super().__init__(None, status, headers, media_type)
        if "content-length" in self.headers:
            del self.headers["content-length"]
        self._parts, self._until_hangup = parts, until_hangup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts."""
        try:
            first = await anext(self._parts, b"")
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                if self._until_hangup:
                    group.start_soon(watch)
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for part in self._parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._parts.aclose()


def event(name: str, data: bytes) -> bytes:
    """One server-sent event. data: JSON on one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def line(**fields: Any) -> bytes:
    """One line of JSON."""
    return json.dumps(fields).encode() + b"\n"


async def long_work(
    request: Request, desk: Desk, form: TypeAdapter[Any], work: Callable[[Memory, Progress], Any]
) -> Response:
    """The result of a long call as JSON, or, where the client accepts `text/event-stream`, as events.

    The events: `progress` with {"done": number of items}, at last `done` with the result or `error` with the problem. The
    work goes on to its end when the client hangs up.
    """
    workers, done = desk.house.workers, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        workers.check()

    def run() -> bytes:
        return desk.with_memory(lambda memory: form.dump_json(work(memory, advance)))

    async def events() -> AsyncGenerator[bytes, None]:
        task, told = asyncio.ensure_future(workers.run_long(run)), -1
        while not task.done():
            if done != told:
                told = done
                yield event("progress", json.dumps({"done": told}).encode())
            await asyncio.wait({task}, timeout=EVERY_S)
        try:
            yield event("done", await task)
        except Exception as error:
            yield event("error", json.dumps({"error": problem_of(error).model_dump()}).encode())

    if EVENTS in request.headers.get("accept", ""):
        return Stream(events(), EVENTS, headers={"Cache-Control": "no-store"})
    return Response(await workers.run_long(run), media_type="application/json")
