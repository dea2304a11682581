"""The records of the store: what is kept (episodes, notes, links) and what is handed out (hits, answers, receipts).

An episode is verbatim and immutable. A note is derived from episodes by a method and says so. A link joins two records.
All times are timezone-aware; a naive time is read as local time of this machine and keeps its wall-clock reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from recollect.errors import InvalidInput

EPISODE = "episode"
DEFAULT_USER = "default"


@dataclass(frozen=True, slots=True)
class Episode:
    """Something that was said or written, word for word."""

    id: str  # "ep_" and 26 characters, sortable by time of recording
    text: str
    at: datetime  # when it was said
    recorded_at: datetime  # when it was stored
    speaker: str | None = None
    session: str | None = None
    user: str = DEFAULT_USER
    agent: str | None = None
    source_id: str | None = None  # the id that the message had where it came from
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON values only


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a method derived from episodes: a fact, a thought, a summary, a triple, a tag."""

    id: str  # "no_" and 26 characters
    kind: str
    text: str
    method: str
    method_version: str
    sources: tuple[str, ...]  # ids of the episodes that it was derived from
    recorded_at: datetime
    valid_from: datetime | None = None  # when what it says became true
    valid_to: datetime | None = None  # when it ceased to be true; None while it holds
    meta: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None  # what it is embedded and searched by, where that is not its text
    any_source: bool = False  # each source alone carries it, as with a fact that was said twice
    replaced_by: str | None = None  # the note that took its place; such a note is kept, and recalled only as of before
    closed_by: str | None = None  # the note that ended its validity, from whose time `valid_to` is then taken
    at: datetime | None = None  # since when it is known; set by the store: the time of its newest source, or the oldest


@dataclass(frozen=True, slots=True)
class Link:
    """A directed, weighted relation between two records (episodes or notes)."""

    source: str
    target: str
    relation: str
    weight: float = 1.0
    method: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """One reason for a hit's rank: what was measured, how much it counts, and its share of the score."""

    name: str
    value: float  # standardised over the candidates of this recall: 0 is the mean, 1 a standard deviation
    weight: float
    share: float  # |weight * value| over the sum of these over all signals; shares of a hit sum to 1


@dataclass(frozen=True, slots=True)
class Hit:
    """One recalled record, with its explanation."""

    id: str
    kind: str  # "episode" or the note's kind
    text: str
    at: datetime
    score: float  # higher is better; comparable within one recall only
    why: tuple[Signal, ...]  # largest share first
    sources: tuple[str, ...]  # the episodes behind it (itself, for an episode)
    speaker: str | None = None
    session: str | None = None
    source_id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    excerpt: tuple[int, int] | None = None  # characters of the best passage, when the text is long
    valid_from: datetime | None = None  # of a note: since when it holds, where that is known
    valid_to: datetime | None = None  # of a note: until when it held; None while it holds

    def to_json(self) -> dict[str, Any]:
        """This hit as plain JSON values, times in ISO 8601."""
        return to_json(self)


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence that an answer rests on, and the episode that it stands in."""

    text: str
    episode_id: str
    at: datetime
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question; `abstained` when the memory holds no good evidence."""

    text: str
    quotes: tuple[Quote, ...]
    abstained: bool
    confidence: float  # 0 to 1
    reader: str  # "extractive", or the name of the language model
    hits: tuple[Hit, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """This answer as plain JSON values, times in ISO 8601."""
        return to_json(self)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a call of `forget` removed, row by row."""

    episodes: tuple[str, ...]
    notes: tuple[str, ...]  # notes derived only from what was forgotten
    flagged_notes: tuple[str, ...]  # notes that other episodes still carry; they are to be derived again
    num_links: int
    num_vectors: int
    num_token_vectors: int
    num_index_entries: int  # rows of the full-text index
    index_files: tuple[str, ...]  # files beside the database whose rows were overwritten
    at: datetime
    complete: bool = (
        True  # False while a busy reader keeps old bytes in the log; they go when the memory is next closed
    )

    def to_json(self) -> dict[str, Any]:
        """This receipt as plain JSON values, times in ISO 8601."""
        return to_json(self)


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON values: times in ISO 8601, tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return plain(asdict(record))


def parse_time(value: str | date | datetime, name: str = "at") -> datetime:
    """Read a time given by a caller; a naive one is local time of this machine.

    Accepts a datetime, a date (midnight) or ISO 8601 text such as "2024-05-12" or "2024-05-12T09:30+02:00".
    Raises InvalidInput, naming the field `name`, for anything else and for years outside 1 to 9998.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise InvalidInput(
                f"{name}: {value!r:.80} is not a time; write it as 2024-05-12 or 2024-05-12T09:30."
            ) from None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise InvalidInput(f"{name}: expected a time, got {type(value).__name__}.")
    try:
        aware = value if value.tzinfo else value.astimezone()
        aware.astimezone(UTC)
    except (OverflowError, ValueError, OSError):
        raise InvalidInput(f"{name}: the year {value.year} is out of range.") from None
    if not 1 < aware.year < 9998:
        raise InvalidInput(f"{name}: the year {value.year} is out of range.")
    return aware


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(time: datetime) -> tuple[int, int]:
    """An aware time as (microseconds since 1970 UTC, offset in minutes), the form that databases keep."""
    offset = time.utcoffset() or timedelta(0)
    return (time - _EPOCH) // timedelta(microseconds=1), round(offset.total_seconds() / 60)


def from_micros(micros: int, offset_minutes: int = 0) -> datetime:
    """The inverse of `to_micros`, with the wall clock of the offset."""
    return (_EPOCH + timedelta(microseconds=micros)).astimezone(timezone(timedelta(minutes=offset_minutes)))
