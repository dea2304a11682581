"""What a round is, in one batch and turn by turn."""

from __future__ import annotations

import pytest

from recollect.store import notes
from recollect.store.longmemeval import LongMemEvalMemory
from recollect.store.views import View

TALKS = {
    "two people": (["Ana", "Ben", "Ana", "Ben"], [[0, 1], [2, 3]]),
    "an assistant answers": (["user", "assistant", "user", "assistant"], [[0, 1], [2, 3]]),
    "an assistant greets": (["assistant", "user", "assistant"], [[0], [1, 2]]),
    "one speaks twice": (["Ana", "Ana", "Ben"], [[0], [1, 2]]),
    "three people": (["Ana", "Ben", "Cem", "Ana"], [[0, 1], [2, 3]]),
    "nobody is named": ([None, None], [[0], [1]]),
}


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("at_once", [True, False])
def test_rounds(open_memory, name, at_once):
    speakers, expected = TALKS[name]
    memory = open_memory(method=LongMemEvalMemory())
    items = [
        {"text": f"remark number {n} about {'abcd'[n] * 4}", "speaker": who, "session": "s"}
        for n, who in enumerate(speakers)
    ]
    if at_once:
        memory.add_many(items)
    else:
        for item in items:
            memory.add(**item)
    ids = [episode.id for episode in memory.episodes()]
    found = notes.seen(memory.engine.db, View(memory._filter(), "longmemeval", ("round",))).values()
    assert sorted([ids.index(source) for source in note.sources] for note in found) == expected


def test_turns_without_a_session_are_rounds_by_themselves(open_memory):
    memory = open_memory(method=LongMemEvalMemory())
    memory.add_many([{"text": "tea", "speaker": "Ana"}, {"text": "coffee", "speaker": "Ben"}])
    found = notes.seen(memory.engine.db, View(memory._filter(), "longmemeval", ("round",))).values()
    assert [note.text for note in found] == ["Ana: tea", "Ben: coffee"]


@pytest.mark.parametrize("method", ["longmemeval", "scm", "episodic"])
def test_the_built_in_reader_reads_a_round_turn_by_turn(open_memory, method):
    memory = open_memory(method=method)
    memory.add("I ran a charity race last Saturday.", speaker="Mel", session="s", at="2023-05-25T13:14")
    memory.add("That sounds great!", speaker="Caro", session="s", at="2023-05-25T13:15")
    answer = memory.answer("When did Mel run a charity race?", at="2023-06-01")
    assert "20 May 2023" in answer.text
    assert [quote.speaker for quote in answer.quotes] == ["Mel"]
