"""What a language model is to recollect: messages in, a reply out, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

Message = Mapping[str, str]  # "role" (system, user or assistant) and "content"
CHARACTERS_PER_TOKEN = 4  # the estimate used where a server does not count


@dataclass(frozen=True, slots=True)
class Reply:
    """What a language model answered and what it cost, a second attempt at a schema included."""

    text: str
    parsed: Any  # an object of the schema that was asked for; None without one
    input_tokens: int
    output_tokens: int
    seconds: float
    model: str
    estimated: bool = False  # the server did not count the tokens; 4 characters are taken for one


class LanguageModel(Protocol):
    """Anything that turns messages into a reply."""

    name: str

    def complete(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0.0,
    ) -> Reply:
        """The reply to `messages`, with `parsed` an object of `schema` when one is given.

        Raises InvalidInput for messages that cannot be sent, Unavailable when the model cannot be reached or refuses,
        SchemaBroken when two replies did not fit the schema.
        """
        ...
