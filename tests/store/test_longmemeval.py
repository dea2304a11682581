"""LongMemEval's memory: values, keys, events and the time of a question."""

from __future__ import annotations

import pytest

from recollect.lm import Scripted
from recollect.store import notes
from recollect.store.longmemeval import LongMemEvalMemory
from recollect.store.views import View


def live(memory, kind):
    return list(notes.seen(memory.engine.db, View(memory._filter(), "longmemeval", (kind,))).values())


CHAT = [
    {
        "text": "I bought a red bike yesterday. How do I oil the chain?",
        "speaker": "user",
        "session": "s1",
        "at": "2024-05-07T10:00",
    },
    {"text": "Use a drop of oil on each link.", "speaker": "assistant", "session": "s1", "at": "2024-05-07T10:01"},
]


def test_the_key_is_the_facts_and_what_the_user_said(open_memory):
    keys = {}
    for join in ("merge", "replace", "separate", "none"):
        memory = open_memory(path=":memory:", method=LongMemEvalMemory(join=join))
        memory.add_many(CHAT)
        (value,) = live(memory, "round")
        assert value.text == f"user: {CHAT[0]['text']}\nassistant: {CHAT[1]['text']}"
        keys[join] = value.key
    fact = live(memory, "fact")[0].text
    assert keys["none"] == keys["separate"] == CHAT[0]["text"]
    assert keys["merge"] == f"{fact} {CHAT[0]['text']}"
    assert keys["replace"] == fact
    assert "drop of oil" not in keys["merge"]


def test_a_session_is_one_value_that_grows(open_memory):
    memory = open_memory(method=LongMemEvalMemory(granularity="session"))
    for number in range(3):
        memory.add(f"remark {number}", speaker="user", session="s")
    (value,) = live(memory, "session")
    assert value.text == "user: remark 0\nuser: remark 1\nuser: remark 2"
    assert memory.recall("remark", k=5)[0].kind == "session"


def test_events_have_days_and_a_question_about_a_time_prefers_them(open_memory):
    memory = open_memory(method=LongMemEvalMemory())
    memory.add_many(CHAT)
    (event,) = live(memory, "event")
    assert (event.valid_from.date().isoformat(), event.valid_to.date().isoformat()) == ("2024-05-06", "2024-05-07")
    memory.add_many(
        {
            "text": f"I bought a bike of kind {n}, a fine bike to buy",
            "speaker": "user",
            "session": f"t{n}",
            "at": f"2024-0{n}-20",
        }
        for n in (1, 2, 7, 8)
    )
    hits = memory.recall("Which bike did I buy on 6 May 2024?", k=4, at="2024-12-01")
    assert "red bike" in hits[0].text
    assert hits[0].score > 1 >= hits[1].score
    assert len(hits) == 4  # a soft filter
    memory.method = LongMemEvalMemory(reads_time=False)
    assert memory.recall("Which bike did I buy on 6 May 2024?", k=4, at="2024-12-01")[0].score <= 1


def test_separate_keys_lead_to_the_value(open_memory):
    memory = open_memory(method=LongMemEvalMemory(join="separate", index="dense"))
    memory.add_many(CHAT)
    (hit,) = memory.recall("red bike", k=3)
    assert hit.kind == "round"
    assert any(signal.name == "facts" for signal in hit.why)


def test_steps_by_a_language_model(open_memory):
    extract = {
        "facts": [
            {
                "sentence": "The user owns a red bike.",
                "subject": "user",
                "relation": "owns",
                "value": "a red bike",
                "single": False,
            },
            {"sentence": " ", "subject": "user", "relation": "", "value": "", "single": False},
        ],
        "events": [
            {"event": "The user bought a bike.", "first_day": "2024/05/06", "last_day": "2024/05/06"},
            {"event": "nonsense", "first_day": "some day", "last_day": ""},
        ],
    }
    ranges = [{"first_day": "2024-05-06", "last_day": "2024-05-06"}, {"first_day": None, "last_day": None}]
    lm = Scripted([extract, *ranges, "not json", "nor this"])
    memory = open_memory(method=LongMemEvalMemory(lm=lm))
    memory.add_many(CHAT)
    assert [note.text for note in live(memory, "fact")] == ["The user owns a red bike."]
    assert [note.text for note in live(memory, "event")] == ["The user bought a bike."]
    assert live(memory, "round")[0].key.startswith("The user owns a red bike. I bought")
    assert memory.recall("bike that day", k=1)[0].score > 1
    assert memory.recall("bike", k=1)[0].score <= 1
    assert memory.recall("bike", k=1)[0].score <= 1  # a broken reply is no range


def test_consolidation_joins_facts_that_say_the_same(open_memory):
    facts = ["Ana owns a dog.", "Ana is the owner of a dog."]
    replies = [
        {
            "facts": [{"sentence": text, "subject": "Ana", "relation": "owns", "value": "a dog", "single": False}],
            "events": [],
        }
        for text in facts
    ]
    memory = open_memory(method=LongMemEvalMemory(lm=Scripted(replies)))
    for number, text in enumerate(facts):
        memory.add(text, speaker="Ana", session=f"s{number}", at=f"2024-01-0{number + 1}")
    assert len(live(memory, "fact")) == 2
    made = memory.consolidate()
    assert [len(change.replaces) for change in made.changes] == [2]
    (joined,) = live(memory, "fact")
    assert (joined.text, len(joined.sources)) == (facts[1], 2)


@pytest.mark.parametrize("index", ["dense", "bm25", "both"])
def test_every_index_finds_it(open_memory, index):
    memory = open_memory(method=LongMemEvalMemory(index=index))
    memory.add_many(CHAT)
    memory.add("The weather was fine.", speaker="user", session="s2")
    assert "red bike" in memory.recall("a red bike", k=1)[0].text
