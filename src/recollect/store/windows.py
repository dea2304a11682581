"""What a question says about when: within a time, before it, since it, or beside an event in its own words."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from recollect.store.timeline import TimeSpan, find_times

QUESTION_CHARS = 2_000  # no question about when is longer

_BOUND = re.compile(
    r"\b(before|prior\s+to|until|till|by|up\s+to|after|since|from|between)\s+(?:the\s+|about\s+|around\s+)?$",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\s*(?:and|to|until|till|through|-|\u2013)\s*(?:the\s+)?", re.IGNORECASE)
_EVENT = re.compile(
    r"\b(?P<word>before|prior to|after|following|since|until|when|while|during)\s+(?P<event>[^?.!,;\n]{1,200})",
    re.IGNORECASE,
)
_DURATION = re.compile(
    r"\bhow\s+(?:long|many\s+(?:more\s+)?(?:minute|hour|day|night|week|weekend|month|year)s?|much\s+(?:time|earlier|later))\b",
    re.IGNORECASE,
)
_APART = re.compile(  # what follows when the time itself is asked for, not how much was done within one
    r"\s+(?:(?:have|has|had|did|do|does|was|were|is|are|will)\s+)?(?:(?:it|there)\s+)?(?:(?:been|be|take|took)\s+)?(?:in\s+)?"
    r"(?:(?:pass|elapse|lie|lay|separate|go)(?:e?s|e?d)?\s+|(?:went|gone)\s+by\s+|by\s+)?"
    r"(?:after|before|prior\s+to|between|since|until|till|from|earlier|later|apart)\b",
    re.IGNORECASE,
)
_NO_EVENT = re.compile(r"\b(?:look(?:s|ed|ing)?|named|call(?:s|ed)?|tak(?:e|es|ing|en)|took|care)\s+$", re.IGNORECASE)
_RELATIONS = {"before": "before", "prior to": "before", "until": "before", "when": "during", "while": "during"}


@dataclass(frozen=True, slots=True)
class Window:
    """What a question says about when: [start, end), None where it is open, and an event that bounds it.

    `anchor` is the event's own words ("I moved to Porto"), to be looked up in the memory; `relation` says on which side
    of it the question looks. All are None when the question says nothing about when.
    """

    start: datetime | None = None
    end: datetime | None = None
    anchor: str | None = None
    relation: Literal["before", "after", "during"] | None = None


def query_window(text: str, reference: datetime) -> Window:
    """What a question asked at `reference` says about when, all of it optional.

    "before 2022" has an end, "since March" a start, "between May and July 2023" both, "in May" the latest May. An event
    ("before I moved", "after the wedding") comes back in its own words as the anchor. A question for the time from one
    event or date to another ("how many days after I moved did I ...", "how long before the wedding ...") sets no limit,
    for it asks about both ends. Read are the first 2,000 characters.
    """
    text = text[:QUESTION_CHARS]
    duration = _DURATION.search(text)
    if duration and _APART.match(text, duration.end()):
        return Window()
    spans = find_times(text, reference)
    anchor, relation, at = _event(text, spans, only_during=duration is not None)
    if not spans:
        return Window(anchor=anchor, relation=relation)
    first, last = spans[0], spans[-1]
    joint = text[first.end_char : spans[1].start_char] if len(spans) > 1 else ""
    lead = _BOUND.search(text[max(0, first.start_char - 40) : first.start_char])
    bound = " ".join(lead[1].lower().split()) if lead else ""
    if len(spans) > 1 and bound in ("between", "from") and _RANGE.fullmatch(joint):
        last = spans[1]
        if first.end > last.start:  # "between May and July 2023", asked much later
            first = find_times(text, last.start)[0]
        window = Window(first.start, last.end)
    elif bound in ("before", "prior to"):
        window = Window(None, first.start)
    elif bound in ("until", "till", "by", "up to"):
        window = Window(None, first.end)
    elif bound == "after":
        window = Window(first.end, None)
    elif bound in ("since", "from"):
        window = Window(first.start, None)
    elif anchor is not None and at < first.start_char and relation != "during":  # "before I moved in 2020"
        window = Window(None, last.end) if relation == "before" else Window(last.start, None)
    else:
        window = Window(min(span.start for span in spans), max(span.end for span in spans))
    return replace(window, anchor=anchor, relation=relation)


def _event(
    text: str, spans: list[TimeSpan], only_during: bool
) -> tuple[str | None, Literal["before", "after", "during"] | None, int]:
    """The event that bounds a question, on which side of it the question looks, and where it stands.

    `only_during`: an event counts only if it is said to last ("during the trip").
    """
    times = {span.start_char for span in spans}
    for match in _EVENT.finditer(text):
        event = match["event"].strip()
        word = " ".join(match["word"].lower().split())
        asks = word == "when" and not text[: match.start()].strip()
        is_time = match.start("event") in times or match.end("event") - len(event.partition(" ")[2]) in times
        if (
            asks
            or is_time
            or (only_during and word != "during")
            or not re.search(r"\w{2}", event)
            or _NO_EVENT.search(text[max(0, match.start() - 20) : match.start()])
        ):
            continue
        return event, _RELATIONS.get(word, "during" if word == "during" else "after"), match.start()  # pyright: ignore
    return None, None, -1
