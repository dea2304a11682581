"""A memory around an openai client, without a server: `client = recollect.wrap(openai.OpenAI(), user="ana")`."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import openai

from recollect.config import load_settings
from recollect.errors import InvalidInput, RecollectError
from recollect.lm import from_settings
from recollect.server.conversation import RECALL_TOKENS, Turn
from recollect.server.pool import open_as_set
from recollect.store.memory import Memory

Client = TypeVar("Client", openai.OpenAI, openai.AsyncOpenAI)


def wrap(
    client: Client,
    *,
    user: str | None = None,
    memory: Memory | None = None,
    db: str | os.PathLike[str] | None = None,
    session: str | None = None,
    recall_tokens: int = RECALL_TOKENS,
) -> Client:
    """A copy of an openai client whose `chat.completions.create` recalls before it asks and remembers after.

    What is recalled goes into the request as marked data, at most `recall_tokens` of it (four characters each); the reply
    tells it in its field `recollect`. The user's message and the reply are remembered; of a streamed reply, what came before
    the stream ended or was closed. Everything else of the client is as it was; a copy made of the copy has no memory.

    user: whose memory (default: the settings'). memory: an open one to use; else that of `db` or of the settings is opened.
    session: the conversation; None makes one of the day and of the first message.
    Raises InvalidInput, and as `recollect.open` does; a turn that cannot be remembered is a warning.
    """
    if not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        raise InvalidInput(f"client: expected an openai.OpenAI or openai.AsyncOpenAI, got {type(client).__name__}.")
    if memory is not None and (user is not None or db is not None):
        raise InvalidInput("memory: is bound to its user and database; give it alone, or user and db.")
    if memory is None:
        settings = load_settings(user=user, db=os.fspath(db) if db is not None else None)
        memory = open_as_set(settings, from_settings(settings))
    copy = client.copy()
    completions: Any = copy.chat.completions

    def turn_of(given: dict[str, Any]) -> Turn:
        turn = Turn(list(given.get("messages") or ()), session, recall_tokens)
        given["messages"] = turn.messages
        return turn

    ways = _asynchronous if isinstance(client, openai.AsyncOpenAI) else _synchronous
    completions.create = ways(completions.create, memory, turn_of)
    return copy


def _synchronous(
    create: Callable[..., Any], memory: Memory, turn_of: Callable[[dict[str, Any]], Turn]
) -> Callable[..., Any]:
    def remembering(**given: Any) -> Any:
        turn = turn_of(given)
        turn.recall(memory)
        reply = create(**given | {"messages": turn.with_memories()})
        if given.get("stream"):
            return _Stream(reply, turn, memory)
        _finish(turn, memory, reply)
        return reply

    return remembering


def _asynchronous(
    create: Callable[..., Any], memory: Memory, turn_of: Callable[[dict[str, Any]], Turn]
) -> Callable[..., Any]:
    async def remembering(**given: Any) -> Any:
        turn = turn_of(given)
        await asyncio.to_thread(turn.recall, memory)
        reply = await create(**given | {"messages": turn.with_memories()})
        if given.get("stream"):
            return _AsyncStream(reply, turn, memory)
        await asyncio.to_thread(_finish, turn, memory, reply)
        return reply

    return remembering


def _finish(turn: Turn, memory: Memory, reply: Any) -> None:
    """Remember a whole reply, and tell in it what was recalled; a raw response is left as it is."""
    choices = getattr(reply, "choices", None)
    _remember(turn, memory, (choices[0].message.content or "") if choices else "", True)
    if choices is not None:
        reply.recollect = turn.report()


def _remember(turn: Turn, memory: Memory, reply: str, whole: bool) -> None:
    try:
        turn.remember(memory, reply, whole=whole)
    except RecollectError as error:
        warnings.warn(f"this turn is not remembered: {error}", stacklevel=4)


class _Said:
    """A stream's chunks as they pass; remembers the turn once, at the end or when the stream is closed."""

    def __init__(self, stream: Any, turn: Turn, memory: Memory):
        self._stream, self._turn, self._memory = stream, turn, memory
        self._parts: list[str] = []
        self._whole = self._kept = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _pass(self, chunk: Any) -> Any:
        if not self._parts:
            chunk.recollect = self._turn.report()
        choice = chunk.choices[0] if chunk.choices else None
        self._parts.append((choice.delta.content or "") if choice and choice.index == 0 else "")
        self._whole = self._whole or bool(choice and choice.finish_reason)
        return chunk

    def _keep(self) -> None:
        if not self._kept:
            self._kept = True
            _remember(self._turn, self._memory, "".join(self._parts), self._whole)


class _Stream(_Said):
    """A stream of chunks, as the openai client gives it."""

    def __iter__(self) -> Iterator[Any]:
        try:
            for chunk in self._stream:
                yield self._pass(chunk)
            self._whole = True
        finally:
            self._keep()

    def __next__(self) -> Any:
        try:
            return self._pass(next(self._stream))
        except StopIteration:
            self._whole = True
            self._keep()
            raise

    def close(self) -> None:
        """Close the stream, and remember what came."""
        self._stream.close()
        self._keep()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AsyncStream(_Said):
    """The same for the asynchronous client."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for chunk in self._stream:
                yield self._pass(chunk)
            self._whole = True
        finally:
            await asyncio.shield(asyncio.to_thread(self._keep))

    async def __anext__(self) -> Any:
        try:
            return self._pass(await anext(self._stream))
        except StopAsyncIteration:
            self._whole = True
            await asyncio.to_thread(self._keep)
            raise

    async def close(self) -> None:
        """Close the stream, and remember what came."""
        await self._stream.close()
        await asyncio.to_thread(self._keep)

    async def __aenter__(self) -> _AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
