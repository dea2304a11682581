"""What is said again is kept once; what has changed closes what was; the order of arrival does not matter."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import pytest

from recollect.store import notes
from recollect.store.facts import facts
from recollect.store.method import Draft
from recollect.store.settling import Found, fact_note, fact_of, new_note, settle
from recollect.store.views import View

FIVE = (
    ("I live in Lisbon.", "I live in Lisbon", "By the way, I live in Lisbon!"),
    ("I have two cats.", "I've two cats", "As I said, I have 2 cats."),
    ("My sister works at a bank.", "my sister works at a bank", "My sister works at a bank, you know."),
    ("I am allergic to peanuts.", "I'm allergic to peanuts!", "I am allergic to peanuts"),
    ("I love the Beatles.", "I love The Beatles", "well, I love the Beatles"),
)


@dataclass
class Statements:
    """The facts of each episode, or, where it states none, its text."""

    lm: object = None
    name: str = "statements"
    version: str = "1"

    def encode(self, engine, scope, episodes):
        found = []
        for episode in episodes:
            stated = facts(episode.text, speaker=episode.speaker, at=episode.at)
            found += [fact_note(self, "fact", fact, episode) for fact in stated]
            if not stated:
                found.append(Found(new_note(self, "remark", episode.text, [episode]), episode.at))
        return settle(engine, scope, self, found)

    def recall(self, engine, request):
        return []

    def consolidate(self, engine, scope):
        return Draft()

    def rederive(self, engine, scope, flagged):
        return Draft()


def live(memory):
    return list(notes.seen(memory.engine.db, View(memory._filter(), "statements")).values())


@pytest.mark.parametrize("at_once", [True, False])
def test_fifteen_additions_of_five_facts_leave_five(open_memory, at_once: bool):
    memory = open_memory(method=Statements())
    items = [
        {"text": wordings[turn], "speaker": "Ana", "at": f"2024-0{turn + 1}-0{number + 1}"}
        for turn in range(3)
        for number, wordings in enumerate(FIVE)
    ]
    if at_once:
        memory.add_many(items)
    else:
        for item in items:
            memory.add(**item)
    assert memory.stats().num_episodes == 15
    kept = live(memory)
    assert sorted(len(note.sources) for note in kept) == [3, 3, 3, 3, 3]
    assert all(note.at.month == 1 for note in kept)


MOVES = (
    ("I live in Lisbon.", "2024-01-05"),
    ("I moved from Lisbon to Porto.", "2024-05-12"),
    ("I moved to Berlin.", "2024-09-01"),
)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_an_update_closes_what_it_ends_in_any_order(open_memory, order):
    memory = open_memory(method=Statements())
    for number in order:
        memory.add(MOVES[number][0], at=MOVES[number][1], speaker="Ana")
    by_text = {note.text: note for note in live(memory)}
    assert len(by_text) == 3
    open_ = [note for note in by_text.values() if note.valid_to is None]
    assert [fact_of(note).value for note in open_] == ["Berlin"]


def test_an_update_closes_and_forgetting_it_opens_again(open_memory):
    memory = open_memory(method=Statements())
    memory.add("I live in Lisbon.", at="2024-01-05", speaker="Ana")
    moved = memory.add("I moved from Lisbon to Porto.", at="2024-05-12", speaker="Ana")
    old = next(note for note in live(memory) if "Lisbon" in note.text and "moved" not in note.text)
    assert old.valid_to == moved.at
    memory.forget(moved.id)
    assert [note.valid_to for note in live(memory)] == [None]


def test_facts_of_others_are_left_alone(open_memory):
    memory = open_memory(method=Statements())
    memory.add("I live in Lisbon.", at="2024-01-05", speaker="Ana")
    memory.add("I live in Porto.", at="2024-02-05", speaker="Ben")
    memory.add("My sister lives in Rome.", at="2024-03-05", speaker="Ana")
    assert [note.valid_to for note in live(memory)] == [None, None, None]
