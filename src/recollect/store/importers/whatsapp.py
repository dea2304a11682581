"""Import a WhatsApp chat: the exported text file ("Export chat", Android or iPhone) or the zip archive around it.

Lines look like "12/05/2024, 09:30 - Ana: Hello" or "[12/05/2024, 9:30:15 PM] Ana: Hello"; the rest of a message of
several lines follows without a date. The order of day, month and year differs between phones and is nowhere stated:
of the orders in which every date of the file exists, the one is taken in which time runs backwards least often; for
a file that fits several orders equally, month first when the clock has AM and PM, day first otherwise (or say
`date_order`). Lines that WhatsApp itself wrote, deleted messages and photos that were not exported are skipped.

An episode is one message: session "<chat> <day>", times are local time of this machine (or `time_zone`), source ids are
digests of time, speaker and text. Memory: that of the longest message; the file is read twice.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from recollect.errors import InvalidInput
from recollect.store.importers.dates import clock
from recollect.store.importers.files import Tally, digest, existing, members, open_text
from recollect.store.records import parse_time

ORDERS = ("dmy", "mdy", "ymd")
_Stamp = tuple[str, str, str]
_FIRST_YEAR = 2009  # WhatsApp began
_MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")  # marks of writing direction
_SPACES = re.compile("[\u00a0\u202f\u2007]")
_DATE = r"(\d{1,4})[./-]\s?(\d{1,2})[./-]\s?(\d{1,4})\.?"
_TIME = r"(\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[AaPp]\.?\s?[Mm]\.?)?)"
_LINE = re.compile(
    rf"(?:\[{_DATE},?\s(?:[^\W\d]+\s)?{_TIME}\]\s|{_DATE},?\s(?:[^\W\d]+\s)?{_TIME}\s[-\u2013]\s)(.*)", re.DOTALL
)
_SPEAKER = re.compile(r"([^:\n]{1,80}):(?:\s|$)(.*)", re.DOTALL)
_NO_CONTENT = re.compile(
    r"<[^<>\n]{1,60} [^<>\n]{1,200}>|(?:image|video|audio|sticker|gif|document|contact card) omitted"
    r"|\S+\.\w{2,4} \(file attached\)|(?:this message was|you) deleted(?: this message)?\.?"
    r"|missed (?:voice|video) call",
    re.IGNORECASE,
)
_ATTACHED = re.compile(r"(?:<attached: [^<>\n]+>|\S+\.\w{2,4} \(file attached\))\s*\n?", re.IGNORECASE)
_NOTICE = re.compile(r"messages (?:and calls|to this (?:chat|group)).{0,40}end-to-end encrypted", re.IGNORECASE)
_EDITED = re.compile(r"\s*<This message was edited>$")


def read(
    path: str | Path, *, tally: Tally | None = None, date_order: str | None = None, time_zone: str | None = None
) -> Iterator[dict[str, Any]]:
    """Items for `Memory.add_many`, message by message.

    `date_order` is "dmy", "mdy" or "ymd"; None detects it. `time_zone` is the phone's, such as "Europe/Lisbon". Raises
    InvalidInput when the file is no such export, NotFound when it does not exist.
    """
    tally = tally if tally is not None else Tally()
    path = existing(path)
    if date_order is not None and date_order not in ORDERS:
        raise InvalidInput(f"date_order: {date_order!r} is not one of {', '.join(ORDERS)}.")
    zone = _zone(time_zone)
    for file, member in _texts(path):
        chat = _chat_name(file, member)
        order = date_order or detect_order(file, member)
        previous, seen = None, Counter[str]()
        for line, (stamp, clock_text, rest) in _messages(file, member):
            where = f"{member or file.name}: line {line}"
            day, moment = _day(stamp, order), clock(clock_text)
            if day is None or moment is None:
                tally.damage(f"{where}: {'/'.join(stamp)} {clock_text} is no time in the order {order}.")
                continue
            match = _SPEAKER.match(rest)
            text = _words(match[2]) if match else ""
            if match is None or not text:
                tally.skip()
                continue
            naive = datetime.combine(day, time(*moment))
            if naive != previous:
                previous, seen = naive, Counter()
            speaker = match[1].strip().removeprefix("~").strip()
            key = digest(naive.isoformat(), speaker, text)
            seen[key] += 1
            yield tally.keep(
                {
                    "text": text,
                    "speaker": speaker or None,
                    "session": f"{chat} {day.isoformat()}",
                    "at": naive.replace(tzinfo=zone) if zone else parse_time(naive),
                    "source_id": f"whatsapp:{key}" + (f"-{seen[key]}" if seen[key] > 1 else ""),
                }
            )
    tally.finish()


def detect_order(file: Path, member: str | None = None) -> str:
    """The order of day, month and year in an export; raises InvalidInput when no order fits every date."""
    inversions = dict.fromkeys(ORDERS, 0)
    last: dict[str, date | None] = dict.fromkeys(ORDERS)
    num_lines, half_days = 0, False
    for _, (stamp, clock_text, _) in _messages(file, member):
        num_lines += 1
        half_days = half_days or clock_text.rstrip(". ")[-1] in "mM"
        for order in list(inversions):
            day, before = _day(stamp, order), last[order]
            if day is None:
                del inversions[order]
                continue
            inversions[order] += before is not None and day < before
            last[order] = day
    name = member or file.name
    if not num_lines:
        raise InvalidInput(f"{name}: no line looks like a WhatsApp message, such as 12/05/2024, 09:30 - Ana: Hello.")
    if not inversions:
        raise InvalidInput(f"{name}: its dates fit no order of day, month and year; give date_order=dmy, mdy or ymd.")
    liked = ("mdy", "dmy", "ymd") if half_days else ORDERS
    return min(inversions, key=lambda order: (inversions[order], liked.index(order)))


def looks_right(path: Path) -> bool:
    """Whether a text file starts like a WhatsApp export: one of its first five lines is a message."""
    with open_text(path) as stream:
        return any(_LINE.match(_plain(line)) for line, _ in zip(stream, range(5), strict=False))


def _texts(path: Path) -> list[tuple[Path, str | None]]:
    if not path.is_dir() and not zipfile.is_zipfile(path):
        return [(path, None)]
    if path.is_dir():
        raise InvalidInput(f"path: {path.name} is a folder; name the exported text file or archive.")
    names = members(path, r"_chat\.txt|.*WhatsApp.*\.txt")
    if not names:
        raise InvalidInput(f"path: the archive {path.name} holds no WhatsApp chat (_chat.txt).")
    return [(path, name) for name in names]


def _chat_name(file: Path, member: str | None) -> str:
    stem = Path(member).stem if member and not member.endswith("_chat.txt") else file.stem
    return re.sub(r"^WhatsApp Chat (?:with|-) |\s*\(\d+\)$", "", stem).strip() or "WhatsApp"


def _messages(file: Path, member: str | None) -> Iterator[tuple[int, tuple[_Stamp, str, str]]]:
    """(line number, (the date's three numbers, time of day, rest)) for each message, its lines joined."""
    with open_text(file, member) as stream:
        number, head, body = 0, None, list[str]()
        for line, raw in enumerate(stream, 1):
            plain = _plain(raw)
            match = _LINE.match(plain)
            if match is None:
                body.append(plain)
                continue
            if head is not None:
                yield number, (*head, "\n".join(body).rstrip())
            *groups, rest = match.groups()
            first, second, third, moment = groups[:4] if groups[0] else groups[4:]
            number, head, body = line, ((first, second, third), moment), [rest]
        if head is not None:
            yield number, (*head, "\n".join(body).rstrip())


def _plain(line: str) -> str:
    return _SPACES.sub(" ", _MARKS.sub("", line)).rstrip("\r\n")


def _words(text: str) -> str:
    """The words of a message; "" when it holds none of its own, such as a photo that was not exported."""
    text = _EDITED.sub("", text).strip()
    if _NO_CONTENT.fullmatch(text) or _NOTICE.search(text):
        return ""
    return _ATTACHED.sub("", text).strip()


def _day(stamp: _Stamp, order: str) -> date | None:
    parts = dict(zip(order, stamp, strict=True))
    if len(parts["y"]) not in (2, 4) or len(parts["d"]) > 2 or len(parts["m"]) > 2:
        return None
    year = int(parts["y"]) + (2000 if len(parts["y"]) == 2 else 0)
    try:
        return date(year, int(parts["m"]), int(parts["d"])) if year >= _FIRST_YEAR else None
    except ValueError:
        return None


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"time_zone: there is no zone {name!r}; write it as Europe/Lisbon.") from None
