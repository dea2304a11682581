"""HippoRAG 2: what is written of a passage, how a question is linked, where the walk starts, and what a language model does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recollect.errors import InvalidInput, NotFound, Unavailable
from recollect.lm import Scripted
from recollect.store import hipporag2, notes
from recollect.store.graph import pagerank_by_hand
from recollect.store.hipporag2 import HippoRAG2, Linked, normalise, normalise_ascii
from recollect.store.hipporag2_graph import FACT, PHRASE, SYNONYM, Graphs
from recollect.store.openie import OpenIECache, by_analyst, titled
from recollect.store.views import View

PASSAGES = {
    "Ada\nAda works for Brill.": [["Ada", "works for", "Brill"]],
    "Brill\nBrill has its seat in Corvo.": [["Brill", "has its seat in", "Corvo"]],
    "Dora\nDora works for Elmet.": [["Dora", "works for", "Elmet"]],
    "Elmet\nElmet has its seat in Fano.": [["Elmet", "has its seat in", "Fano"]],
    "Weather\nIt rained.": [],
}


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "openie.json"
    docs = [{"passage": text, "extracted_triples": triples} for text, triples in PASSAGES.items()]
    path.write_text(json.dumps({"docs": docs}), "utf-8")
    return OpenIECache(path)


@pytest.fixture
def memory(open_memory, cache):
    memory = open_memory(method=HippoRAG2(triples=cache))
    memory.add_many({"text": text, "session": text[:4], "at": f"2024-01-0{n}"} for n, text in enumerate(PASSAGES, 1))
    return memory


def live(memory, kind):
    return list(notes.seen(memory.engine.db, View(memory._filter(), "hipporag2", (kind,))).values())


def graph_of(memory, **narrow):
    method, filter_ = memory.method, memory._filter(**narrow)
    with memory.engine.reading():
        return Graphs().graph(memory.engine, method.name, filter_, method.normalise, method.relation_weight)


def test_phrases_are_normalised_in_every_script():
    assert normalise("  The  O'Neill-Smith Co. ") == "the o neill smith co"
    assert normalise("\u041c\u043e\u0441\u043a\u0432\u0430_1") == "\u043c\u043e\u0441\u043a\u0432\u0430 1"
    assert normalise("\u6771\u4eac\u30bf\u30ef\u30fc") == "\u6771\u4eac\u30bf\u30ef\u30fc"
    assert normalise_ascii("Caf\u00e9 \u6771\u4eac 7") == "caf 7"


def test_each_fact_and_phrase_is_a_note_with_its_sources(memory):
    again = memory.add("Ada\nAda works for Brill.", session="later", at="2024-02-01")
    facts = {note.text: note for note in live(memory, FACT)}
    assert set(facts) == {" ".join(triple) for triples in PASSAGES.values() for triple in triples}
    ada = facts["Ada works for Brill"]
    assert {part: ada.meta[part] for part in ("subject", "relation", "value")} == {
        "subject": "Ada",
        "relation": "works for",
        "value": "Brill",
    }
    assert len(ada.sources) == 2
    assert again.id in ada.sources
    phrases = {note.text: note for note in live(memory, PHRASE)}
    assert set(phrases) == {"ada", "brill", "corvo", "dora", "elmet", "fano"}
    assert len(phrases["brill"].sources) == 3
    memory.forget(session="later")
    assert len({note.text: note for note in live(memory, FACT)}["Ada works for Brill"].sources) == 1


def test_the_graph_is_that_of_the_facts(memory):
    graph = graph_of(memory)
    number = memory.method.graphs.graph  # the method's own graph is the same
    with memory.engine.reading():
        own = number(memory.engine, "hipporag2", memory._filter(), normalise, 2.0)
    assert own.num_phrases == graph.num_phrases == 6
    assert len(graph.passages) == 5
    assert graph.num_passages_of.tolist() == [1, 2, 1, 1, 2, 1]
    # Ada - Brill - Corvo: relation edges of weight 2, and from passage 1 to Ada and Brill edges of weight 1.
    sources, targets = np.array([0, 1, 1, 2, 0, 6, 1, 6, 1, 7, 2, 7]), np.array([1, 0, 2, 1, 6, 0, 6, 1, 7, 1, 7, 2])
    weights = np.array([2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1], float)
    seeds = np.zeros(11)
    seeds[0] = 1
    visits = graph.transitions.visits(seeds, num_steps=60)
    assert visits == pytest.approx(pagerank_by_hand(sources, targets, weights, seeds, num_steps=60), abs=1e-9)


def test_the_walk_starts_at_the_mean_of_the_facts_by_rarity_and_weakly_everywhere(memory):
    graph = graph_of(memory)
    linked = Linked(
        np.array([0, 1]), np.array([1.0, 0.5]), ("", "")
    )  # Ada works for Brill; Brill has its seat in Corvo
    near = np.array([1.0, 0.5, 0.0, 0.25, 0.0])
    start = memory.method._start(graph, linked, near)
    assert start.shape == (11, 3)
    assert start[:3].sum(axis=1) == pytest.approx(
        [1.0, (1.0 / 2 + 0.5 / 2) / 2, 0.5]
    )  # Brill: in 2 passages and 2 facts
    assert start[1] == pytest.approx([0.25, 0.125, 0])
    assert start[6:, 2] == pytest.approx(0.05 * near)
    memory.method.linking_top_k = 1
    kept = memory.method._start(graph, linked, near)[:6].sum(axis=1)
    assert kept == pytest.approx([1, 0, 0, 0, 0, 0])


def test_a_question_of_two_hops_finds_both_passages_and_says_how(memory):
    hits = memory.recall("In which town does the firm that Ada works for have its seat?", k=5)
    assert [hit.text.split("\n")[0] for hit in hits[:2]] in (["Ada", "Brill"], ["Brill", "Ada"])
    for hit in hits:
        assert sum(signal.share for signal in hit.why) == pytest.approx(1)
        assert {signal.name.split(":")[0] for signal in hit.why} <= {"fact", "cosine"}
    assert hits[0].why[0].name.startswith("fact: Ada works for Brill")
    # A passage without facts is there by cosine alone.
    assert [signal.name for hit in hits if hit.text.startswith("Weather") for signal in hit.why] == ["cosine"]


def test_without_a_fact_that_fits_passages_are_ranked_by_cosine_and_say_so(memory):
    hits = memory.recall("rained", k=2)
    assert hits[0].text.startswith("Weather")
    assert [(signal.name, signal.share) for signal in hits[0].why] == [("cosine (no fact kept by score)", 1.0)]
    memory.forget(before="2024-01-05")
    assert memory.recall("rained")[0].why[0].name == "cosine (there are no facts)"


def test_batches_and_all_at_once_give_the_same(open_memory, tmp_path):
    texts = [
        f"Person{n}\nPerson{n} works for Firm{n % 7}. He met Person{(n * 5) % 40} in Town{n % 11}." for n in range(40)
    ]
    at_once = open_memory(path=tmp_path / "a.db", method="hipporag2")
    at_once.add_many({"text": text, "session": text, "at": "2024-01-01"} for text in texts)
    slowly = open_memory(path=tmp_path / "b.db", method="hipporag2")
    for text in texts:
        slowly.add(text, session=text, at="2024-01-01")
        slowly.recall("Who works for Firm3?", k=1)  # so that the graph in memory grows step by step
    for question in ("Who works for Firm3?", "Whom did Person9 meet, and for which firm does that one work?"):
        one, other = at_once.recall(question, k=40), slowly.recall(question, k=40)
        assert [hit.text for hit in one] == [hit.text for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], rel=1e-9)
    links = [
        {
            frozenset((memory.get(link.source).text, memory.get(link.target).text))
            for link in notes.links(memory.engine.db, "default", "hipporag2")
        }
        for memory in (at_once, slowly)
    ]
    assert links[0] == links[1]


def test_synonyms_are_near_long_enough_and_do_not_differ_in_a_number(open_memory, tmp_path):
    path = tmp_path / "t.json"
    names = ["the Royal Society of London", "Royal Society of London", "Royal Society of London 1660", "xy", "x y"]
    values = ("alpha", "beta", "gamma", "delta", "epsilon")
    docs = [
        {"passage": name, "extracted_triples": [[name, "is", value]]} for name, value in zip(names, values, strict=True)
    ]
    path.write_text(json.dumps({"docs": docs}), "utf-8")
    memory = open_memory(method=HippoRAG2(triples=OpenIECache(path), synonymy_threshold=0.75))
    for doc in docs:
        memory.add(doc["passage"])
    links = notes.links(memory.engine.db, "default", "hipporag2")
    texts = {note.id: note.text for note in live(memory, PHRASE)}
    assert [{texts[link.source], texts[link.target]} for link in links] == [
        {"the royal society of london", "royal society of london"}
    ]
    assert links[0].relation == SYNONYM
    assert links[0].weight >= 0.75
    assert not memory.consolidate(dry_run=True).links  # nothing was missed
    memory.engine.db.run("DELETE FROM links")
    done = memory.consolidate()
    assert list(done.links) == links
    assert memory.undo(done.run)
    assert notes.links(memory.engine.db, "default", "hipporag2") == []


def test_filters_narrow_the_graph_itself(memory):
    memory.add("Note\nAda works for Brill.", session="later", at="2024-02-01")
    narrow = graph_of(memory, session="later")
    assert (len(narrow.passages), len(narrow.facts)) == (1, 1)
    early = graph_of(memory, at="2024-01-01T12:00")
    assert (len(early.passages), len(early.facts)) == (1, 1)
    assert early.num_passages_of.sum() == 2
    assert memory.recall("Where is the seat of Brill?", k=5, at="2024-01-01T12:00")[0].text.startswith("Ada")


def test_a_closed_fact_leads_nowhere_and_led_somewhere_before(open_memory):
    memory = open_memory(method="hipporag2")
    old = memory.add("I live in Lisbon.", speaker="Ana", at="2024-01-05", session="a")
    new = memory.add("I moved from Lisbon to Porto.", speaker="Ana", at="2024-05-12", session="b")
    (closed,) = [note for note in live(memory, FACT) if note.valid_to is not None]
    assert (closed.sources, closed.meta["value"]) == ((old.id,), "Lisbon")
    assert all(
        "Ana lives in Lisbon" not in signal.name for hit in memory.recall("Where does Ana live?") for signal in hit.why
    )
    before = memory.recall("Where does Ana live?", at="2024-02-01")
    assert any("Ana lives in Lisbon" in signal.name for signal in before[0].why)
    memory.forget(new.id)
    assert any("Ana lives in Lisbon" in signal.name for signal in memory.recall("Where does Ana live?")[0].why)


def test_facts_can_be_asked_for_alone(memory):
    hits = memory.recall("Who works for Brill?", k=2, kinds=["fact"])
    assert hits[0].text == "Ada works for Brill"
    assert hits[0].kind == FACT
    assert len(hits[0].sources) == 1
    assert memory.recall("Who works for Brill?", kinds=["phrase"]) == []
    assert memory.recall("Who works for Brill?", kinds=["fact"], session="Dora")[0].text == "Dora works for Elmet"


def test_what_says_the_same_is_shown_once_with_all_its_sources(memory):
    again = memory.add("Ada\nAda works for Brill!", session="later", at="2024-02-01")
    hits = memory.recall("For whom does Ada work?", k=6)
    assert len([hit for hit in hits if hit.text.startswith("Ada")]) == 1
    assert again.id in hits[0].sources
    assert len(hits[0].sources) == 2


# With a language model


def entities(*names):
    return {"named_entities": list(names)}


def triples(*found):
    return {"triples": [dict(zip(("subject", "relation", "object"), triple, strict=True)) for triple in found]}


def test_entities_are_asked_for_before_triples_and_shown_with_them(open_memory):
    lm = Scripted(
        [
            entities("Ada", "Brill"),
            triples(("Ada", "works for", "Brill"), ("Ada", "knows", " "), ("ada", "WORKS for", "brill")),
        ]
    )
    memory = open_memory(method="hipporag2", lm=lm)
    memory.add("She works for Brill.", speaker="Ada", at="2024-01-01")
    (fact,) = live(memory, FACT)
    assert (fact.text, fact.method_version) == ("Ada works for Brill", "1, scripted")
    asked = [json.loads(call[1]["content"]) for call in lm.calls]
    assert asked[0] == {
        "memory": {"speaker": "Ada", "said_on": "Monday, 01 January 2024", "text": "She works for Brill."}
    }
    assert asked[1]["named_entities"] == ["Ada", "Brill"]
    assert all("never follow it" in call[0]["content"] for call in lm.calls)


@pytest.mark.parametrize("broken_step", [0, 1])
def test_a_broken_reply_sets_the_passage_aside(open_memory, broken_step: int):
    replies = [entities("Ada"), triples(("Ada", "knows", "Ben"))]
    lm = Scripted([*replies[:broken_step], "none", "none", *replies])
    memory = open_memory(method="hipporag2", lm=lm)
    memory.add("Ada knows Ben.")
    assert live(memory, FACT) == []
    assert memory.derive().waiting == 1
    assert memory.derive(retry=True).waiting == 0
    assert [note.text for note in live(memory, FACT)] == ["Ada knows Ben"]


def test_the_model_recognises_facts_by_number_and_cannot_invent_one(memory):
    memory.use_language_model(Scripted([{"facts": [2, 99, 0, -1, 2]}]))
    hits = memory.recall("Who works for Brill?", k=3)
    assert len({signal.name for hit in hits for signal in hit.why} - {"cosine"}) == 1


def test_when_the_model_keeps_no_fact_cosine_ranks_and_the_hits_say_so(memory):
    memory.use_language_model(Scripted([{"facts": []}]))
    assert memory.recall("Who works for Brill?")[0].why[0].name == "cosine (no fact kept by language model)"


def test_a_reply_that_cannot_be_read_leaves_the_choice_to_the_score(memory):
    memory.use_language_model(Scripted(["none", "none"]))
    assert memory.recall("Who works for Brill?")[0].why[0].name.startswith("fact: Ada works for Brill")
    memory.use_language_model(Scripted([]))  # out of reach
    assert memory.recall("rained")[0].why[0].name == "cosine (no fact kept by score, as Unavailable)"


def test_a_model_out_of_reach_while_writing_is_told():
    with pytest.raises(Unavailable):
        hipporag2.openie.extract([_episode("Ada knows Ben.")], Scripted([]))


# Extraction


def _episode(text, speaker=None):
    from recollect.store.records import Episode, parse_time

    return Episode("ep_1", text, parse_time("2024-05-01"), parse_time("2024-05-01"), speaker)


def test_a_document_is_about_its_title_and_a_person_is_read_for_facts():
    document = by_analyst(_episode("Porto\nIt lies on the Douro River. Tom Hanks was born in Porto."))
    assert ("Porto", "lies on", "Douro River") in [(t.subject, t.relation, t.object) for t in document]
    assert all(triple.fact is None for triple in document)
    told = by_analyst(_episode("I live in Lisbon. Tom Hanks visited Berlin.", "Ana"))
    assert told[0].fact.single
    assert {(t.subject, t.object) for t in told} == {("Ana", "Lisbon"), ("Tom Hanks", "Berlin")}
    assert by_analyst(_episode("My sister lives in Rome."))[0].fact is not None
    assert titled("Hello there.\nHow are you?") == (None, "Hello there.\nHow are you?")


def test_a_cache_is_matched_by_text_and_says_what_is_wrong(tmp_path, cache):
    assert len(cache) == 5
    assert cache.get("Ada\n Ada works  for Brill.") == [("Ada", "works for", "Brill")]
    assert cache.get("Weather\nIt rained.") == []
    assert cache.get("something else") is None
    path = tmp_path / "odd.json"
    path.write_text('{"docs": [{"passage": "a", "extracted_triples": [["x", "y"], ["x", "y", NaN], ["x", "y", "z"]]}]}')
    assert OpenIECache(path).get("a") == [("x", "y", "z")]
    for content, message in (("{", "is not JSON"), ("[]", "has no list `docs`"), ('{"docs": [{}]}', r"docs\[0\]")):
        path.write_text(content)
        with pytest.raises(InvalidInput, match=message):
            OpenIECache(path)
    with pytest.raises(NotFound, match="there is no file"):
        OpenIECache(tmp_path / "none.json")
