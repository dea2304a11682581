"""Thoughts: read from replies, told to contradict each other, and joined into one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from recollect.errors import InvalidInput
from recollect.store import lexical
from recollect.store.facts import Fact, contradicts, same_fact
from recollect.store.records import Note, parse_time
from recollect.store.settling import fact_of
from recollect.store.tim_prompts import Thoughts

# Relations of which the rules join the tails, and the words that a tail may have.
LASTING = frozenset({"likes", "dislikes", "plays", "speaks", "studies", "is allergic to", "is learning", "diet"})
MAX_TAIL_WORDS = 4


def facts_of(reply: Thoughts) -> list[Fact]:
    """The thoughts of a reply that say something, as facts."""
    found = []
    for thought in reply.thoughts:
        head, relation, tail, sentence = (
            " ".join(text.split()) for text in (thought.head, thought.relation, thought.tail, thought.sentence)
        )
        if not (head and relation and sentence):
            continue
        try:
            since = parse_time(thought.since, "since") if thought.since.strip() else None
        except InvalidInput:
            since = None
        found.append(Fact(head, relation, tail, sentence, thought.single, since, thought.ended, 0, len(sentence)))
    return found


def contradicted(group: Sequence[Note]) -> dict[str, Note]:
    """The thoughts of a group that a later one contradicts, each with the first that does."""
    by_head: dict[str, list[tuple[Note, Fact]]] = {}
    for note in group:
        if (fact := fact_of(note)) is not None:
            by_head.setdefault(fact.subject.casefold(), []).append((note, fact))
    ended: dict[str, Note] = {}
    for told in by_head.values():
        for place, (old_note, old) in enumerate(told):
            because = next((note for note, new in told[place + 1 :] if contradicts(new, old)), None)
            if because is not None:
                ended[old_note.id] = because
    return ended


def _lasts(fact: Fact) -> bool:
    plain = fact.text.rstrip(" .!").endswith(fact.value) and len(fact.value.split()) <= MAX_TAIL_WORDS
    return plain and fact.relation in LASTING and not (fact.single or fact.ends or fact.at)


def bundles_of(
    group: Sequence[Note], parts_of: Callable[[Sequence[Note]], list[Note]], max_joined: int
) -> list[list[Note]]:
    """Thoughts of one head and one lasting relation, several at a time, with at most `max_joined` tails together.

    parts_of: the thoughts that merged ones go back to.
    """
    by_relation: dict[tuple[str, str], list[Note]] = {}
    for note in group:
        told = [fact for part in parts_of([note]) if (fact := fact_of(part))]
        if told and all(_lasts(fact) for fact in told) and len({fact.relation for fact in told}) == 1:
            by_relation.setdefault((told[0].subject.casefold(), told[0].relation), []).append(note)
    bundles: list[list[Note]] = []
    for related in by_relation.values():
        bundle: list[Note] = []
        for note in related:
            if len(parts_of([*bundle, note])) > max_joined:
                bundles.append(bundle)
                bundle = []
            bundle.append(note)
        bundles.append(bundle)
    return [bundle for bundle in bundles if len(bundle) > 1]


def join(parts: Sequence[Note]) -> str:
    """One sentence for thoughts of one head: their tails joined where they share the relation, else one after the other.

    "Ana likes tea." and "Ana likes jazz." become "Ana likes tea and jazz."
    """
    told: list[Fact] = []
    for part in parts:
        fact = fact_of(part)
        if fact is not None and not any(same_fact(fact, other) for other in told):
            told.append(fact)
    if len({fact.relation for fact in told}) != 1:
        return " ".join(dict.fromkeys(part.text for part in parts))
    tails = [fact.value for fact in told]
    joined = ", ".join(tails[:-1]) + " and " + tails[-1] if len(tails) > 1 else tails[0]
    stem = told[0].text.rstrip(" .!")
    start = stem.removesuffix(tails[0]) if stem.endswith(tails[0]) else f"{told[0].subject} {told[0].relation} "
    return f"{start}{joined}."


def says_all(sentence: str, chosen: Sequence[Note], max_dropped_share: float) -> bool:
    """Whether a merged sentence keeps every number, and all but a share of the words, of the thoughts that it merges."""
    told = " ".join(note.text for note in chosen)
    words, kept = set(lexical.terms(told)), set(lexical.terms(sentence))
    numbers = set(re.findall(r"\d+", told))
    lost = len(words - kept) / max(len(words), 1)
    return bool(sentence.strip()) and lost <= max_dropped_share and numbers <= set(re.findall(r"\d+", sentence))
