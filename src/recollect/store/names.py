"""Named things in a text: people, places, organisations, titles, products, and dates written out.

A name is a run of words with capitals, joined by little words inside it ("University of Copenhagen"), a title in
quotes, or a date with digits or a month. A capital at the start of a sentence counts only if the word is no common one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from recollect.store.english import MAX_CHARS, VERBS, expand, is_adverb, sentences
from recollect.store.lexical import STOP_WORDS

_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?\s)?{_MONTH}(?:\s\d{{1,2}}(?:st|nd|rd|th)?)?,?\s(?:1\d|20)\d\d(?!\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?\s{_MONTH}\b|{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?(?!\d)|(?<![\d.,])(?:1\d|20)\d\d(?![\d.,]\d|\d)(?:s\b)?"
)
_CAPITAL = r"(?:[A-Z\u00c0-\u00de][\w'\u2019]*\.?(?:-[\w]+)*|[a-z]{1,2}[A-Z]\w+)"
_PART = rf"(?:(?<!\w)(?:[A-Z]\.\s?){{0,3}}[A-Z]\.|{_CAPITAL}|\d{{1,4}}(?:st|nd|rd|th)?\b)"
_JOINT = (
    r"(?:\s(?:of|of\sthe|de|da|do|dos|di|la|le|el|al|van|von|der|den|for|for\sthe|the)\s"
    r"|\s|\s?-\s?|,\s(?=(?:Jr|Sr|Inc|Ltd)\b)|\s?&\s?)"
)
_NAME = re.compile(
    rf"(?P<quoted>[\"\u201c](?P<q>[^\"\u201c\u201d\n]{{2,80}})[\"\u201d]|``\s?(?P<q2>[^`'\n]{{2,80}}?)\s?'')"
    rf"|(?P<dated>(?<=[Tt]he\s)(?:1[89]|20)\d\d\s{_CAPITAL}(?:{_JOINT}{_PART}){{0,8}})|(?P<date>{_DATE})"
    rf"|(?P<name>{_CAPITAL}(?:{_JOINT}{_PART}){{0,8}})"
)

_FIRST = re.compile(r"\b(?:I|my|me|mine|myself)\b")
_NOT_NAMES = frozenset(
    """i monday tuesday wednesday thursday friday saturday sunday hey hi hello oh wow thanks thank yeah yes no ok okay lol haha
    congrats congratulations sure great good nice cool awesome glad sorry sounds looks happy let please god tv btw omg
    absolutely definitely exactly maybe well its hope keep take can't don't here's that's it's i'm i've i'll i'd what's
    there's let's you're we're they're he's she's mr mrs ms dr due according following despite additionally moreover
    throughout like unlike many several later along every besides currently originally today tomorrow yesterday anything
    something everything nothing love loved miss see plus gonna can't wanna way aw aww bye welcome best
    """.split()
)


@dataclass(frozen=True, slots=True)
class Mention:
    """A named thing where it stands: characters of the text, its words, and "name", "title" or "date"."""

    first: int
    last: int
    text: str
    kind: str


def mentions(text: str) -> list[Mention]:
    """The named things of a text in order, each time that they stand in it; 20,000 characters are read."""
    found: list[Mention] = []
    text = text[:MAX_CHARS]
    for start, end in sentences(text):
        for match in _NAME.finditer(text, start, end):
            if match["date"]:
                found.append(Mention(match.start(), match.end(), match[0], "date"))
            elif match["quoted"]:
                title = (match["q"] or match["q2"]).strip(" ,.")
                if title:
                    first = text.index(title, match.start())
                    found.append(Mention(first, first + len(title), title, "title"))
            else:
                found += _trimmed(
                    text, match.start(), match.end(), at_start=not text[start : match.start()].strip("\"' (\u201c")
                )
    return found


def _trimmed(text: str, first: int, last: int, at_start: bool) -> list[Mention]:
    """A run of words with capitals without common words at its ends."""
    words = [(m.start(), m.end(), m[0]) for m in re.finditer(r"\S+", text[first:last])]
    while words and _common(words[0][2], at_start):
        words, at_start = words[1:], False
        while words and words[0][2][:1].islower():
            words = words[1:]
    while words and (words[-1][2][:1].islower() and words[-1][2].isalpha() and words[-1][2].islower()):
        words = words[:-1]
    if not words:
        return []
    start, end = first + words[0][0], first + words[-1][1]
    name = (
        text[start:end].rstrip(".,'")
        if not re.search(r"\b[A-Z]\.$|(?:Jr|Sr|Inc|Ltd|Co|St)\.$", text[start:end])
        else text[start:end]
    )
    name = re.sub(r"['\u2019]s?$", "", name)
    return [Mention(start, start + len(name), name, "name")] if len(name) > 1 else []


def _common(word: str, at_start: bool) -> bool:
    """Whether a word with a capital is no name: one of the common words, at the start of a sentence any usual one."""
    lower = word.lower().strip(".,'\u2019").replace("\u2019", "'")
    if lower in _NOT_NAMES or (lower in STOP_WORDS and not (word.isupper() and len(word) > 1)):
        return True
    return at_start and (lower in VERBS or is_adverb(lower) or lower.endswith("ing"))


def entities(text: str, *, speaker: str | None = None) -> list[str]:
    """The named things of a text in order, each once; the speaker too where the text says "I" or "my"."""
    text = text[:MAX_CHARS].replace("\0", " ")
    names = [(mention.first, mention.text) for mention in mentions(text)]
    own = _FIRST.search(expand(text)) if speaker and speaker.strip() else None
    if own and speaker:
        names.append((own.start(), " ".join(speaker.replace("\0", " ").split())))
    unique = {}
    for _, name in sorted(names, key=lambda item: item[0]):
        unique.setdefault(name.casefold(), name)
    return list(unique.values())
