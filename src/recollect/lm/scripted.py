"""A language model that plays back replies, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from recollect.errors import Unavailable
from recollect.lm.protocol import CHARACTERS_PER_TOKEN, Message, Reply
from recollect.lm.schema import Raw, complete_with


class Scripted:
    """A language model for tests: gives `replies` one after the other and keeps what it was asked in `calls`.

    A reply is text, an object that is written as JSON, or a function of the messages that returns either.
    """

    def __init__(self, replies: Sequence[str | Mapping[str, Any] | Callable[[Sequence[Message]], Any]]):
        self.name = "scripted"
        self.calls: list[list[Message]] = []
        self._replies = list(replies)

    def complete(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> Reply:
        """See `LanguageModel.complete`; tokens are counted as four characters each."""

        def generate(messages: list[Message]) -> Raw:
            if len(self.calls) >= len(self._replies):
                raise Unavailable(f"replies: the script ends after {len(self._replies)} replies; give it more.")
            self.calls.append(messages)
            reply = self._replies[len(self.calls) - 1]
            reply = reply(messages) if callable(reply) else reply
            text = reply if isinstance(reply, str) else json.dumps(reply)
            given = sum(len(message["content"]) for message in messages)
            return Raw(text, given // CHARACTERS_PER_TOKEN, len(text) // CHARACTERS_PER_TOKEN, estimated=True)

        return complete_with(self.name, generate, messages, schema)
