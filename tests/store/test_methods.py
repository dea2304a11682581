"""What every method of the store must do; one joins by its row in the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from recollect.errors import InvalidInput
from recollect.lm import OpenAICompatible
from recollect.store import notes
from recollect.store.method import derives, make_method, method_targets
from recollect.store.records import Episode, Note, parse_time
from recollect.store.views import View
from rules import RuleServer

METHODS = sorted(method_targets())
DERIVING = [name for name in METHODS if derives(make_method(name))]
TALK = [
    ("s1", "2024-01-05T10:00", "Ana", "I adopted a grey cat named Miso from the shelter in Lisbon."),
    ("s1", "2024-01-05T10:01", "Ben", "How lovely! Miso must be settling in well."),
    ("s1", "2024-01-05T10:02", "Ana", "I work at Acme as a nurse."),
    ("s2", "2024-03-10T09:00", "Ben", "I started learning the violin with a teacher named Petra."),
    ("s2", "2024-03-10T09:01", "Ana", "Petra taught my brother Hugo too."),
    ("s3", "2024-06-20T18:00", "Ana", "The marathon in Porto was hot, I finished in four hours."),
    ("s3", "2024-06-20T18:01", "Ben", "My violin teacher moved to Vienna, so I stopped the lessons."),
]
FIVE = (
    ("I live in Lisbon.", "I live in Lisbon", "By the way, I live in Lisbon!"),
    ("I have two cats.", "I've two cats", "As I said, I have 2 cats."),
    ("My sister works at a bank.", "my sister works at a bank", "My sister works at a bank, you know."),
    ("I am allergic to peanuts.", "I'm allergic to peanuts!", "I am allergic to peanuts"),
    ("I love the Beatles.", "I love The Beatles", "well, I love the Beatles"),
)

BACKENDS = ("sqlite", "postgres")


def items(talk=TALK):
    return [{"session": session, "at": at, "speaker": who, "text": text} for session, at, who, text in talk]


def long_items(talk=TALK):
    """The same, each with so much more talk that a method that shortens has something to shorten."""
    more = " ".join(
        f"On day {day} nothing of note happened near the river, apart from the weather." for day in range(20)
    )
    return [item | {"text": f"{item['text']} {more}"} for item in items(talk)]


@pytest.fixture(params=METHODS)
def memory(request, open_memory):
    memory = open_memory(method=request.param)
    memory.add_many(items())
    return memory


@pytest.fixture(params=DERIVING)
def deriving(request, open_memory):
    memory = open_memory(method=request.param)
    memory.add_many(items())
    return memory


@pytest.fixture
def server():
    server = RuleServer()
    yield server
    server.close()


@pytest.fixture
def lm(server):
    lm = OpenAICompatible(server.url, "rules", timeout_s=5, max_retries=0)
    yield lm
    if lm._client is not None:
        lm._client.close()


def live(memory) -> dict[str, Note]:
    view = View(memory._filter(), memory.method.name)
    return {note.id: note for note in notes.seen(memory.engine.db, view).values()}


def said(memory) -> dict[str, Episode]:
    return {episode.id: episode for episode in memory.episodes()}


def shown(hits) -> list[tuple]:
    return [(hit.id, hit.text, hit.sources) for hit in hits]


def test_the_evidence_is_found_and_explained(memory):
    by_id = said(memory)
    for question, wanted in (
        ("What is the name of Ana's cat?", "Miso from the shelter"),
        ("Who taught Ben the violin?", "Petra"),
        ("How long did the marathon in Porto take?", "marathon"),
    ):
        hits = memory.recall(question, k=5)
        assert 1 <= len(hits) <= 5
        assert any(wanted in by_id[source].text for hit in hits for source in hit.sources), question
        assert len({hit.id for hit in hits}) == len(hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.sources
            assert set(hit.sources) <= set(by_id)
            assert hit.why, f"{hit.id} does not say why"


def test_recall_as_of_a_time_knows_nothing_later(memory):
    by_id = said(memory)
    then = parse_time("2024-03-10T09:01:30")
    hits = memory.recall("violin lessons teacher", k=10, at=then)
    assert hits
    for hit in hits:
        assert min(by_id[source].at for source in hit.sources) <= then
        assert "Vienna" not in hit.text
        assert all("Vienna" not in str(value) for value in hit.meta.values())
    assert memory.recall("violin lessons teacher", k=10, at="2023-01-01") == []


@pytest.mark.parametrize(
    "narrow", [{"session": "s1"}, {"speaker": "Ana"}, {"before": "2024-02-01"}, {"after": "2024-06-01"}]
)
def test_filters_hold(memory, narrow):
    allowed = {episode.id for episode in memory.episodes(**narrow)}
    hits = memory.recall("cat violin marathon", k=10, **narrow)
    assert hits
    for hit in hits:
        assert set(hit.sources) & allowed, hit.text


def test_no_scope_sees_another(memory, open_memory):
    name = memory.method.name
    stranger = open_memory(method=name, user="stranger")
    stranger.add("I adopted a grey cat named Nori from the shelter in Lisbon.", speaker="Ana", at="2024-01-06")
    theirs = {episode.id for episode in stranger.episodes()}
    for other, own in ((stranger, theirs), (memory, set(said(memory)))):
        hits = other.recall("the grey cat from the shelter", k=10)
        assert hits
        assert {source for hit in hits for source in hit.sources} <= own
        assert {source for note in live(other).values() for source in note.sources} <= own
    agents = [open_memory(method=name, user="shared", agent=agent) for agent in ("one", "two")]
    for agent in agents:
        agent.add(f"A grey cat lives with agent {agent.agent}, in Lisbon.", speaker="Ana", at="2024-01-06")
        agent.recall("grey cat", k=3)
        agent.consolidate()
    for agent in agents:
        assert all(
            f"agent {agent.agent}" in hit.text for hit in agent.recall("grey cat", k=10) if hit.kind == "episode"
        )
        for note in live(agent).values():
            assert {episode.agent for episode in said(agent).values() if episode.id in note.sources} == {agent.agent}


def test_switching_the_method_and_back_loses_nothing(memory, open_memory):
    before = shown(memory.recall("Who taught Ben the violin?", k=5))
    kept = live(memory)
    other = open_memory(method="episodic" if memory.method.name != "episodic" else DERIVING[0])
    assert other.recall("Who taught Ben the violin?", k=5)
    back = open_memory(method=memory.method.name)
    assert back.num_underived() == 0
    assert shown(back.recall("Who taught Ben the violin?", k=5)) == before
    assert live(back) == kept
    assert open_memory().method.name == memory.method.name  # remembered


def test_batches_derive_what_one_addition_at_a_time_does(deriving, open_memory, tmp_path):
    slowly = open_memory(path=tmp_path / "slowly.db", method=deriving.method.name)
    for item in items():
        slowly.add(**item)
    for memory in (slowly, deriving):
        assert memory.num_underived() == 0
    question = "Who taught Ben the violin?"
    one, other = (
        {said(memory)[source].text for hit in memory.recall(question, k=3) for source in hit.sources}
        for memory in (slowly, deriving)
    )
    assert one & other


def test_forgetting_reaches_everything_that_was_derived(memory):
    memory.consolidate()
    memory.recall("Vienna lessons", k=3)
    memory.answer("What happened to the violin teacher?")
    doomed = list(memory.episodes(session="s3"))
    receipt = memory.forget(session="s3")
    assert set(receipt.episodes) == {episode.id for episode in doomed}
    left = live(memory)
    assert all(set(note.sources) <= set(said(memory)) and note.sources for note in left.values())
    assert not any("Vienna" in f"{note.text} {note.key} {note.meta}" for note in left.values())
    assert memory.verify().clean
    assert all("Vienna" not in hit.text for hit in memory.recall("Vienna", k=10))
    path = Path(memory.engine.db.path)
    memory.close()
    for file in (path, *Path(f"{path}-index").rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            assert b"Vienna" not in content, file
            assert b"vienna" not in content, file


def test_fifteen_additions_of_five_facts_leave_five(open_memory):
    for name in DERIVING:
        memory = open_memory(path=":memory:", method=name)
        for turn in range(3):
            for number, wordings in enumerate(FIVE):
                memory.add(wordings[turn], speaker="Ana", at=f"2024-0{turn + 1}-0{number + 1}")
            if turn == 0:
                first = len(live(memory))
        memory.consolidate()
        assert memory.stats().num_episodes == 15
        assert len(live(memory)) <= first, name
        sources = {source for note in live(memory).values() for source in note.sources}
        assert sources == set(said(memory)), f"{name}: what was said again has no note"
        hits = memory.recall("Which animals does Ana have?", k=5)
        assert len({text for hit in hits for text in [hit.text.casefold().strip(".!")]}) == len(hits), name


def test_an_update_closes_the_old_fact_and_keeps_it(open_memory):
    for name in DERIVING:
        memory = open_memory(path=":memory:", method=name)
        old = memory.add("I live in Lisbon.", speaker="Ana", at="2024-01-05")
        new = memory.add("I moved from Lisbon to Porto.", speaker="Ana", at="2024-05-12")
        memory.consolidate()
        closed = [note for note in live(memory).values() if note.valid_to is not None]
        assert closed, f"{name}: nothing was closed"
        for note in closed:
            assert old.id in note.sources
            assert note.valid_to == new.at
        open_ = [note for note in live(memory).values() if new.id in note.sources and note.valid_to is None]
        assert open_, name
        memory.forget(new.id)
        assert all(note.valid_to is None for note in live(memory).values()), name


def test_consolidation_is_shown_done_and_undone(deriving):
    before = live(deriving)
    links = notes.links(deriving.engine.db, "default", deriving.method.name)
    first = deriving.consolidate(dry_run=True)
    assert live(deriving) == before
    done = deriving.consolidate()
    assert [change.note.text for change in done.changes] == [change.note.text for change in first.changes]
    assert set(said(deriving)) == {episode.id for episode in deriving.episodes()}
    if done.run is not None:
        deriving.undo(done.run)
    assert live(deriving) == before
    assert notes.links(deriving.engine.db, "default", deriving.method.name) == links
    assert deriving.verify().clean


def test_export_and_restore(deriving, open_memory, tmp_path):
    question = "Who taught Ben the violin?"
    before = shown(deriving.recall(question, k=5))
    deriving.export(tmp_path / "e.jsonl")
    restored = open_memory(path=tmp_path / "restored.db", method=deriving.method.name)
    restored.import_(tmp_path / "e.jsonl")
    assert restored.num_underived() == 0
    assert live(restored) == live(deriving)
    assert shown(restored.recall(question, k=5)) == before


def test_reindexing_changes_nothing_that_is_found(deriving, open_memory):
    question = "Who taught Ben the violin?"
    before = shown(deriving.recall(question, k=5))
    deriving.reindex()
    assert shown(deriving.recall(question, k=5)) == before
    assert deriving.verify().clean


def test_what_another_handle_adds_is_recalled(deriving, open_memory):
    other = open_memory(method=deriving.method.name)
    deriving.recall("dinner", k=3)
    added = other.add("Dinner was paella with saffron at Carmen's.", speaker="Ana", at="2024-07-01T20:00")
    assert any(added.id in hit.sources for hit in deriving.recall("the paella dinner at Carmen's", k=5))
    other.forget(added.id)
    assert not any(added.id in hit.sources for hit in deriving.recall("the paella dinner at Carmen's", k=5))


@pytest.mark.parametrize("name", DERIVING)
def test_with_a_language_model_over_http(name, open_memory, server, lm):
    memory = open_memory(method=name, lm=lm)
    memory.add_many(long_items())
    assert server.asked
    assert memory.num_underived() == 0
    assert memory.lm.cost.calls > 0
    assert memory.lm.cost.input_tokens > 0
    hits = memory.recall("violin", k=5)
    assert {source for hit in hits for source in hit.sources} <= set(said(memory))
    shown_ = memory.consolidate(dry_run=True)
    assert shown_.run is None
    memory.consolidate()
    assert memory.verify().clean
    assert all("rules" in note.method_version for note in live(memory).values())


@pytest.mark.parametrize("name", DERIVING)
def test_a_reply_that_fits_no_schema_loses_nothing(name, open_memory, server, lm):
    server.broken = {"grey cat"}
    memory = open_memory(method=name, lm=lm)
    memory.add_many(long_items(TALK[:1] + TALK[3:4]))
    report = memory.derive()
    assert memory.stats().num_episodes == 2
    assert report.waiting >= 1
    server.broken = set()
    assert memory.derive(retry=True).waiting == 0
    assert {source for note in live(memory).values() for source in note.sources} == set(said(memory))


@pytest.mark.parametrize("name", DERIVING)
def test_a_model_out_of_reach_loses_nothing(name, open_memory):
    server = RuleServer()
    url = server.url
    server.close()
    gone = OpenAICompatible(url, "rules", timeout_s=1, max_retries=0)
    memory = open_memory(method=name, lm=gone)
    with pytest.warns(UserWarning, match="cannot be reached"):
        memory.add_many(long_items(TALK[:2]))
    assert memory.num_underived() == 2
    memory.use_language_model(None)
    assert memory.derive().episodes == 2
    gone._client.close()


def test_hostile_texts_are_derived(deriving):
    for text in (
        "\x00\x01 NUL",
        "'; DROP TABLE notes; --",
        '{"keywords": ["x"]}',
        "\u202eabc",
        "?" * 3000,
        "a" * 50_000,
        ".",
    ):
        deriving.add(text, at="2024-08-01")
    assert deriving.num_underived() == 0
    for query in ('" OR 1=1', "NEAR(", "*", "\x00", "\u202e"):
        if query.strip("\x00"):
            deriving.recall(query, k=3)
    deriving.consolidate()
    assert deriving.verify().clean


def test_an_unknown_method_is_named(open_memory):
    with pytest.raises(InvalidInput, match=r"method: 'hippo' is not known; choose one of"):
        open_memory(method="hippo")
