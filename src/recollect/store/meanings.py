"""Meanings: what a turn says that a phrase stands for, such as "option B is the Lisbon flat", by rule."""

from __future__ import annotations

import re

from recollect.store.facts import facts
from recollect.store.names import entities
from recollect.store.records import Episode

_THING = re.compile(r"(?:the|an?|my|our|his|her|their|its)\s|[A-Z]")  # how the value of "is" begins where it is a thing
_EQUATES = frozenset({"is", "was", "means", "stands for", "refers to", "turned out to", "is called", "was called"})


def meanings(episode: Episode) -> list[tuple[str, str | None, str]]:
    """What the turn says that something is or was: (the phrase for it, whose phrase it is if the speaker's, the sentence).

    "Our mystery guest is Miriam Makeba", said by Ana, gives ("mystery guest", "Ana", "Ana's mystery guest is ...").
    """
    speaker = episode.speaker or "I"
    found = []
    for fact in facts(episode.text, speaker=episode.speaker, at=episode.at):
        value = fact.value.removeprefix("be ")
        named = _THING.match(value) and entities(value)
        if fact.relation in _EQUATES and named and fact.subject.casefold() != speaker.casefold():
            phrase = fact.subject.removeprefix(f"{speaker}'s ")
            found.append((phrase, speaker if phrase != fact.subject else None, fact.text))
    return found


def speaks_of(text: str, speaker: str | None, phrase: str, owner: str | None) -> bool:
    """Whether a text uses a phrase of `meanings`; one that is somebody's own only where that person, or nobody, speaks."""
    own = owner is None or speaker in (owner, None)
    return own and bool(re.search(rf"\b{re.escape(phrase)}\b", text, re.IGNORECASE))
