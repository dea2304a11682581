"""A-MEM: what a note holds, links that lead both ways, evolution that can be seen at once and taken back."""

from __future__ import annotations

import json

import pytest

from recollect.lm import Scripted
from recollect.store import notes
from recollect.store.a_mem import AMem
from recollect.store.views import View


def live(memory):
    return list(notes.seen(memory.engine.db, View(memory._filter(), "a-mem")).values())


def by_text(memory):
    return {note.text: note for note in live(memory)}


def made(context="", keywords=("a", "b", "c"), tags=("x", "y", "z")):
    return {"keywords": list(keywords), "context": context, "tags": list(tags)}


def evolves(links=(), tags=(), updates=()):
    return {"links": list(links), "tags": list(tags), "updates": list(updates)}


def asked(call):
    return json.loads(call[-1]["content"])


def test_the_analyst_writes_keywords_tags_and_a_context_and_all_are_embedded(open_memory):
    memory = open_memory(method=AMem())
    memory.add("I adopted a turtle named Zorro yesterday.", speaker="Ana", at="2024-05-12")
    (note,) = live(memory)
    assert note.text == "I adopted a turtle named Zorro yesterday."
    assert any("Zorro" in word for word in note.meta["keywords"])
    assert note.meta["context"] == "Ana adopted a turtle named Zorro on 11 May 2024."
    content, keywords, *_, context = note.key.split("\n")
    assert content == "Ana says: I adopted a turtle named Zorro yesterday."
    assert keywords == ", ".join(note.meta["keywords"])
    assert context == note.meta["context"]
    (hit,) = memory.recall("11 May 2024")
    assert (hit.speaker, hit.text, hit.sources) == ("Ana", note.text, note.sources)
    assert [signal.name for signal in hit.why] == ["cosine"]


def test_the_first_note_asks_once_and_every_other_twice(open_memory):
    lm = Scripted([made(), made(), evolves()])
    memory = open_memory(method=AMem(), lm=lm)
    memory.add("tea in Lisbon", speaker="Ana")
    assert len(lm.calls) == 1
    memory.add("a red bicycle", speaker="Ana")
    assert len(lm.calls) == 3
    shown = asked(lm.calls[2])
    assert shown["new_note"]["text"] == "a red bicycle"
    assert [(item["index"], item["text"]) for item in shown["neighbours"]] == [(0, "tea in Lisbon")]
    assert all("data" in call[0]["content"] for call in lm.calls)


def test_only_the_nearest_are_compared_and_what_was_not_shown_is_ignored(open_memory):
    update = {"index": 9, "context": "nonsense", "tags": []}
    replies = [made() for _ in range(4)] + [evolves(), evolves(), evolves([0, 0, 7, -1], updates=[update])]
    memory = open_memory(method=AMem(num_neighbours=2), lm=Scripted(replies))
    memory.add_many({"text": text} for text in ("red tea", "green tea", "blue tea", "green tea pot"))
    assert len(asked(memory.method.lm.lm.calls[6])["neighbours"]) == 2
    (link,) = notes.links(memory.engine.db, memory.user, "a-mem")
    named = by_text(memory)
    assert (link.source, link.target) == (named["green tea pot"].id, named["green tea"].id)
    assert len(named) == 4


@pytest.mark.parametrize("query", ["Who joined project Falcon?", "What starts in Oslo?"])
def test_links_lead_from_either_end_to_the_other(open_memory, query):
    filler = [f"a sentence about who joined or what starts, number {number}" for number in range(6)]
    replies = [made() for _ in range(8)] + [evolves([0])] + [evolves() for _ in range(6)]
    memory = open_memory(method=AMem(), lm=Scripted(replies))
    memory.add_many(
        {"text": text} for text in ("Mia joined project Falcon.", "Falcon: everything starts in Oslo.", *filler)
    )
    hits = memory.recall(query, k=2)
    assert {hit.text for hit in hits} == {"Mia joined project Falcon.", "Falcon: everything starts in Oslo."}
    assert [hit.why[0].name for hit in hits] == ["cosine", "link"]
    memory.method.linked_share = 0.0
    assert [hit.why[0].name for hit in memory.recall(query, k=2)] == ["cosine", "cosine"]


