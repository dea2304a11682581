"""Read LongMemEval histories (arXiv:2410.10813): dated sessions between a user and an assistant.

Two forms are read: the official one (S, M and oracle files: one history and one question in each record) and records
in which several questions share one history (`questions`, `answers`, `answer_session_ids` as parallel lists). Records
are read one at a time, so that memory is that of one history however large the file is. Times carry no zone and are
read as UTC. A turn's id is "<session id>_<number from 1>"; fillers are drawn with replacement, so a session id that
comes again in the same history gets "#2", "#3".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.importers.files import (
    Tally,
    existing,
    json_array,
    open_text,
    require_list,
    require_mapping,
    require_text,
)
from recollect.store.records import parse_time

_WHEN = re.compile(r"\s*(\d{4})/(\d{1,2})/(\d{1,2})(?:\s*\([A-Za-z]+\))?(?:\s+(\d{1,2}):(\d{2}))?\s*")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a session."""

    id: str
    role: str  # "user" or "assistant"
    text: str
    evidence: bool  # whether the data mark it as holding the answer


@dataclass(frozen=True, slots=True)
class Session:
    """One dated session."""

    id: str
    at: datetime  # in UTC
    turns: tuple[Turn, ...]


def records(path: str | Path, tally: Tally | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each record of a file as raw JSON with its place, one at a time."""
    path = existing(path)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if len(files) != 1:
            raise InvalidInput(f"path: the folder {path.name} holds {len(files)} .json files; name the one you mean.")
        path = files[0]
    with open_text(path) as stream:
        for where, record in json_array(stream, path.name, tally):
            yield where, require_mapping(record, where, "the record")


def parse_history(record: Mapping[str, Any], where: str) -> tuple[Session, ...]:
    """The sessions of one record by time; raises InvalidInput naming the place and the field that does not fit."""
    sessions = require_list(record.get("haystack_sessions"), where, "haystack_sessions")
    ids = require_list(record.get("haystack_session_ids"), where, "haystack_session_ids")
    dates = require_list(record.get("haystack_dates"), where, "haystack_dates")
    if not len(sessions) == len(ids) == len(dates):
        raise InvalidInput(
            f"{where}: haystack_sessions, haystack_session_ids and haystack_dates should be equally long, "
            f"not {len(sessions)}, {len(ids)} and {len(dates)}."
        )
    seen: Counter[str] = Counter()
    history: list[Session] = []
    for index, (raw, name, when) in enumerate(zip(sessions, ids, dates, strict=True)):
        name = str(name)
        seen[name] += 1
        identity = name if seen[name] == 1 else f"{name}#{seen[name]}"
        turns: list[Turn] = []
        for number, turn in enumerate(require_list(raw, where, f"haystack_sessions[{index}]"), 1):
            field = f"haystack_sessions[{index}][{number - 1}]"
            turn = require_mapping(turn, where, field)
            role = require_text(turn.get("role"), where, f"{field}.role")
            text = require_text(turn.get("content"), where, f"{field}.content")
            turns.append(Turn(f"{identity}_{number}", role, text, turn.get("has_answer") is True))
        history.append(Session(identity, parse_date(when, f"{where}: haystack_dates[{index}]"), tuple(turns)))
    return tuple(sorted(history, key=lambda session: session.at))


def parse_date(value: Any, where: str) -> datetime:
    """A date such as "2023/05/30 (Tue) 23:40", or ISO 8601, in UTC; raises InvalidInput naming `where`."""
    text = require_text(value, where, "the date")
    match = _WHEN.fullmatch(text)
    try:
        if match:
            return datetime(*(int(part or 0) for part in match.groups()), tzinfo=UTC)  # pyright: ignore[reportArgumentType]
        time = datetime.fromisoformat(text)
        return parse_time(time if time.tzinfo else time.replace(tzinfo=UTC), where)
    except ValueError:
        raise InvalidInput(f'{where}: {text!r:.40} is not a date such as "2023/05/30 (Tue) 23:40".') from None


def items(history: tuple[Session, ...], prefix: str = "") -> Iterator[dict[str, Any]]:
    """The turns of a history as items for `Memory.add_many`, in order; `prefix` goes before source ids and sessions."""
    for session in history:
        for turn in session.turns:
            if turn.text.strip():
                yield {
                    "text": turn.text,
                    "speaker": turn.role,
                    "session": prefix + session.id,
                    "at": session.at,
                    "source_id": prefix + turn.id,
                }


def read(path: str | Path, *, tally: Tally | None = None, question: str | None = None) -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many` from one history: the file's only one, or that of the question with id `question`.

    Raises InvalidInput when the file is no such data, holds several histories and none is named, or has no such
    question; NotFound when the file does not exist.
    """
    tally = tally if tally is not None else Tally()
    chosen: tuple[str, Mapping[str, Any]] | None = None
    for where, record in records(path):
        names = [str(record.get("question_id", ""))]
        if isinstance(record.get("question_ids"), list):
            names = [str(name) for name in record["question_ids"]]
        if question is not None and question not in names:
            continue
        if chosen is not None:
            raise InvalidInput(
                f"question: {Path(path).name} holds several histories; name one by its question, "
                f"such as {chosen[1].get('question_id') or 'the first of question_ids'}."
            )
        chosen = where, record
        if question is not None:
            break
    if chosen is None:
        raise InvalidInput(f"question: {Path(path).name} has no question with the id {question!r}.")
    for item in items(parse_history(chosen[1], chosen[0]), prefix="longmemeval:"):
        yield tally.keep(item)
    tally.finish()
