"""Time expressions in English text: which stretch of time "last May", "two weeks ago" or "7 May 2023" means.

`find_times` reads a text as said at a reference time and gives for each expression its interval: half-open, in the
reference's timezone, with the grain it was said in. `describe` writes an interval as a person would; `windows` reads what a
question says about when. Standard library only; the rules are a table in `time_rules`, and time and memory grow linearly
with the text.

Conventions where English is open. Weeks run from Monday to Sunday. "last" is the latest that is over, "next" the first
that has not begun, "this Friday" the Friday of this week. A month, weekday or date without a year is the latest one,
or the coming one in a sentence about the future ("will", "going to", "can't wait"). "a few" is 2 to 5, "several" 3 to
7. 12/5/2023 is read month first, as in the USA, unless that is impossible; 12.5.2023 day first. Seasons are those of the
northern hemisphere, and winter 2021 begins in December 2021. Night is 18:00 to 6:00.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from recollect.store.stretches import (
    DAY,
    PARTS,
    Grain,
    around,
    between_shifts,
    day_of,
    months_from,
    part_of,
    week_of,
    weekend_of,
)
from recollect.store.time_rules import CUE, NUMBER, REPEATS, RULES, UNIT, WEEKDAY, Said, amount, unit_of, weekday_number


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A time expression: where it stands, what it says, and the interval [start, end) that it means."""

    start_char: int
    end_char: int
    text: str
    start: datetime
    end: datetime
    grain: Grain


def find_times(text: str, reference: datetime) -> list[TimeSpan]:
    """The time expressions in `text` as said at `reference`, in order and without overlaps.

    Expressions that would leave the years 1 to 9998 are passed over, as are times that repeat ("every Friday").
    """
    if not CUE.search(text):
        return []
    now = reference.replace(tzinfo=None)
    matches: list[tuple[int, int, int, re.Match[str]]] = []
    for rule, (pattern, _) in enumerate(RULES):
        group = "span" if "span" in pattern.groupindex else 0
        matches += [(match.start(group), -match.end(group), rule, match) for match in pattern.finditer(text)]
    matches.sort(key=lambda item: item[:3])  # the leftmost, of these the longest
    spans: list[TimeSpan] = []
    reached = 0
    for start, minus_end, rule, match in matches:
        if start < reached or REPEATS.search(text, max(0, start - 12), start):
            continue
        try:
            interval = RULES[rule][1](Said(match, now))
            if interval is None:
                continue
            span = TimeSpan(start, -minus_end, text[start:-minus_end], *interval)
            for refine in (_with_part_of_day, _with_clock, _with_edge, _with_anchor):
                span = refine(text, span)
        except (ValueError, OverflowError):
            continue
        if span.end.year > 9998:
            continue
        while spans and spans[-1].end_char > span.start_char:  # "Saturday" in "the Saturday before 25 May"
            spans.pop()
        spans.append(span)
        reached = span.end_char
    zone = reference.tzinfo
    return [replace(span, start=span.start.replace(tzinfo=zone), end=span.end.replace(tzinfo=zone)) for span in spans]


def describe(span: TimeSpan, said_at: datetime | None = None) -> str:
    """The interval as a person writes it: "6 May 2023", "the week of 1 May 2023", "early May 2023", "2022".

    With `said_at`, the time when the expression was said, weeks, weekends and vague amounts are told from that day,
    which claims no more than was said: "the week before 9 June 2023", "a few days before 24 May 2023".
    """
    start, last = span.start, span.end - timedelta(microseconds=1)
    if said_at is not None:
        relative = _from_that_day(span, said_at)
        if relative:
            return relative
    match span.grain:
        case "minute":
            return f"{_date(start)}, {start:%H:%M}"
        case "hour":
            return f"{_date(start)}, about {start:%H:%M}"
        case "part":
            hours = {first: name for name, (first, _) in PARTS.items()}
            return f"the {hours.get(start.hour, 'night')} of {_date(start)}"
        case "weekend":
            return f"the weekend of {_date(start)}"
        case "week" if span.end - start == 7 * DAY:
            return f"the week of {_date(start)}"
        case "month":
            return _of_month(start, last)
        case "season":
            name = {3: "spring", 6: "summer", 9: "autumn", 12: "winter"}[start.month - start.month % 3 or 12]
            days = (span.end - start).days
            early = (
                "" if days > 80 else "early " if start.month % 3 == 0 else "mid " if start.month % 3 == 1 else "late "
            )
            return f"{early}{name} {start.year - (start.month < 3)}"
        case "year":
            edge = {(1, 4): "early ", (5, 8): "mid ", (9, 12): "late "}.get((start.month, last.month), "")
            return f"{edge}{start.year}" if start.year == last.year else f"{start.year} to {last.year}"
        case "decade":
            return f"the {start.year}s"
    return _date(start) if start.date() == last.date() else f"{_date(start)} to {_date(last)}"