def test_linked_notes_take_no_more_places_than_they_may(open_memory):
    hub = [made() for _ in range(9)] + [evolves(range(number)) for number in range(1, 9)]
    memory = open_memory(method=AMem(num_neighbours=9), lm=Scripted(hub))
    memory.add_many({"text": f"word{number} word{number}b"} for number in range(9))
    for k in (1, 2, 3, 5, 8, 20):
        hits = memory.recall("word3", k=k)
        assert len(hits) == min(k, 9) == len({hit.id for hit in hits})
        assert hits[0].text == "word3 word3b"
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.fixture
def evolved(open_memory):
    """Two sessions: in the second the first one's note is rewritten."""
    update = {"index": 0, "context": "They chose the Lisbon flat.", "tags": ["home"]}
    lm = Scripted([made("They chose B."), made("B is explained."), evolves([0], ["plan"], [update])])
    memory = open_memory(method=AMem(), lm=lm)
    memory.add("We picked option B.", speaker="Ana", session="one", at="2024-05-01")
    memory.add("B is the one by the river.", speaker="Ben", session="two", at="2024-06-01")
    return memory


def test_an_evolved_note_replaces_the_old_one_and_is_found_by_what_it_gained(evolved):
    old, new = by_text(evolved)["We picked option B."], by_text(evolved)["B is the one by the river."]
    assert (old.meta["context"], old.meta["tags"], old.meta["keywords"]) == (
        "They chose the Lisbon flat.",
        ["home"],
        ["a", "b", "c"],
    )
    assert new.meta["tags"] == ["plan"]
    assert "plan" in new.key
    hit = evolved.recall("the Lisbon flat", k=1)[0]
    assert (hit.text, hit.speaker, hit.session) == ("We picked option B.", "Ana", "one")
    assert hit.at.month == 5
    assert {evolved.get(source).session for source in hit.sources} == {"one", "two"}
    assert {hit.text for hit in evolved.recall("the Lisbon flat", k=2)} == {old.text, new.text}
    assert evolved.verify().clean


def test_the_old_version_is_recalled_as_of_before_and_where_only_its_session_may_be_seen(evolved):
    for conditions in ({"at": "2024-05-15"}, {"session": "one"}, {"before": "2024-05-15"}, {"speaker": "ana"}):
        hits = evolved.recall("the Lisbon flat", **conditions)
        assert [hit.meta["context"] for hit in hits] == ["They chose B."]
        assert [evolved.get(source).session for source in hits[0].sources] == ["one"]
    assert [hit.text for hit in evolved.recall("flat", session="two")] == ["B is the one by the river."]
    assert evolved.recall("flat", kinds=["fact"]) == []


def test_forgetting_the_cause_of_an_evolution_takes_it_back(evolved):
    first, second = evolved.episodes()
    evolved.forget(second.id)
    (note,) = live(evolved)
    assert note.meta["context"] == "They chose B."
    assert notes.links(evolved.engine.db, evolved.user, "a-mem") == []
    evolved.forget(first.id)
    assert evolved.stats().notes == {}


def test_an_export_keeps_versions_and_links(evolved, open_memory, tmp_path):
    evolved.export(tmp_path / "e.jsonl")
    restored = open_memory(path=tmp_path / "restored.db", method=AMem())
    restored.import_(tmp_path / "e.jsonl")
    assert by_text(restored) == by_text(evolved)
    assert notes.links(restored.engine.db, restored.user, "a-mem") == notes.links(
        evolved.engine.db, evolved.user, "a-mem"
    )
    assert restored.recall("the Lisbon flat", at="2024-05-15")[0].meta["context"] == "They chose B."


def test_links_survive_evolution(open_memory):
    update = {"index": 0, "context": "The first, told anew.", "tags": []}
    replies = [made(), made(), evolves([0]), made(), evolves([], [], [update])]
    memory = open_memory(method=AMem(num_neighbours=1), lm=Scripted(replies))
    for text in ("alpha one", "alpha two", "alpha one three"):
        memory.add(text)
    assert "told anew" in by_text(memory)["alpha one"].meta["context"]
    filler = {hit.text: hit.why[0].name for hit in memory.recall("two", k=2)}
    assert filler == {"alpha two": "cosine", "alpha one": "link"}


