"""REST: many memories at once, as lines of JSON that are read, remembered and acknowledged while they arrive."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from recollect.errors import InvalidInput
from recollect.server.desk import Writing
from recollect.server.problems import problem_of
from recollect.server.streams import LINES, Stream, line

BATCH = 256
EVERY_S = 0.2  # between two lines of progress, so that a client that reads only at the end does not stall
SENT = {
    "requestBody": {
        "required": True,
        "content": {
            LINES: {"example": '{"text": "I like tea.", "speaker": "Ana"}\n{"text": "Me too.", "speaker": "Bo"}\n'}
        },
    }
}
TOLD: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {LINES: {"example": '{"lines": 256, "added": 256, "existing": 0}\n{"done": true, "lines": 300}\n'}}
    }
}
routes = APIRouter(prefix="/v1", tags=["memory"])


@routes.post("/episodes/bulk", response_class=Response, responses=TOLD, openapi_extra=SENT)
async def add_many(request: Request, desk: Writing) -> Response:
    """Remember each line, an object as `POST /v1/episodes` takes it.

    A line comes back for what is on the disk, at last one with `done`, or with `error` and the number of the line that cannot
    be used; what was acknowledged before it is kept, and sending everything again adds only what is missing.
    """

    async def parts() -> AsyncGenerator[bytes, None]:
        counts = {"lines": 0, "added": 0, "existing": 0}
        told = time.monotonic()
        try:
            async for batch in _batches(request, desk.house.limits.max_body_bytes):
                report = await desk.house.workers.run_to_end(lambda batch=batch: desk.with_memory(_adding(batch)))
                counts = {
                    "lines": batch[-1][0],
                    "added": counts["added"] + report.added,
                    "existing": counts["existing"] + report.existing,
                }
                desk.house.figures.memories.inc(report.added)
                desk.house.workers.check()
                if time.monotonic() - told >= EVERY_S:
                    told = time.monotonic()
                    yield line(**counts)
        except Exception as error:
            if not counts["lines"]:
                raise  # an ordinary error reply
            yield line(error=problem_of(error).model_dump(), **counts)
            return
        yield line(done=True, **counts)

    return Stream(parts(), LINES)


def _adding(batch: list[tuple[int, Any]]):
    """What remembers a batch of (line number, item); an item that cannot be used is named by its line."""

    def add(memory):
        try:
            return memory.add_many(item for _, item in batch)
        except InvalidInput as error:
            found = re.match(r"item (\d+): (.*)", str(error), re.DOTALL)
            raise InvalidInput(f"line {batch[int(found[1])][0]}: {found[2]}" if found else str(error)) from None

    return add


async def _batches(request: Request, max_bytes: int) -> AsyncIterator[list[tuple[int, Any]]]:
    """(line number, item) of the lines that are not blank, some at a time. Raises InvalidInput.

    Where a line cannot be read, the lines before it are given first.
    """
    batch: list[tuple[int, Any]] = []
    try:
        async for number, text in _lines(request, max_bytes):
            batch += _read(number, text, max_bytes)
            if len(batch) == BATCH:
                full, batch = batch, []
                yield full
    except InvalidInput:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


async def _lines(request: Request, max_bytes: int) -> AsyncIterator[tuple[int, bytes]]:
    """(number, bytes) of each line; one that grows above the limit is given as far as it has come."""
    number, rest = 0, b""
    async for part in request.stream():
        *whole, rest = (rest + part).split(b"\n")
        if len(rest) > max_bytes:
            whole.append(rest)
        for text in whole:
            number += 1
            yield number, text
    yield number + 1, rest


def _read(number: int, text: bytes, max_bytes: int) -> list[tuple[int, Any]]:
    if not text.strip():
        return []
    if len(text) > max_bytes:
        raise InvalidInput(f"line {number}: is longer than {max_bytes} bytes; send it as smaller memories.")
    try:
        return [(number, json.loads(text.decode("utf-8")))]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"line {number}: is not UTF-8 ({error.reason} at byte {error.start}).") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"line {number}: is not JSON ({error}).") from None
