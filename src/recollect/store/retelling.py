"""Retelling: what somebody said in the first person, told in the third, with the dates that relative times mean.

"I moved here last May", said by Ana on 1 August 2024, becomes "Ana moved here in May 2024". The dates come from
`timeline`; the person from a walk over the words, which puts the verb after "I" into the third person.

Cost: linear in the text.
"""

from __future__ import annotations

import re
from datetime import datetime

from recollect.store.english import is_adverb, third_person
from recollect.store.timeline import TimeSpan, describe

PREPOSITIONS = frozenset(
    """in on at since until till by before after from during over for of around about through between to and or as
    within""".split()
)
_BY_GRAIN = {"minute": "on", "hour": "on", "part": "on", "day": "on", "weekend": "on"}
_STRETCH = re.compile(r"(?:the )?(last|past|previous|next|coming) (\w+(?: \w+){1,3})$", re.IGNORECASE)
_COUNTED = re.compile(r"\d|few|couple|several|two|three|four|five|six|seven|eight|nine|ten|twelve", re.IGNORECASE)
_AS_SUBJECT = re.compile(r"\s{1,2}(?:is|was|were|has|will|went|sounds|looks|works)\b|'s\b")
_PIECE = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[\W_]")
_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our|ours|ourselves)\b", re.IGNORECASE)


def told_time(span: TimeSpan, said_at: datetime) -> str:
    """A time expression as words that mean the same on any day, without a preposition: "May 2024"."""
    stretch = _STRETCH.match(" ".join(span.text.split()))
    if stretch and _COUNTED.search(stretch[2]):
        side = "after" if stretch[1].lower() in ("next", "coming") else "before"
        return f"the {stretch[2]} {side} {said_at.day} {said_at:%B} {said_at.year}"
    return describe(span, said_at)


def with_dates(text: str, spans: list[TimeSpan], said_at: datetime, offset: int = 0) -> str:
    """`text` with its time expressions resolved; `spans` count characters from `offset` before the text's start."""
    out, reached = [], 0
    for span in spans:
        first, last = span.start_char - offset, span.end_char - offset
        told = told_time(span, said_at)
        before = text[reached:first]
        previous = re.search(r"(\w+)\W*$", text[max(0, first - 24) : first])
        preposition = "" if told.startswith(("a few", "several")) else _BY_GRAIN.get(span.grain, "in")
        if told.count(" to ") and span.grain == "day":
            preposition = "from"
        has_one = previous is not None and previous[1].lower() in PREPOSITIONS | {"the", "this", "last", "my", "your"}
        if has_one or _AS_SUBJECT.match(text, last) or not preposition:
            words = told
        else:
            words = f"{preposition} {told}"
        if not before.strip() and not reached and first == 0:
            words = words[:1].upper() + words[1:]
        out += [before, words]
        reached = last
    return "".join([*out, text[reached:]])


def third_person_of(text: str, speaker: str) -> str:
    """A text in the first person told of `speaker`: contractions must be written out (`english.expand`)."""
    if not _FIRST_PERSON.search(text):
        return text
    own = f"{speaker}'" if speaker.endswith("s") else f"{speaker}'s"
    pronouns = {
        "i": speaker, "we": speaker, "me": speaker, "us": speaker, "my": own, "our": own, "mine": own, "ours": own,
        "myself": "themself", "ourselves": "themselves",
    }  # fmt: skip
    out: list[str] = []
    verb_due = False
    last_word = ""
    for piece in _PIECE.findall(text):
        lower = piece.lower()
        if lower in pronouns and not (piece == "US" or (piece == "i" and last_word.endswith("."))):
            out.append(pronouns[lower])
            verb_due = lower in ("i", "we") and last_word not in (
                "am",
                "was",
                "do",
                "did",
                "have",
                "will",
                "can",
                "and",
            )
            if lower in ("i", "we") and last_word == "and":  # "Tom and I are"
                verb_due = False
        elif verb_due and piece[0].isalpha():
            if is_adverb(lower) or lower in ("not", "no", "longer"):
                out.append(piece)
            else:
                out.append(third_person(piece))
                verb_due = False
        else:
            out.append(piece)
            if piece in ",.;:!?":
                verb_due = False
        if piece[0].isalnum():
            last_word = lower
    return "".join(out)