_CLOCK = (
    r"(?:(?P<hour>\d{1,2})(?:[:.](?P<minute>\d\d))?\s{0,2}(?P<half>[ap])\.?m\b\.?|(?P<hour24>\d{1,2}):(?P<minute24>\d\d)"
    r"|(?P<name>noon|midnight))"
)
_CLOCK_AFTER = re.compile(rf",?\s{{1,3}}(?:(?:at|around|about|@)\s{{1,3}})?{_CLOCK}(?!\w)", re.IGNORECASE)
_CLOCK_BEFORE = re.compile(rf"(?<!\w){_CLOCK},?\s{{1,3}}(?:(?:on|of)\s{{1,3}})?$", re.IGNORECASE)
_PART_AFTER = re.compile(r"(?:\s{1,3}|['\u2019]s\s{1,3})(morning|afternoon|evening|night)\b", re.IGNORECASE)
_PART_BEFORE = re.compile(
    r"\b(?:the\s{1,3})?(morning|afternoon|evening|night)\s{1,3}(?:of|on)\s{1,3}(?:the\s{1,3})?$", re.IGNORECASE
)
_EDGE = re.compile(
    r"(?<!\w)(?:the\s{1,3})?(?P<edge>beginning|start|early|middle|mid|late|end|first\s{1,3}half|second\s{1,3}half)"
    r"(?:\s{1,3}part)?(?:\s{1,3}(?:of|in))?(?:\s{1,3}the)?[\s-]{1,3}$",
    re.IGNORECASE,
)
_NTH = re.compile(
    rf"(?<!\w)(?:the\s{{1,3}})?(?P<nth>first|1st|second|2nd|third|3rd|fourth|4th|last)\s{{1,3}}"
    rf"(?:(?P<unit>week|weekend)|(?P<weekday>{WEEKDAY}))\s{{1,3}}(?:of|in)\s{{1,3}}(?:the\s{{1,3}})?$",
    re.IGNORECASE,
)
_ANCHOR = re.compile(
    rf"(?<!\w)(?:the\s{{1,3}})?(?:(?P<weekday>{WEEKDAY})|(?P<unit>day|night|weekend|week|month|year)"
    rf"|(?P<number>{NUMBER})\s{{1,3}}(?P<units>{UNIT}))\s{{1,3}}(?P<side>before|prior\s{{1,3}}to|after|following|of)"
    r"\s{1,3}(?:the\s{1,3})?$",
    re.IGNORECASE,
)


def _before(text: str, span: TimeSpan) -> str:
    """The characters just before an expression, enough for any of the patterns that end in $."""
    return text[max(0, span.start_char - 48) : span.start_char]


def _widened(text: str, span: TimeSpan, start_char: int, end_char: int, interval: tuple) -> TimeSpan:
    return TimeSpan(start_char, end_char, text[start_char:end_char], *interval)


def _with_part_of_day(text: str, span: TimeSpan) -> TimeSpan:
    """yesterday morning, the night of 7 May."""
    if span.grain != "day" or span.end - span.start != DAY:
        return span
    match = _PART_AFTER.match(text, span.end_char)
    if match:
        return _widened(text, span, span.start_char, match.end(), part_of(span.start, match[1].lower()))
    match = _PART_BEFORE.search(_before(text, span))
    if match:
        start = span.start_char - len(match[0])
        return _widened(text, span, start, span.end_char, part_of(span.start, match[1].lower()))
    return span


def _with_clock(text: str, span: TimeSpan) -> TimeSpan:
    """yesterday at 7 pm, 1:56 pm on 8 May."""
    if span.grain not in ("day", "part") or span.end - span.start > DAY:
        return span
    start_char, end_char = span.start_char, span.end_char
    match = _CLOCK_AFTER.match(text, end_char)
    if match:
        end_char = match.end()
    else:
        match = _CLOCK_BEFORE.search(_before(text, span))
        if not match:
            return span
        start_char -= len(match[0])
    hour = {"noon": 12, "midnight": 0}.get((match["name"] or "").lower(), int(match["hour"] or match["hour24"] or 0))
    if match["half"]:
        hour = hour % 12 + (12 if match["half"].lower() == "p" else 0)
    minute = match["minute"] or match["minute24"]
    day = span.start.replace(hour=0, minute=0)
    interval = around(day.replace(hour=hour, minute=int(minute or 0)), "minute" if minute else "hour")
    return _widened(text, span, start_char, end_char, interval)


