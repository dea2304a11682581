"""The shape of a text: whether it asks, speaks of itself, holds a time, a number or a name.

Five patterns, a bit each, looked for once when the text is written and kept with it, since they take some 8 microseconds a
text and a recall looks at hundreds. A kept shape carries VERSION; one of another version, or of a text that was written
before shapes were kept, is made from the text at every read, until `reindex` keeps it.
"""

from __future__ import annotations

import re

VERSION = 1  # of the patterns; whoever changes one counts it up
ASKS, FIRST_PERSON, TIME, NUMBER, NAME = (1 << bit for bit in range(5))
BITS = 8  # that a shape keeps for its flags; its version stands above them

# Of a row `e` of the episodes, two columns: what is kept with it, and where that is not of this version, its text.
SQL = f"e.shape, CASE WHEN e.shape >> {BITS} = {VERSION} THEN NULL ELSE e.text END"

_TEXT_CHARS = 4000  # of a text that patterns are looked for in

# For lower-case text: three times as quick as ignoring case.
_TIME = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|since|recently|lately|soon|weekend|"
    r"this (?:week|month|year|morning|afternoon|evening|spring|summer|autumn|fall|winter)|(?:mon|tues|wednes|thurs|fri|"
    r"satur|sun)day|january|february|march|april|june|july|august|september|october|november|december|(?:19|20)\d\d|"
    r"(?:day|week|month|year)s?)\b",
)
_NUMBER = re.compile(r"\b(?:\d[\d.,:]*|two|three|four|five|six|seven|eight|nine|ten|dozen|once|twice|several|couple)\b")
_NAME = re.compile(r"(?<=[a-z,'\"] )[\"']?[A-Z][a-z]+")  # a capital inside a sentence
_FIRST_PERSON = re.compile(r"\b(?:i|my|me|we|our)\b")
_ASKS = re.compile(r"\?[\s\"')\]]*(?:\[[^\[\]]*\]\s*)?$")  # ends with a question, also before a remark in brackets


def flags(text: str) -> int:
    """The flags of a text's first 4000 characters, ASKS of its end, joined by or."""
    head = text[:_TEXT_CHARS]
    lower = head.lower()
    return (
        ASKS * (_ASKS.search(text[-200:]) is not None)
        | FIRST_PERSON * (_FIRST_PERSON.search(lower) is not None)
        | TIME * (_TIME.search(lower) is not None)
        | NUMBER * (_NUMBER.search(lower) is not None)
        | NAME * (_NAME.search(head) is not None)
    )


def shape(text: str) -> int:
    """What is kept with a text: its flags, and the version of the patterns above them."""
    return VERSION << BITS | flags(text)


def read(kept: int | None, text: str | None) -> int:
    """The flags, from the two columns that `SQL` gave for a row."""
    return (kept or 0) & 2**BITS - 1 if text is None else flags(text)
