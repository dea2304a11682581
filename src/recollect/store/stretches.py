"""Stretches of time on a calendar: the day, week, month or decade that a moment lies in, and those before and after it."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta
from typing import Literal

Grain = Literal["minute", "hour", "part", "day", "weekend", "week", "month", "season", "year", "decade"]
Interval = tuple[datetime, datetime, Grain]  # naive wall-clock times
DAY = timedelta(days=1)
PARTS = {"morning": (5, 12), "afternoon": (12, 17), "evening": (17, 22), "night": (18, 30)}


def years_from(year: int, num_years: int = 1) -> Interval:
    """`num_years` years from the first day of `year`."""
    return datetime(year, 1, 1), datetime(year + num_years, 1, 1), "year"


def decade_of(year: int) -> Interval:
    """The decade that holds `year`."""
    return datetime(year // 10 * 10, 1, 1), datetime(year // 10 * 10 + 10, 1, 1), "decade"


def months_from(year: int, month: int, num_months: int = 1) -> Interval:
    """`num_months` calendar months from `month`, which may lie outside 1 to 12."""
    first, last = year * 12 + month - 1, year * 12 + month - 1 + num_months
    return datetime(first // 12, first % 12 + 1, 1), datetime(last // 12, last % 12 + 1, 1), "month"


def season_from(year: int, month: int) -> Interval:
    """The season that begins in `month`, which may lie outside 1 to 12."""
    return (*months_from(year, month, 3)[:2], "season")


def week_of(day: datetime) -> Interval:
    """The week, Monday to Sunday, that holds `day`."""
    monday = day - day.weekday() * DAY
    return monday, monday + 7 * DAY, "week"


def weekend_of(day: datetime) -> Interval:
    """The weekend of the week that holds `day`."""
    saturday = day + (5 - day.weekday()) * DAY
    return saturday, saturday + 2 * DAY, "weekend"


def day_of(day: datetime) -> Interval:
    """The day that begins at `day`."""
    return day, day + DAY, "day"


def part_of(day: datetime, name: str) -> Interval:
    """The morning, afternoon, evening or night of `day`."""
    first, last = PARTS[name]
    return day + timedelta(hours=first), day + timedelta(hours=last), "part"


def moved(time: datetime, unit: str, number: int) -> datetime:
    """`time` moved by `number` units, the day of the month kept where it exists."""
    if unit in ("month", "year", "decade"):
        months = time.year * 12 + time.month - 1 + number * {"month": 1, "year": 12, "decade": 120}[unit]
        year, month = months // 12, months % 12 + 1
        return time.replace(year=year, month=month, day=min(time.day, calendar.monthrange(year, month)[1]))
    if unit in ("minute", "hour"):
        return time + number * timedelta(**{unit + "s": 1})
    return time + number * DAY * (7 if unit in ("week", "weekend") else 1)


def around(time: datetime, unit: str) -> Interval:
    """The minute, hour, day, week ... that holds `time`; of a week, its weekend."""
    day = time.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "minute":
        start = time.replace(second=0, microsecond=0)
        return start, start + timedelta(minutes=1), "minute"
    if unit == "hour":
        start = time.replace(minute=0, second=0, microsecond=0)
        return start, start + timedelta(hours=1), "hour"
    if unit == "night":
        return part_of(day, "night")
    if unit == "month":
        return months_from(day.year, day.month)
    if unit == "year":
        return years_from(day.year)
    if unit == "decade":
        return decade_of(day.year)
    return {"day": day_of, "week": week_of, "weekend": weekend_of}[unit](day)


def shifted(said: datetime, unit: str, number: int) -> Interval:
    """The minute, hour, day, week ... that lies `number` units from `said` (negative: before)."""
    return around(moved(said, unit, number), unit)


def between_shifts(said: datetime, unit: str, least: int, most: int) -> Interval:
    """From the nearer to the farther of two shifts, in the order of time."""
    first, second = sorted((shifted(said, unit, least), shifted(said, unit, most)))
    return first[0], second[1], first[2]
