"""Read the dates that exports and file names use; always in English or in figures, whatever the machine's language."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

from recollect.errors import InvalidInput
from recollect.store.records import parse_time

_NAMES = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
MONTHS = {name[:size]: number for number, name in enumerate(_NAMES, 1) for size in (3, len(name))} | {"sept": 9}
_MONTH = "(?P<month>" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\.?"
_NAMED = (
    re.compile(rf"(?<![a-z0-9]){_MONTH}[ _-]+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?[ _-]+(?P<year>\d{{4}})(?!\d)"),
    re.compile(rf"(?<!\d)(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[ _-]+{_MONTH},?[ _-]+(?P<year>\d{{4}})(?!\d)"),
)
_FIGURES = re.compile(r"(?<!\d)(?P<year>\d{4})(?P<gap>[-_./ ]?)(?P<month>\d{2})(?P=gap)(?P<day>\d{2})(?!\d)")
_LOOSE = re.compile(r"(?<!\d)(?P<year>\d{4})[-_./](?P<month>\d{1,2})[-_./](?P<day>\d{1,2})(?!\d)")
_CLOCK = re.compile(r"(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)


def find_date(text: str) -> date | None:
    """The first date in a text such as a file name: 2024-05-12, 20240512, 2024/5/12, May 12 2024, 12th of May forms."""
    lowered = text.lower()
    for pattern in (_FIGURES, _LOOSE, *_NAMED):
        for match in pattern.finditer(lowered):
            month = match["month"]
            try:
                return date(int(match["year"]), MONTHS.get(month) or int(month), int(match["day"]))
            except ValueError:
                continue
    return None


def clock(text: str) -> tuple[int, int, int] | None:
    """Hour, minute and second of "9:30", "09.30.15", "9:30 PM" or "9:30 p. m."; None when it is no time of day."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match[4] in "pP" else 0)
    return (hour, minute, second) if hour < 24 and minute < 60 and second < 60 else None


def any_time(value: Any, where: str, time_format: str | None = None) -> datetime:
    """A time from a table: ISO 8601, seconds, milliseconds or microseconds since 1970, or `time_format` (strptime).

    A time without a zone is local time of this machine. Raises InvalidInput naming `where` for anything else.
    """
    if isinstance(value, str):
        value = value.strip()
        if time_format is not None:
            try:
                return parse_time(datetime.strptime(value, time_format), where)
            except ValueError:
                raise InvalidInput(f"{where}: {value!r:.60} is not a time in the form {time_format!r}.") from None
        if not re.fullmatch(r"-?\d{9,17}(?:\.\d+)?", value):
            return parse_time(value, where)
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{where}: expected a time, got {value!r:.60}.")
    seconds = float(value)
    while abs(seconds) >= 1e11:  # milliseconds or microseconds: as seconds it would be after the year 5000
        seconds /= 1000
    return from_epoch(seconds, where)


def from_epoch(seconds: Any, where: str) -> datetime:
    """Seconds since 1970 as a time in UTC; raises InvalidInput naming `where` when it is no such number."""
    try:
        return parse_time(datetime.fromtimestamp(float(seconds), UTC), where)
    except (TypeError, ValueError, OverflowError, OSError):
        raise InvalidInput(f"{where}: {seconds!r:.60} is not a number of seconds since 1970.") from None