def _with_edge(text: str, span: TimeSpan) -> TimeSpan:
    """early 2022, mid-August, the end of last year, the first week of June."""
    if span.grain not in ("month", "season", "year"):
        return span
    match = _EDGE.search(_before(text, span))
    if match:
        word = match["edge"].lower().split()[0]
        third = {"beginning": 0, "start": 0, "early": 0, "first": 0, "middle": 1, "mid": 1}.get(word, 2)
        if span.grain == "month":
            start = span.start + third * 10 * DAY
            end = span.end if third == 2 else start + 10 * DAY
        else:
            step = 4 if span.grain == "year" else 1
            start, end, _ = months_from(span.start.year, span.start.month + third * step, step)
        return _widened(text, span, span.start_char - len(match[0]), span.end_char, (start, end, span.grain))
    match = _NTH.search(_before(text, span))
    if match is None:
        return span
    nth = {"f": 1, "1": 1, "s": 2, "2": 2, "t": 3, "3": 3, "4": 4}.get(match["nth"].lower()[0], -1)
    nth = 4 if match["nth"].lower() == "fourth" else nth
    if (match["unit"] or "").lower() == "week":
        start = span.end - 7 * DAY if nth < 0 else span.start + (nth - 1) * 7 * DAY
        interval = (start, start + 7 * DAY, "week")
    else:
        weekday = 5 if match["unit"] else weekday_number(match["weekday"].lower())
        first = span.start + (weekday - span.start.weekday()) % 7 * DAY
        day = first + (nth - 1) * 7 * DAY
        if nth < 0:
            last = span.end - DAY
            day = last - (last.weekday() - weekday) % 7 * DAY
        interval = weekend_of(day) if match["unit"] else day_of(day)
    return _widened(text, span, span.start_char - len(match[0]), span.end_char, interval)


def _with_anchor(text: str, span: TimeSpan) -> TimeSpan:
    """the Saturday before 25 May 2023, the week of 9 June, a few days before Christmas."""
    match = _ANCHOR.search(_before(text, span))
    if match is None:
        return span
    side = -1 if match["side"].lower()[0] in "bp" else 0 if match["side"].lower() == "of" else 1
    edge = span.start if side <= 0 else span.end  # midnights, as a rule
    if match["weekday"]:
        weekday = weekday_number(match["weekday"].lower())
        if side == 0:
            return span
        ahead = (weekday - edge.weekday()) % 7
        interval = day_of(edge + ahead * DAY) if side > 0 else day_of(edge - (7 - ahead) * DAY)
    elif match["number"]:
        if side == 0:
            return span
        least, most = amount(" ".join(match["number"].lower().split()))
        interval = between_shifts(span.start, unit_of(match["units"].lower()), side * least, side * most)
    elif match["unit"].lower() == "week":
        interval = week_of(edge) if side == 0 else (*sorted((edge, edge + side * 7 * DAY)), "week")
    elif match["unit"].lower() == "weekend":
        interval = weekend_of(edge)
        if side < 0 and interval[1] > edge:
            interval = weekend_of(edge - 7 * DAY)
        elif side > 0 and interval[0] < edge:
            interval = weekend_of(edge + 7 * DAY)
    else:
        unit = match["unit"].lower()
        if side == 0 and unit not in ("month", "year"):
            return span
        interval = (
            around(edge - DAY if side < 0 else edge, unit) if unit in ("day", "night") else _next_to(edge, unit, side)
        )
    return _widened(text, span, span.start_char - len(match[0]), span.end_char, interval)


def _next_to(edge: datetime, unit: str, side: int) -> tuple:
    """The month or year that holds `edge`, or the one beside it."""
    inside = around(edge - DAY if side > 0 else edge, unit)
    if side == 0:
        return inside
    return around(inside[0] - DAY if side < 0 else inside[1], unit)


def _date(time: datetime) -> str:
    return f"{time.day} {time:%B} {time.year}"


def _of_month(start: datetime, last: datetime) -> str:
    """May 2023, early May 2023, May to July 2023, November 2022 to May 2023."""
    if (start.year, start.month) == (last.year, last.month):
        edge = {(1, 10): "early ", (11, 20): "mid "}.get((start.day, last.day), "late " if start.day == 21 else "")
        return f"{edge}{start:%B} {start.year}"
    year = "" if start.year == last.year else f" {start.year}"
    return f"{start:%B}{year} to {last:%B} {last.year}"


def _from_that_day(span: TimeSpan, said_at: datetime) -> str:
    """A week, a weekend or a vague amount told from the day it was said; empty for what stands on its own."""
    today = said_at.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=span.start.tzinfo)
    words = " ".join(span.text.lower().split())
    vague = re.match(r"(?:a )?(?:few|several) \w+(?= (?:ago|back)$)", words)
    if vague:
        return f"{vague[0]} before {_date(today)}"
    if span.grain not in ("week", "weekend") or not re.match(
        r"(?:the |over )?(?:last|past|this|next|coming|weekend)\b", words
    ):
        return ""
    weeks = (week_of(today)[0] - week_of(span.start)[0]).days // 7
    if weeks == 0 and span.grain == "week":
        return f"the week of {_date(today)}"
    if span.end <= today and weeks <= 1:
        return f"the {span.grain} before {_date(today)}"
    if span.start > today and weeks >= -1:
        return f"the {span.grain} after {_date(today)}"
    return ""
