"""Read LoCoMo conversations (arXiv:2402.17753): two people, 19 to 32 dated sessions, about 588 turns.

The file is a list of samples, or one sample; a folder of such files is read in the order of their names. Times carry no
zone and are read as UTC, so that results do not depend on the machine. Source ids are "<sample>/<turn>", as in
"conv-26/D1:3".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.importers.dates import clock, find_date
from recollect.store.importers.files import (
    Tally,
    existing,
    json_array,
    open_text,
    require_list,
    require_mapping,
    require_text,
)

_SESSION = re.compile(r"session_(\d+)")
_WHEN = re.compile(r"\s*(\d{1,2}:\d{2}\s*[ap]m)\s+on\s+(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a LoCoMo conversation."""

    id: str  # "D<session>:<turn>"
    session: int
    speaker: str
    text: str
    caption: str | None  # what the photo shows that the turn shares
    at: datetime  # the session's date, in UTC


@dataclass(frozen=True, slots=True)
class Conversation:
    """One LoCoMo conversation, its turns in order."""

    id: str
    speakers: tuple[str, str]
    turns: tuple[Turn, ...]


def turn_text(text: str, caption: str | None) -> str:
    """What is remembered of a turn: its words, then the photo's caption if it shares one."""
    return f"{text} [shares a photo: {caption}]".strip() if caption else text


def samples(path: str | Path, tally: Tally | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each sample of a file or folder as raw JSON with its place; raises InvalidInput when it is no LoCoMo data."""
    path = existing(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InvalidInput(f"path: the folder {path.name} holds no .json file.")
    for file in files:
        with open_text(file) as stream:
            for where, record in json_array(stream, file.name, tally):
                yield where, require_mapping(record, where, "the sample")


def parse_conversation(record: Mapping[str, Any], where: str) -> Conversation:
    """The dialogue of one sample; raises InvalidInput naming the place and the field that does not fit."""
    identity = require_text(record.get("sample_id"), where, "sample_id")
    raw = require_mapping(record.get("conversation"), where, "conversation")
    speakers = tuple(require_text(raw.get(name), where, f"conversation.{name}") for name in ("speaker_a", "speaker_b"))
    numbers = sorted(int(match[1]) for match in map(_SESSION.fullmatch, raw) if match)
    turns: list[Turn] = []
    for number in numbers:
        name = f"conversation.session_{number}"
        at = _time(raw.get(f"session_{number}_date_time"), where, f"{name}_date_time")
        for index, turn in enumerate(require_list(raw[f"session_{number}"], where, name)):
            place = f"{where}: {name}[{index}]"
            turn = require_mapping(turn, where, f"{name}[{index}]")
            caption = turn.get("blip_caption")
            turns.append(
                Turn(
                    id=require_text(turn.get("dia_id"), place, "dia_id"),
                    session=number,
                    speaker=require_text(turn.get("speaker"), place, "speaker"),
                    text=require_text(turn.get("text"), place, "text"),
                    caption=caption if isinstance(caption, str) and caption else None,
                    at=at,
                )
            )
    if not turns:
        raise InvalidInput(f"{where}: conversation has no session with turns.")
    return Conversation(identity, (speakers[0], speakers[1]), tuple(turns))


def items(conversation: Conversation) -> Iterator[dict[str, Any]]:
    """The turns of a conversation as items for `Memory.add_many`, in order."""
    for turn in conversation.turns:
        text = turn_text(turn.text, turn.caption)
        if text.strip():
            yield {
                "text": text,
                "speaker": turn.speaker,
                "session": f"{conversation.id}/session_{turn.session}",
                "at": turn.at,
                "source_id": f"{conversation.id}/{turn.id}",
            }


def read(path: str | Path, *, tally: Tally | None = None, sample: str | None = None) -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many` from every conversation, or from the one named `sample` ("conv-26").

    A damaged sample is left out and noted in `tally`. Raises InvalidInput when the file is no LoCoMo data or has no
    such sample, NotFound when it does not exist.
    """
    tally = tally if tally is not None else Tally()
    seen: list[str] = []
    for where, record in samples(path, tally):
        seen.append(str(record.get("sample_id")))
        if sample is not None and seen[-1] != sample:
            continue
        try:
            conversation = parse_conversation(record, where)
        except InvalidInput as error:
            tally.damage(str(error))
            continue
        for item in items(conversation):
            yield tally.keep(item)
    if sample is not None and sample not in seen:
        raise InvalidInput(f"sample: there is no conversation {sample!r}, only {', '.join(seen):.200}.")
    tally.finish()


def _time(value: Any, where: str, name: str) -> datetime:
    match = _WHEN.fullmatch(require_text(value, where, name))
    moment = clock(match[1]) if match else None
    day = find_date(match[2].replace(",", ", ")) if match else None
    if moment is None or day is None:
        raise InvalidInput(f'{where}: {name} is {value!r:.40}, not a time such as "1:56 pm on 8 May, 2023".')
    return datetime(day.year, day.month, day.day, *moment, tzinfo=UTC)
