"""What a server takes from one caller and in all, and how it holds that: rates by token buckets, bodies as they arrive."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.types import Message, Receive

from recollect.server.problems import Refused

NUM_CALLERS = 10_000  # whose rate is followed at a time


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server."""

    max_body_bytes: int = 8 * 2**20  # of a request
    max_upload_bytes: int = 2 * 2**30  # of an import or a bulk of JSON lines, which are not held in memory
    body_timeout_s: float = 30.0  # for a body to arrive; for an upload, between two parts of it
    request_timeout_s: float = 60.0  # for an answer; long work is not bound by it
    upstream_timeout_s: float = 600.0  # for the gateway's upstream, which may think for long
    rate_per_s: float = 100.0  # requests of one caller; twice as many may come at once
    num_concurrent: int = 128  # requests under way


class Rates:
    """Token buckets, one a caller."""

    def __init__(self, rate_per_s: float):
        self.rate = rate_per_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller -> (tokens, when)

    def take(self, caller: str) -> float:
        """Count one request; 0 when it may pass, else in how many seconds the next one may."""
        now = time.monotonic()
        tokens, then = self._buckets.pop(caller, (2 * self.rate, now))
        tokens = min(2 * self.rate, tokens + (now - then) * self.rate)
        passes = tokens >= 1
        self._buckets[caller] = (tokens - passes, now)
        if len(self._buckets) > NUM_CALLERS:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1 - tokens) / self.rate


class Body:
    """A request's body as it arrives: not above `max_bytes`, and in time.

    at_once: the whole body has `timeout_s`, else each part of it has.
    """

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float, at_once: bool):
        self._receive, self._max_bytes, self._timeout_s, self._at_once = receive, max_bytes, timeout_s, at_once
        self._num_bytes, self._more = 0, True
        self._until = time.monotonic() + timeout_s

    async def receive(self) -> Message:
        """The next message. Raises Refused."""
        if not self._more:
            return await self._receive()
        wait = self._until - time.monotonic() if self._at_once else self._timeout_s
        try:
            message = await asyncio.wait_for(self._receive(), wait)
        except TimeoutError:
            self._more = False
            raise Refused(
                408, "timeout", f"body: did not arrive within {self._timeout_s:g} s.", "body", {"Connection": "close"}
            ) from None
        self._num_bytes += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        return message


def too_large(max_bytes: int) -> Refused:
    """The refusal of a body above a limit."""
    return Refused(
        413, "too_large", f"body: is larger than {max_bytes} bytes; send it in parts.", "body", {"Connection": "close"}
    )
