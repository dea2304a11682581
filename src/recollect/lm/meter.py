"""Counting what language models cost, and asking them many things at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recollect.errors import RecollectError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from recollect.lm.protocol import LanguageModel, Message, Reply


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls of a language model took; costs can be added and subtracted."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0  # summed over calls, also over those that ran at the same time

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return self + Cost(-other.calls, -other.input_tokens, -other.output_tokens, -other.seconds)


class Metered:
    """A language model that counts what it costs in `cost`; replies that broke a schema are not counted."""

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.name = lm.name
        self.max_concurrency = max_concurrency(lm)
        self.cost = Cost()
        self._lock = threading.Lock()

    def complete(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> Reply:
        """See `LanguageModel.complete`."""
        reply = self.lm.complete(messages, schema, max_tokens=max_tokens, temperature=temperature)
        with self._lock:
            self.cost += Cost(1, reply.input_tokens, reply.output_tokens, reply.seconds)
        return reply


def max_concurrency(lm: LanguageModel) -> int:
    """How many requests a model takes at a time: its `max_concurrency`, or 1."""
    return max(1, int(getattr(lm, "max_concurrency", 1)))


def complete_all(
    lm: LanguageModel, requests: Sequence[Sequence[Message]], schema: type[BaseModel], **options: Any
) -> list[Reply | RecollectError]:
    """A reply for each request, in order, as many at a time as the model takes; an error stands where one failed.

    options: as of `LanguageModel.complete`.
    """

    def ask(messages: Sequence[Message]) -> Reply | RecollectError:
        try:
            return lm.complete(messages, schema, **options)
        except RecollectError as error:
            return error

    workers = min(max_concurrency(lm), len(requests))
    if workers <= 1:
        return [ask(messages) for messages in requests]
    with ThreadPoolExecutor(workers, "recollect-lm") as pool:
        return list(pool.map(ask, requests))
