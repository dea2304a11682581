"""The rules of `timeline`: which words are time expressions, and the stretch of time that each means.

Each rule is a pattern and a resolver that turns the match and the moment it was said into an `Interval`, or None when
the words mean something else. The conventions are told in `timeline`. Every repetition is bounded, so that a text is
read in time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta

from recollect.store.stretches import (
    DAY,
    Interval,
    around,
    between_shifts,
    day_of,
    decade_of,
    months_from,
    moved,
    part_of,
    season_from,
    shifted,
    weekend_of,
    years_from,
)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_HOLIDAYS = {
    "new years day": (1, 1),
    "valentines day": (2, 14),
    "st patricks day": (3, 17),
    "independence day": (7, 4),
    "halloween": (10, 31),
    "thanksgiving": (11, 0),
    "christmas eve": (12, 24),
    "christmas day": (12, 25),
    "christmas": (12, 25),
    "boxing day": (12, 26),
    "new years eve": (12, 31),
    "new year eve": (12, 31),
}
_NUMBER_WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_NUMBERS = {word: number for number, word in enumerate(_NUMBER_WORDS.split(), 1)}
_NUMBERS |= {"a": 1, "an": 1, "thirty": 30, "forty": 40, "fifty": 50, "couple": 2}
_VAGUE = {"few": (2, 5), "several": (3, 7)}

MONTH = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december"
    r"|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
)
WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:mon|tues?|wed|thurs?|thu|fri|sat|sun)\b\.?)"
SEASON = r"(?:spring|summer|autumn|fall|winter)"
YEAR = r"(?:19|20)\d\d(?!\d)"
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth "
    "twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
)
ORDINALS = {word: number for number, word in enumerate(_ORDINALS.split(), 1)}
DAYNUM = r"(?:\d{1,2}(?:st|nd|rd|th)?(?![\d:])|" + "|".join(sorted(ORDINALS, key=len, reverse=True)) + ")"
UNIT = r"(?:minutes?|mins?|hours?|hrs?|days?|nights?|weekends?|weeks?|months?|years?|yrs?|decades?)"
NUMBER = (
    r"(?:\d{1,4}|(?:a\s{1,3})?(?:couple(?:\s{1,3}of)?|few)|several|an?|thirty|forty|fifty|" + "|".join(_NUMBERS) + ")"
)
WHICH = r"(?:last|this\s{1,3}past|past|previous|this\s{1,3}coming|this|next|coming|upcoming)"
PREPOSITION = r"(?:in|since|until|till|during|by|before|after|from|between|of|to|and|through|around|early|mid|late|or)"
WEEKDAY_NAME = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
HOLIDAY = (
    r"(?:new years? eve|new year['\u2019]s (?:eve|day)|(?:valentine['\u2019]?s|st\.? patrick['\u2019]?s) day"
    r"|independence day|boxing day|halloween|thanksgiving|christmas(?: eve| day)?)"
)
COMMA = r"[\s,]{1,3}"


class Said:
    """A match and the moment it was said: what the resolvers below read."""

    def __init__(self, match: re.Match[str], now: datetime):
        self.match = match
        self.now = now
        self.today = now.replace(hour=0, minute=0, second=0, microsecond=0)

    def __getitem__(self, group: str) -> str:
        return " ".join((self.match[group] or "").lower().split()) if group in self.match.re.groupindex else ""

    @property
    def which(self) -> int:
        """-1 for last, 0 for this, 1 for next."""
        word = self["which"]
        return -1 if word.endswith(("last", "past", "previous")) else 0 if word == "this" else 1

    @property
    def forward(self) -> bool:
        """Whether the sentence around the match speaks of the future."""
        text, start, end = self.match.string, self.match.start(), self.match.end()
        first = max(text.rfind(mark, max(0, start - 80), start) for mark in (". ", "! ", "? ", "\n"))
        sentence_end = _SENTENCE_END.search(text, end, end + 40)
        last = sentence_end.start() if sentence_end else end + 40
        return bool(_FUTURE.search(text, max(first, start - 80, 0), last))


def _month_number(word: str) -> int:
    return _MONTHS.index(word[:3]) + 1


def weekday_number(word: str) -> int:
    return _WEEKDAYS.index(word[:3])


def amount(word: str) -> tuple[int, int]:
    """A number said in words or digits as (least, most)."""
    words = word.replace(" of", "").split()
    if words[-1] in _VAGUE:
        return _VAGUE[words[-1]]
    number = int(words[-1]) if words[-1].isdigit() else _NUMBERS[words[-1]]
    return number, number


def unit_of(word: str) -> str:
    singular = word.rstrip("s")
    return {"min": "minute", "hr": "hour", "yr": "year"}.get(singular, singular)


def _on(year: int, month: int, day: int) -> Interval:
    return day_of(datetime(year, month, day))


def _named_date(said: Said) -> Interval | None:
    """7 May 2023, May 7th."""
    month, day = _month_number(said["month"]), ORDINALS.get(said["day"]) or int(re.sub(r"\D", "", said["day"]))
    if said["year"]:
        return _on(int(said["year"]), month, day)
    if said["day"].isdigit() and said.match["month"] == "may":  # "you 2 may"
        return None
    return _latest_or_coming(said, lambda year: _on(year, month, day))


def _latest_or_coming(said: Said, of_year: Callable[[int], Interval]) -> Interval:
    """The latest such stretch that has begun, or the coming one when the sentence looks ahead."""
    step = 1 if said.forward else -1
    for year in range(said.now.year, said.now.year + 9 * step, step):  # a leap day comes within eight years
        try:
            interval = of_year(year)
        except ValueError:
            continue
        if (interval[1] > said.now) if step > 0 else (interval[0] <= said.now):
            return interval
    raise ValueError("no such day")


def _chosen(said: Said, of_year: Callable[[int], Interval]) -> Interval:
    """last, this or next among stretches that come once a year."""
    year = said.now.year
    if said.which == 0:
        return of_year(year)
    if said.which < 0:
        return next(interval for interval in map(of_year, range(year, year - 3, -1)) if interval[1] <= said.today)
    return next(interval for interval in map(of_year, range(year, year + 3)) if interval[0] > said.now)


def _iso(said: Said) -> Interval:
    day = datetime(int(said["y"]), int(said["m"]), int(said["d"]))
    if said["hour"]:
        start = day.replace(hour=int(said["hour"]), minute=int(said["minute"]))
        return start, start + timedelta(minutes=1), "minute"
    return day_of(day)


def _numeric(said: Said) -> Interval:
    """12/5/2023 month first unless impossible, 12.5.2023 day first."""
    first, second = int(said["a"]), int(said["b"])
    day_first = said["mark"] == "." or first > 12
    month, day = (second, first) if day_first else (first, second)
    year = int(said["year"])
    return _on(year if year > 99 else 2000 + year, month, day)


def _bare_month(said: Said) -> Interval | None:
    month = _month_number(said["month"])
    if said["which"]:
        return _chosen(said, lambda year: months_from(year, month))
    if said["year"]:
        return months_from(int(said["year"]), month)
    if said.match["month"] in ("may", "march", "mar"):  # more often the verb than the month
        return None
    return _latest_or_coming(said, lambda year: months_from(year, month))


def _bare_season(said: Said) -> Interval:
    month = _SEASONS[said["season"]]
    if said["year"]:
        return season_from(int(said["year"]), month)
    if said["which"]:
        if said.which == 0 and month == 12 and said.now.month < 3:
            return season_from(said.now.year - 1, month)
        return _chosen(said, lambda year: season_from(year, month))
    return _latest_or_coming(said, lambda year: season_from(year, month))


def _bare_weekday(said: Said) -> Interval:
    weekday, today = weekday_number(said["weekday"]), said.today.weekday()
    if said["which"] == "this":
        return day_of(said.today + (weekday - today) * DAY)
    if said.which > 0 if said["which"] else said.forward:
        return day_of(said.today + ((weekday - today - 1) % 7 + 1) * DAY)
    return day_of(said.today - ((today - weekday - 1) % 7 + 1) * DAY)


def _which_weekend(said: Said) -> Interval:
    """On Monday and Tuesday "this weekend" is the one just over, unless the sentence looks ahead."""
    weekday = said.today.weekday()
    if not said["which"]:
        weeks = 0 if weekday > 4 or said.forward else -1
    elif said["which"] == "this":
        weeks = 0 if weekday > 1 or said.forward else -1
    elif said.which < 0:
        weeks = -1
    else:
        weeks = 0 if weekday < 5 else 1
    return weekend_of(said.today + 7 * weeks * DAY)


def _which_unit(said: Said) -> Interval:
    return shifted(said.now, unit_of(said["unit"]), said.which)


def _before_last(said: Said) -> Interval:
    if said["weekday"]:
        return day_of(said.today - ((said.today.weekday() - weekday_number(said["weekday"]) - 1) % 7 + 8) * DAY)
    return shifted(said.now, unit_of(said["unit"]), -2)


def _ago(said: Said) -> Interval:
    least, most = amount(said["number"])
    unit = unit_of(said["unit"])
    if said["half"] and unit == "year":
        least, most, unit = 12 * least + 6, 12 * most + 6, "month"
    return between_shifts(said.now, unit, -least, -most)


def _ahead(said: Said) -> Interval | None:
    """in three days, two weeks from now; not in "I wrote it in three days" or "twice in a year"."""
    text, start = said.match.string, said.match.start()
    if said.match[0][:2].lower() == "in" and _PAST.search(text, max(0, start - 80), start) and not said.forward:
        return None
    least, most = amount(said["number"])
    return between_shifts(said.now, unit_of(said["unit"]), least, most)


def _stretch(said: Said) -> Interval:
    """the last two weeks, the next few days: up to now, or from now on."""
    _, most = amount(said["number"] or "one")
    unit = unit_of(said["unit"])
    far = moved(said.now if unit in ("minute", "hour") else said.today, unit, most if said.which > 0 else -most)
    grain = around(far, unit)[2]
    return (said.now, far + DAY, grain) if said.which > 0 else (far, said.now, grain)


def _relative_day(said: Said) -> Interval:
    words = said["words"]
    if words == "last night":
        return part_of(said.today - DAY, "night")
    if words == "tonight":
        return part_of(said.today, "night")
    if words.startswith("this "):
        return part_of(said.today, words.removeprefix("this "))
    shift = {"yesterday": -1, "today": 0, "tomorrow": 1}[words.split()[-1]]
    if words.startswith("the day"):
        shift *= 2
    return day_of(said.today + shift * DAY)


def _bare_decade(said: Said) -> Interval:
    words = {"fifties": 1950, "sixties": 1960, "seventies": 1970, "eighties": 1980, "nineties": 1990}
    if said["name"]:
        return decade_of(words[said["name"]])
    number = int(said["digits"] or said["short"] or said["long"])
    if number < 100:
        number += 1900 if number >= 30 else 2000
    return decade_of(number)


def _holiday(said: Said) -> Interval:
    month, day = _HOLIDAYS[re.sub(r"[^a-z ]", "", said["holiday"])]

    def of_year(year: int) -> Interval:
        if day:
            return _on(year, month, day)
        first = datetime(year, month, 1).weekday()
        return _on(year, month, 1 + (3 - first) % 7 + 21)  # the fourth Thursday

    if said["year"]:
        return of_year(int(said["year"]))
    return _chosen(said, of_year) if said["which"] else _latest_or_coming(said, of_year)


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern in which a space stands for up to three white characters, whatever the case, at word boundaries."""
    return re.compile(r"(?<!\w)(?:" + pattern.replace(" ", r"\s{1,3}") + r")(?!\w)", re.IGNORECASE)


