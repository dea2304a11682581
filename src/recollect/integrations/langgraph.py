"""A memory as the long-term store of LangGraph: `builder.compile(store=RecollectStore(recollect.open("memory.db")))`.

An item is an episode: its namespace is the session, its key the source id, its value lies in `meta`, and its text is made
of the parts of the value that are to be found. So items are on the disk when `put` returns, are found by everything that the
memory ranks by, can be explained and exported, and are gone down to the bytes when they are deleted or overwritten.

All items belong to the memory's user, whatever their namespace says; give each user of an application a memory of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    get_text_at_path,
)

from recollect.errors import InvalidInput
from recollect.store.checks import MAX_K, checked_meta
from recollect.store.memory import Memory
from recollect.store.records import Episode, Hit

SESSION = "langgraph:"  # before the namespace, in the name of a session
_PAGE = 500
_COMPARISONS = {
    "$eq": lambda value, other: value == other,
    "$ne": lambda value, other: value != other,
    "$gt": lambda value, other: value > other,
    "$gte": lambda value, other: value >= other,
    "$lt": lambda value, other: value < other,
    "$lte": lambda value, other: value <= other,
}


class RecollectStore(BaseStore):
    """LangGraph's store over one memory, for the synchronous and the asynchronous calls.

    Items do not expire (no TTL). `put(index=False)` keeps an item out of searches by meaning, `put(index=[paths])` lets it
    be found by these parts of its value only. `search` without a query gives the last written first; with one, the best
    first, with scores that compare within one search only. Raises InvalidInput for what cannot be stored.
    """

    def __init__(self, memory: Memory):
        self.memory = memory

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do operations: first all that read, then all that write, of several writes to one key the last."""
        asked = list(ops)
        results: list[Result] = [None] * len(asked)
        for number, op in enumerate(asked):
            if isinstance(op, GetOp):
                found = self._stored(op.namespace, op.key)
                results[number] = _item(found[-1]) if found else None
            elif isinstance(op, SearchOp):
                results[number] = self._search(op)
            elif isinstance(op, ListNamespacesOp):
                results[number] = self._namespaces(op)
        for op in {(op.namespace, op.key): op for op in asked if isinstance(op, PutOp)}.values():
            self._put(op)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch` in a thread of its own."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _stored(self, namespace: tuple[str, ...], key: str) -> list[Episode]:
        """The episode of a key; two only where a put was cut off between writing the new and deleting the old."""
        return list(self.memory.episodes(session=_session(namespace), source_id=key))

    def _put(self, op: PutOp) -> None:
        before = self._stored(op.namespace, op.key)
        if op.value is not None:
            if not isinstance(op.value, Mapping):
                raise InvalidInput(f"value: expected a mapping, got {type(op.value).__name__}.")
            now = datetime.now().astimezone()
            about = {
                "value": dict(op.value),
                "created_at": _about(before[-1])["created_at"] if before else now.isoformat(),
                "found": op.index is not False,
            }
            meta = checked_meta({"langgraph": about})
            self.memory.add(_text(op), session=_session(op.namespace), source_id=op.key, at=now, meta=meta)
        if before:
            self.memory.forget([episode.id for episode in before])

    def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.query:
            found = self._recalled(op)
        else:
            latest = (
                item for name in self._sessions(op.namespace_prefix) for item in self.memory.episodes(session=name)
            )
            ordered = sorted(latest, key=lambda episode: episode.at, reverse=True)
            found = (_search_item(episode, None) for episode in ordered if _passes(episode, op.filter))
        return list(islice(found, op.offset, op.offset + op.limit))

    def _recalled(self, op: SearchOp) -> Iterator[SearchItem]:
        """The items that match, best first; recalls more where many hits lie in other namespaces."""
        names = set(self._sessions(op.namespace_prefix))
        if not names:
            return
        only = next(iter(names)) if len(names) == 1 else None
        k, given = min(MAX_K, op.offset + op.limit), set()
        while True:
            hits = self.memory.recall(str(op.query), k, session=only)
            for hit in hits:
                fits = hit.kind == "episode" and hit.session in names and hit.id not in given
                if fits and _about(hit)["found"] and _passes(hit, op.filter):
                    given.add(hit.id)
                    yield _search_item(hit, hit.score)
            if len(hits) < k or k == MAX_K:
                return
            k = min(MAX_K, 4 * k)

    def _sessions(self, prefix: tuple[str, ...]) -> list[str]:
        """The sessions whose namespace begins with `prefix`."""
        names, cursor = [], None
        while True:
            page = self.memory.sessions(_PAGE, following=cursor)
            names += [each.name for each in page if each.name.startswith(SESSION)]
            if len(page) < _PAGE:
                return [name for name in names if _namespace(name)[: len(prefix)] == tuple(prefix)]
            cursor = page[-1].cursor

    def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        every = (_namespace(name) for name in self._sessions(()))
        fitting = {
            namespace[: op.max_depth]
            for namespace in every
            if all(_matches(namespace, condition) for condition in op.match_conditions or ())
        }
        return sorted(fitting)[op.offset : op.offset + op.limit]


def _session(namespace: tuple[str, ...]) -> str:
    return SESSION + json.dumps(list(namespace), ensure_ascii=False)


def _namespace(session: str) -> tuple[str, ...]:
    return tuple(json.loads(session.removeprefix(SESSION)))


def _text(op: PutOp) -> str:
    """What an item is found by: the parts of its value that `index` names, or all; its key where they hold no text."""
    assert op.value is not None
    paths = op.index if isinstance(op.index, list) else []
    parts = [part for path in paths for part in get_text_at_path(op.value, path)] if paths else _leaves(op.value)
    return "\n".join(part for part in parts if part.strip()) or op.key


def _leaves(value: Any, name: str = "") -> Iterator[str]:
    """Every text and number of a value, with its name before it unless it is a text."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part, name)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        yield f"{name}: {json.dumps(value)}" if name else json.dumps(value)


def _about(record: Episode | Hit) -> dict[str, Any]:
    return record.meta["langgraph"]


def _passes(record: Episode | Hit, conditions: Mapping[str, Any] | None) -> bool:
    """Whether the value of an item meets all conditions; a comparison of what cannot be compared is not met."""
    value = _about(record)["value"]
    for name, wanted in (conditions or {}).items():
        tests = (
            wanted if isinstance(wanted, Mapping) and any(key in _COMPARISONS for key in wanted) else {"$eq": wanted}
        )
        for comparison, other in tests.items():
            if comparison not in _COMPARISONS:
                raise InvalidInput(f"filter: {comparison!r:.20} is no comparison; use {', '.join(_COMPARISONS)}.")
            try:
                if not _COMPARISONS[comparison](value.get(name), other):
                    return False
            except TypeError:
                return False
    return True


def _matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = tuple(condition.path)
    if len(path) > len(namespace):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def _fields(record: Episode | Hit) -> dict[str, Any]:
    return {
        "namespace": _namespace(record.session or ""),
        "key": record.source_id,
        "value": _about(record)["value"],
        "created_at": datetime.fromisoformat(_about(record)["created_at"]),
        "updated_at": record.at,
    }


def _item(episode: Episode) -> Item:
    return Item(**_fields(episode))


def _search_item(record: Episode | Hit, score: float | None) -> SearchItem:
    return SearchItem(**_fields(record), score=score)
