"""What a caller may give: texts, names, numbers and metadata are checked here, and ids and keys are made from them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.records import EPISODE, Episode, Note, parse_time, to_micros

Time = str | date | datetime
MAX_TEXT_CHARS = 64 * 2**20
MAX_NAME_CHARS = 1000
MAX_META_CHARS = 2**20
MAX_K = 10_000


def episode_key(episode: Episode) -> bytes:
    """What makes an episode the same: its scope, its source id or else its content, and its time.

    A time that was not given (it equals the time of recording) does not count beside a source id.
    """
    content = [episode.source_id] if episode.source_id else ["", episode.speaker, episode.text]
    given = not episode.source_id or episode.at != episode.recorded_at
    when = to_micros(episode.at)[0] if given else None
    identity = [episode.user, episode.agent, episode.session, content, when]
    return hashlib.sha256(json.dumps(identity).encode()).digest()[:16]


def query_text(query: Any) -> str:
    """A query as clean text: lone surrogates replaced, NULs gone. Raises InvalidInput when it is empty or not text."""
    if not isinstance(query, str):
        raise InvalidInput(f"query: expected text, got {type(query).__name__}.")
    text = query.encode("utf-8", "replace").decode().replace("\0", " ").strip()
    if not text:
        raise InvalidInput("query: is empty.")
    return text


def check_k(k: Any) -> None:
    """Raise InvalidInput unless `k` is a whole number from 1 to MAX_K."""
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        raise InvalidInput(f"k: expected a whole number from 1 to {MAX_K}, got {k!r:.40}.")


def checked_text(value: Any, name: str, max_chars: int) -> str:
    """The text that was given for the field `name`. Raises InvalidInput when it cannot be kept."""
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: expected text, got {type(value).__name__}.")
    if not value.strip():
        raise InvalidInput(f"{name}: is empty.")
    if len(value) > max_chars:
        raise InvalidInput(f"{name}: has {len(value)} characters; the limit is {max_chars}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}: character {error.start} is half of a surrogate pair, which is not valid Unicode; replace it."
        ) from None
    return value


def checked_name(value: Any, name: str) -> str | None:
    """A short text for the field `name`, or None. Raises InvalidInput."""
    return None if value is None else checked_text(value, name, MAX_NAME_CHARS)


def checked_meta(value: Any) -> dict[str, Any]:
    """A mapping of JSON values, copied. Raises InvalidInput."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"meta: expected a mapping, got {type(value).__name__}.")
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"meta: cannot be written as JSON ({error}).") from None
    if len(text) > MAX_META_CHARS:
        raise InvalidInput(f"meta: is {len(text)} characters as JSON; the limit is {MAX_META_CHARS}.")
    return json.loads(text)


def checked_episode(item: Any, user: str, agent: str | None) -> Episode:
    """A new episode from a mapping with the arguments of `Memory.add`. Raises InvalidInput, naming the field."""
    if not isinstance(item, Mapping):
        raise InvalidInput(f"item: expected a mapping with at least `text`, got {type(item).__name__}.")
    unknown = set(item) - {"text", "speaker", "session", "at", "source_id", "meta"}
    if unknown:
        raise InvalidInput(f"{min(unknown)}: unknown field; known are text, speaker, session, at, source_id and meta.")
    text = checked_text(item.get("text"), "text", MAX_TEXT_CHARS)
    now = datetime.now().astimezone()
    at = parse_time(item["at"]) if item.get("at") is not None else now
    speaker = checked_name(item.get("speaker"), "speaker")
    session = checked_name(item.get("session"), "session")
    source_id = checked_name(item.get("source_id"), "source_id")
    return Episode(
        id="ep_" + new_id(now),
        text=text,
        at=at,
        recorded_at=now,
        speaker=speaker,
        session=session,
        user=user,
        agent=agent,
        source_id=source_id,
        meta=checked_meta(item.get("meta")),
    )


def checked_note(
    text: Any,
    kind: Any,
    sources: Sequence[str],
    valid_from: Time | None,
    valid_to: Time | None,
    method: Any,
    method_version: Any,
    meta: Any,
) -> Note:
    """A new note from the arguments of `Memory.note`. Raises InvalidInput, naming the field."""
    now = datetime.now().astimezone()
    if kind == EPISODE:
        raise InvalidInput("kind: 'episode' is taken; name what the note is, such as 'fact' or 'summary'.")
    start = parse_time(valid_from, "valid_from") if valid_from is not None else None
    end = parse_time(valid_to, "valid_to") if valid_to is not None else None
    if start and end and end < start:
        raise InvalidInput("valid_to: is earlier than valid_from.")
    return Note(
        id="no_" + new_id(now),
        kind=checked_text(kind, "kind", MAX_NAME_CHARS),
        text=checked_text(text, "text", MAX_TEXT_CHARS),
        method=checked_text(method, "method", MAX_NAME_CHARS),
        method_version=checked_text(method_version, "method_version", MAX_NAME_CHARS),
        sources=tuple(dict.fromkeys(sources)),
        recorded_at=now,
        valid_from=start,
        valid_to=end,
        meta=checked_meta(meta),
    )


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(now: datetime) -> str:
    """26 characters, sortable by time: 48 bits of milliseconds and 80 random bits (the layout of a ULID)."""
    number = (int(now.timestamp() * 1000) & (2**48 - 1)) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