def test_a_note_can_evolve_twice_in_one_batch(open_memory):
    def update(text):
        return evolves(updates=[{"index": 0, "context": text, "tags": []}])

    replies = [made("c0"), made("c1"), made("c2"), update("once"), update("twice")]
    memory = open_memory(method=AMem(num_neighbours=1), lm=Scripted(replies))
    memory.add_many([{"text": "alpha"}, {"text": "alpha beta"}, {"text": "alpha once"}])
    assert [note.meta["context"] for note in live(memory)] == ["c1", "c2", "twice"]
    assert memory.engine.db.rows("SELECT count(*) FROM notes")[0][0] == 5
    assert len(by_text(memory)["alpha"].sources) == 3


def test_what_the_model_cannot_say_in_form_waits(open_memory):
    lm = Scripted([made(), "no JSON", "none again", made(), "broken", "broken too"])
    memory = open_memory(method=AMem(), lm=lm)
    memory.add("tea in Lisbon")
    memory.add("a red bicycle")  # fails at its construction
    memory.add("rain at night")  # fails at its evolution
    assert list(by_text(memory)) == ["tea in Lisbon"]
    assert memory.derive().waiting == 2
    memory.use_language_model(Scripted([made(), made(), evolves(), evolves([0])]))
    assert memory.derive(retry=True).waiting == 0
    assert len(live(memory)) == 3


def test_said_again_it_is_one_more_source_even_of_a_note_that_evolved(evolved):
    again = evolved.add("We picked option B!", speaker="Ana", session="three", at="2024-07-01")
    evolved.use_language_model(None)
    assert len(live(evolved)) == 2
    assert again.id in evolved.recall("option B", k=1)[0].sources
    first = next(episode for episode in evolved.episodes() if episode.session == "one")
    evolved.forget(first.id)
    assert [note.sources for note in live(evolved) if "picked" in note.text] == [(again.id,)]
    evolved.add("We picked option B!", speaker="Ben")  # another speaker says something else
    assert len(live(evolved)) == 3


@pytest.mark.parametrize("at_once", [True, False])
def test_fifteen_additions_of_five_things_leave_five_notes(open_memory, at_once):
    five = ("I live in Lisbon", "I have two cats", "My sister works at a bank", "I love the Beatles", "I play chess")
    items = [
        {"text": text + end, "speaker": "Ana", "at": f"2024-0{m}-01"} for m, end in enumerate(".!", 1) for text in five
    ]
    items += [{"text": "By the way, " + text, "speaker": "Ana", "at": "2024-09-01"} for text in five]
    memory = open_memory(method=AMem())
    if at_once:
        memory.add_many(items)
    else:
        for item in items:
            memory.add(**item)
    assert sorted(len(note.sources) for note in live(memory)) == [3] * 5


def test_without_a_language_model_near_notes_that_share_a_rare_word_are_linked(open_memory):
    memory = open_memory(method=AMem(least_cosine=0.2))
    memory.add_many(
        {"text": text, "speaker": "Ana"}
        for text in (
            "Zorro the turtle is sick today.",
            "The vet looked at Zorro the turtle.",
            "I cook rice for dinner.",
        )
    )
    (link,) = notes.links(memory.engine.db, memory.user, "a-mem")
    texts = {note.id: note.text for note in live(memory)}
    assert {texts[link.source], texts[link.target]} == {
        "Zorro the turtle is sick today.",
        "The vet looked at Zorro the turtle.",
    }


def test_without_a_language_model_a_note_evolves_when_its_phrase_is_explained(open_memory):
    memory = open_memory(method=AMem())
    memory.add("We picked option B in the end.", speaker="Ana", at="2024-05-01")
    memory.add("Rain all day, and no tea.", speaker="Ana", at="2024-05-02")
    memory.add("Option B is the Lisbon flat.", speaker="Ben", at="2024-05-03")
    picked = by_text(memory)["We picked option B in the end."]
    assert picked.meta["context"] == "Ana picked option B in the end. Option B is the Lisbon flat."
    assert "Lisbon" not in by_text(memory)["Rain all day, and no tea."].key
    memory.add("Option B is the Lisbon flat, I say.", speaker="Ana", at="2024-05-04")  # tells it nothing new
    assert by_text(memory)["We picked option B in the end."].id == picked.id


def test_agents_neither_link_nor_evolve_each_others_notes(open_memory):
    for agent, text in (("one", "We picked option B."), ("two", "Option B is the Lisbon flat.")):
        open_memory(method=AMem(least_cosine=0.0), agent=agent).add(text, speaker="Ana")
    both = open_memory(method=AMem())
    assert len(live(both)) == 2
    assert notes.links(both.engine.db, both.user, "a-mem") == []