# Where a pattern has a group "span", the expression is that group and the rest is only looked at.
RULES: list[tuple[re.Pattern[str], Callable[[Said], Interval | None]]] = [
    (compiled(pattern), resolve)
    for pattern, resolve in (
        (r"(?P<y>\d{4})[-/](?P<m>\d\d?)[-/](?P<d>\d\d?)(?:[T\s](?P<hour>\d\d?):(?P<minute>\d\d)(?::\d\d)?)?", _iso),
        (r"(?P<a>\d\d?)(?P<mark>[/.])(?P<b>\d\d?)(?P=mark)(?P<year>\d{4}|\d\d)", _numeric),
        (rf"(?:the )?(?P<day>{DAYNUM})(?: of)? (?P<month>{MONTH})(?:{COMMA}(?P<year>{YEAR}))?", _named_date),
        (rf"(?P<month>{MONTH}) (?:the )?(?P<day>{DAYNUM})(?:{COMMA}(?P<year>{YEAR}))?", _named_date),
        (rf"(?P<month>{MONTH})(?:{COMMA}| of )(?P<year>{YEAR})", _bare_month),
        (rf"(?:the )?(?P<which>{WHICH}) (?P<month>{MONTH})", _bare_month),
        (rf"{PREPOSITION}[\s-](?P<span>(?P<month>{MONTH}))", _bare_month),
        (rf"{MONTH} (?:and|or|to|through|until|till) (?P<span>(?P<month>{MONTH}))", _bare_month),
        (rf"(?P<season>{SEASON})(?:{COMMA}| of )(?P<year>{YEAR})", _bare_season),
        (rf"(?:the )?(?P<which>{WHICH}) (?P<season>{SEASON})", _bare_season),
        (
            rf"(?:{PREPOSITION}|for|over)[\s-](?:the )?(?P<span>(?P<season>{SEASON}))(?! (?:from|of|in love))",
            _bare_season,
        ),
        (rf"(?P<holiday>{HOLIDAY})(?:{COMMA}| of )(?P<year>{YEAR})", _holiday),
        (rf"(?:the )?(?P<which>{WHICH}) (?P<holiday>{HOLIDAY})", _holiday),
        (rf"(?:{PREPOSITION}|for|on|at|over) (?P<span>(?P<holiday>{HOLIDAY}))", _holiday),
        (rf"(?:the )?(?P<which>{WHICH}) weekend", _which_weekend),
        (r"(?:over|on|at|during|for) (?P<span>the weekend)", _which_weekend),
        (rf"(?:the )?(?:(?P<unit>weekend|week|month|year)|(?P<weekday>{WEEKDAY})) before last", _before_last),
        (rf"(?:the )?(?P<which>{WHICH}) (?P<weekday>{WEEKDAY})", _bare_weekday),
        (rf"on (?P<span>(?P<weekday>{WEEKDAY}))", _bare_weekday),
        (rf"(?P<weekday>{WEEKDAY_NAME})", _bare_weekday),
        (rf"(?:the )?(?P<which>last|past|previous|next|coming) (?P<number>{NUMBER}) (?P<unit>{UNIT})", _stretch),
        (r"the (?P<which>past) (?P<unit>week|month|year|decade)", _stretch),
        (rf"(?P<which>{WHICH}) (?P<unit>week|month|year|decade)", _which_unit),
        (rf"(?P<number>{NUMBER}) (?P<unit>{UNIT})(?P<half> and a half)?(?: or so)? (?:ago|back)", _ago),
        (rf"in (?:about |just |another |only )?(?P<number>{NUMBER}) (?P<unit>{UNIT})(?:'s? time)?", _ahead),
        (rf"(?P<number>{NUMBER}) (?P<unit>{UNIT}) from (?:now|today)", _ahead),
        (
            r"(?P<words>(?:the day before )?yesterday|today|tonight|(?:the day after )?tomorrow|last night"
            r"|this (?:morning|afternoon|evening))",
            _relative_day,
        ),
        (
            rf"(?:{PREPOSITION}|year) (?P<span>(?P<year>{YEAR}))(?![.,]?\d|[%$])",
            lambda said: years_from(int(said["year"])),
        ),
        (r"the '?(?P<digits>\d0)'?s|'(?P<short>\d0)s|(?:the )?(?P<long>(?:19|20)\d0)'?s", _bare_decade),
        (r"the (?P<name>fifties|sixties|seventies|eighties|nineties)", _bare_decade),
    )
]
CUE = re.compile(
    r"\d|\b(?:january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|jul"
    r"|aug|sept?|oct|nov|dec|(?:mon|tues|wednes|thurs|fri|satur|sun)day|mon|tues?|wed|thurs?|thu|fri|sat|sun"
    r"|yesterday|today|tonight|tomorrow|ago|back|last|next|this|past|previous|coming|weekend|spring|summer|autumn|fall"
    r"|winter|days?|weeks?|months?|years?|decades?|nineties|eighties|seventies|sixties|fifties|christmas|halloween"
    r"|thanksgiving|day|eve)\b",
    re.IGNORECASE,
)
_FUTURE = re.compile(
    r"\b(?:will|won't|gonna|going to|plan|plans|planning|upcoming|can't wait|looking forward|see you|let's|shall"
    r"|opens|starts|begins|ends|closes|leaves|arrives|move in|hope to|hoping|want to|scheduled|due"
    r"|tomorrow|next|leaving|deadline)\b|['\u2019]ll\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?\n]")
_PAST = re.compile(r"\b(?:was|were|did|had|has|have|once|twice|times|\w{2,20}ed)\b", re.IGNORECASE)
REPEATS = re.compile(r"\b(?:every|each|most|all|any|per|other)\s{1,3}$", re.IGNORECASE)
