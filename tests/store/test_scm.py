"""Self-Controlled Memory: the budget, the controller, flash memory, summaries and digests."""

from __future__ import annotations

import re

import pytest

from recollect.lm import Scripted
from recollect.store import notes
from recollect.store.scm import RAW, SUMMARY, SelfControlledMemory
from recollect.store.views import View

WORDS = "river stone bridge lantern market winter garden letter"


def long_text(fact: str, size: int = 400) -> str:
    return f"{fact} " + " ".join(f"{word}{number}" for number in range(size // 8) for word in WORDS.split())


def live(memory, kind="item"):
    return list(notes.seen(memory.engine.db, View(memory._filter(), "scm", (kind,))).values())


def by_rule(**answers):
    """A reply for each schema: `Summary` gets the first words, `Verdict` what its rule says of the question."""

    def reply(messages):
        text = messages[-1]["content"]
        if "Summarise it" in text:
            return {"summary": " ".join(text.split("Text:\n")[1].split()[:12])}
        for start, rule in answers.items():
            if text.startswith(start):
                return {"reason": "", "yes": rule(text)}
        raise AssertionError(text[:60])

    return Scripted([reply] * 200)


def test_long_rounds_are_summarised_and_short_ones_are_not(open_memory):
    memory = open_memory(method=SelfControlledMemory(lm=by_rule()))
    memory.add("a short remark", session="s")
    memory.add(long_text("Ana keeps bees."), session="t")
    short, long = live(memory)
    assert "summary" not in short.meta
    assert long.meta["summary"].startswith("Ana keeps bees.")
    assert memory.method.lm.cost.calls == 1


def test_within_the_budget_everything_is_given_in_full_and_nothing_is_asked(open_memory):
    memory = open_memory(method=SelfControlledMemory(lm=by_rule()))
    memory.add_many({"text": f"fact {number} about bees", "session": f"s{number}"} for number in range(4))
    hits = memory.recall("bees", k=3)
    assert len(hits) == 3
    assert {hit.meta["given"] for hit in hits} == {RAW}
    assert memory.method.lm.cost.calls == 0


def test_flash_memory_comes_last_and_always(open_memory):
    memory = open_memory(method=SelfControlledMemory())
    for number in range(6):
        memory.add(f"the hive number {number} gave honey", session=f"s{number}", at=f"2024-01-0{number + 1}")
    memory.add("quite another matter", session="now", at="2024-02-01")
    hits = memory.recall("honey from the hives", k=3)
    assert hits[-1].text.endswith("quite another matter")
    assert all("hive" in hit.text for hit in hits[:-1])
    assert memory.recall("honey from the hives", k=1)[0].text != hits[-1].text
    followed = open_memory(method=SelfControlledMemory(query_with_flash=True))
    assert followed.recall("and that?", k=2)[-1].text.endswith("quite another matter")


def test_over_the_budget_the_controller_drops_shortens_and_keeps(open_memory):
    bears = lambda text: "bees" in text.split("Memory:")[1]  # noqa: E731
    suffices = lambda text: "twelve" in text.split("Summary:")[1]  # noqa: E731
    lm = by_rule(**{"Does this": bears, "Can the": suffices})
    memory = open_memory(method=SelfControlledMemory(budget_tokens=3000, lm=lm))
    memory.add(long_text("bees bees bees: the best of all"), session="a", at="2024-01-01")
    memory.add(long_text("bees: Ana has twelve hives"), session="b", at="2024-01-02")
    memory.add(long_text("bees: their names are hidden further on"), session="c", at="2024-01-03")
    memory.add(long_text("bread, cheese"), session="d", at="2024-01-04")
    memory.add(long_text("boats, sails"), session="e", at="2024-01-05")
    memory.add("bye", session="f", at="2024-01-06")
    given = {re.sub(r":.*|,.*", "", hit.text, flags=re.S): hit.meta["given"] for hit in memory.recall("bees", k=9)}
    texts = [hit.text for hit in memory.recall("bees", k=9)]
    assert given["bees bees bees"] == RAW
    assert any(text.startswith("bees: Ana has twelve hives") and len(text) < 200 for text in texts)
    assert any("hidden further on" in text and len(text) > 1000 for text in texts)
    assert not any("bread" in text for text in texts[1:-1])


@pytest.mark.parametrize("budget", [0, 50, 300, 1500])
def test_the_budget_loop_ends_and_the_budget_holds(open_memory, budget):
    memory = open_memory(method=SelfControlledMemory(budget_tokens=budget))
    memory.add_many({"text": long_text(f"bees of hive {n}"), "session": f"s{n}"} for n in range(6))
    memory.add("bye", session="now")
    hits = memory.recall("bees", k=7)
    assert hits
    kept = hits[1:-1]
    assert sum(len(hit.text) // 4 for hit in kept) <= max(budget, 0)
    assert all(hit.meta["given"] in (RAW, SUMMARY) for hit in hits)


def test_whether_memory_is_needed_is_asked_only_on_demand(open_memory):
    asks = by_rule(**{"Can this input": lambda text: "bees" in text})
    memory = open_memory(method=SelfControlledMemory(asks_whether_needed=True, lm=asks))
    memory.add_many({"text": f"bees {number}", "session": f"s{number}"} for number in range(3))
    assert len(memory.recall("what of the bees", k=3)) == 3
    assert len(memory.recall("hello there", k=3)) == 1


def test_an_unreadable_verdict_gives_the_full_text(open_memory):
    memory = open_memory(method=SelfControlledMemory(budget_tokens=600))
    memory.add_many({"text": long_text(f"bees of hive {n}"), "session": f"s{n}"} for n in range(2))
    memory.add("bye", session="now")
    memory.use_language_model(Scripted(["no idea"] * 40))
    assert memory.method._ask(["Does this?"], True) == [True]
    assert memory.method._ask(["Can the?"], False) == [False]
    assert memory.recall("bees", k=3)


def test_recency_counts_when_asked_for(open_memory):
    memory = open_memory(method=SelfControlledMemory(recency_weight=5.0, recency_decay=0.1))
    memory.add("the red boat sails", session="a", at="2024-01-01")
    memory.add("a boat, small", session="b", at="2024-06-01")
    memory.add("bye", session="c", at="2024-06-02")
    assert "small" in memory.recall("the red boat sails", k=2)[0].text
    memory.method = SelfControlledMemory()
    assert "red" in memory.recall("the red boat sails", k=2)[0].text


def test_long_sessions_get_a_digest_that_grows_with_them(open_memory):
    memory = open_memory(method=SelfControlledMemory(chunk_tokens=300, merge_tokens=200))
    memory.add_many({"text": long_text(f"Day {day}: Ana planted a tree."), "session": "diary"} for day in range(3))
    memory.add("short", session="chat")
    made = memory.consolidate()
    assert [change.note.kind for change in made.changes] == ["digest"]
    (digest,) = live(memory, "digest")
    assert len(digest.sources) == 3
    assert len(digest.text) < 6000
    assert memory.consolidate().changes == ()
    memory.add(long_text("Day 4: the tree bloomed."), session="diary")
    assert [len(change.replaces) for change in memory.consolidate().changes] == [1]
    assert memory.recall("tree", k=1, kinds=["digest"])[0].kind == "digest"


def test_a_document_is_digested_chunk_by_chunk_with_the_last_summary_at_hand():
    lm = by_rule()
    scm = SelfControlledMemory(chunk_tokens=100, merge_tokens=80, lm=lm)
    text = "\n".join(f"chapter {number} " + "word " * 60 for number in range(8))
    assert scm.summarise(text).startswith("chapter 0")
    chunks = [call[-1]["content"] for call in lm.calls if "Text:\nchapter" in call[-1]["content"]]
    assert "What came before" not in chunks[0]
    assert "What came before, for reference only:\nchapter 0" in chunks[1]
    assert scm.summarise("") == ""


def test_a_closed_item_is_kept_and_says_so(open_memory):
    memory = open_memory(method=SelfControlledMemory())
    memory.add("I live in Lisbon.", speaker="Ana", at="2024-01-05")
    memory.add("I moved to Porto.", speaker="Ana", at="2024-05-12")
    ends = {hit.text: hit.valid_to for hit in memory.recall("Where does Ana live?", k=2)}
    assert ends["Ana: I live in Lisbon."].month == 5
    assert ends["Ana: I moved to Porto."] is None
