"""Think-in-Memory: thoughts are inserted, forgotten and merged, recalled by hash or not, and thought again after an answer."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from recollect.errors import InvalidInput
from recollect.lm import Scripted
from recollect.store import notes
from recollect.store.buckets import Buckets, Hashed
from recollect.store.records import Answer, Quote
from recollect.store.thoughts import says_all
from recollect.store.tim import ThinkInMemory
from recollect.store.views import View


def live(memory, kind="thought", holding=True):
    view = View(memory._filter(), "tim", (kind,), holding=holding)
    return list(notes.seen(memory.engine.db, view).values())


def texts(memory, **options):
    return [note.text for note in live(memory, **options)]


def said(text, head="Ana", relation="likes", tail="tea", **more):
    thought = {"head": head, "relation": relation, "tail": tail, "sentence": text}
    return thought | {"single": False, "ended": False, "since": ""} | more


def thinks(*thoughts):
    return {"thoughts": list(thoughts)}


LIKES = ("tea", "jazz", "chess")


@pytest.fixture
def likes(open_memory):
    memory = open_memory(method=ThinkInMemory())
    for day, thing in enumerate(LIKES, 1):
        memory.add(f"I like {thing}.", speaker="Ana", at=f"2024-05-0{day}", session=f"s{day}")
    return memory


# Insert


def test_a_thought_is_a_fact_with_its_turn(open_memory):
    memory = open_memory(method=ThinkInMemory())
    episode = memory.add("I moved from Lisbon to Porto.", speaker="Ana", at="2024-05-12")
    (note,) = live(memory)
    assert [note.meta[name] for name in ("subject", "relation", "value")] == ["Ana", "lives in", "Porto"]
    (hit,) = memory.recall("Where does Ana live?")
    assert (hit.text, hit.sources, hit.speaker) == ("Ana moved from Lisbon to Porto.", (episode.id,), "Ana")
    assert hit.why[0].name == "cosine"


def test_a_sentence_without_a_fact_leaves_its_gist_small_talk_and_questions_nothing(open_memory):
    memory = open_memory(method=ThinkInMemory())
    memory.add("Thanks a lot!", speaker="Ana")
    memory.add("What a lovely sunset over the harbour! I like tea. Did the painter repair the roof?", speaker="Ana")
    assert texts(memory) == ["Ana likes tea.", "Ana: What a lovely sunset over the harbour!"]
    assert "subject" not in live(memory)[1].meta


def test_the_model_thinks_about_every_turn_and_empty_thoughts_are_ignored(open_memory):
    replies = [
        thinks(said("Ana likes tea."), said(" ", head="Ana"), said("It rains.", head="")),
        thinks(said("Ben lives in Rome since May.", "Ben", "lives in", "Rome", single=True, since="2024-05-01")),
        thinks(said("Ben moved to Bern.", "Ben", "lives in", "Bern", single=True, since="soon")),
    ]
    lm = Scripted(replies)
    memory = open_memory(method=ThinkInMemory(), lm=lm)
    memory.add_many({"text": f"turn {number}", "at": f"2024-05-0{number + 1}"} for number in range(3))
    assert [json.loads(call[-1]["content"])["turn"]["text"] for call in lm.calls] == ["turn 0", "turn 1", "turn 2"]
    assert texts(memory) == ["Ana likes tea.", "Ben moved to Bern."]
    rome = next(note for note in live(memory, holding=False) if "Rome" in note.text)
    assert rome.valid_from.month == 5
    assert rome.valid_to == list(memory.episodes())[2].at


def test_what_the_model_cannot_say_in_form_waits(open_memory):
    memory = open_memory(method=ThinkInMemory(), lm=Scripted([thinks(said("Ana likes tea.")), "no", "still no"]))
    memory.add_many([{"text": "tea"}, {"text": "jazz"}])
    assert texts(memory) == ["Ana likes tea."]
    assert memory.derive().waiting == 1
    memory.use_language_model(Scripted([thinks(said("Ana likes jazz.", tail="jazz"))]))
    assert memory.derive(retry=True).waiting == 0
    assert len(live(memory)) == 2


# Forget


def test_a_contradiction_closes_and_is_recalled_as_of_before(open_memory):
    memory = open_memory(method=ThinkInMemory())
    memory.add("I live in Lisbon.", speaker="Ana", at="2024-01-05")
    moved = memory.add("I moved to Porto.", speaker="Ana", at="2024-05-12")
    assert [hit.text for hit in memory.recall("Where does Ana live?")] == ["Ana moved to Porto."]
    assert [hit.text for hit in memory.recall("Where does Ana live?", at="2024-02-01")] == ["Ana lives in Lisbon."]
    assert [note.valid_to for note in live(memory, holding=False)] == [moved.at, None]
    memory.forget(moved.id)
    assert texts(memory) == ["Ana lives in Lisbon."]


def test_by_bucket_nothing_is_forgotten_before_quiet_hours_and_only_within_a_bucket(open_memory):
    memory = open_memory(method=ThinkInMemory(group_by="bucket", num_buckets=0))
    memory.add("I live in Lisbon.", speaker="Ana", at="2024-01-05")
    memory.add("I live in Porto.", speaker="Ana", at="2024-02-05")
    memory.add("I live in Berlin.", speaker="Ana", at="2024-03-05")
    assert len(live(memory)) == 3
    memory.method.num_buckets = 512  # so many that each has its own
    assert memory.consolidate(dry_run=True).changes == ()
    memory.method.num_buckets = 2
    vectors = memory.engine.embed([note.text for note in live(memory)])
    marks = Buckets(vectors, 2, 1, 0).of(vectors)[:, 0].tolist()
    memory.consolidate()
    apart = len(set(marks))
    assert len(live(memory)) == apart
    memory.undo()
    assert len(live(memory)) == 3


CHAIN = [
    thinks(said("Ana lives in Lisbon.", relation="lives in", tail="Lisbon")),
    thinks(said("Ana settled in Porto.", relation="settled in", tail="Porto")),
    thinks(said("Ana is at home in Bern.", relation="is at home in", tail="Bern")),
    thinks(said("Ana likes tea.")),
    thinks(said("Ana owns a cat.", relation="owns", tail="a cat")),
]


def chain(open_memory, *replies, **options):
    memory = open_memory(method=ThinkInMemory(**options), lm=Scripted([*CHAIN, *replies]))
    memory.add_many({"text": f"turn {number}", "at": f"2024-05-0{number + 1}"} for number in range(5))
    return memory


def test_the_model_forgets_by_id_and_what_was_contradicted_in_turn_contradicts_nothing(open_memory):
    pairs = [{"id": 0, "because": 1}, {"id": 1, "because": 2}, {"id": 4, "because": 3}, {"id": 9, "because": 10}]
    memory = chain(open_memory, {"contradictions": pairs}, {"merged": []})
    shown = json.loads(memory.method.lm.lm.calls[5][-1]["content"]) if memory.consolidate() else {}
    assert [thought["id"] for thought in shown["thoughts"]] == [0, 1, 2, 3, 4]
    assert sorted(texts(memory)) == ["Ana is at home in Bern.", "Ana likes tea.", "Ana owns a cat."]
    ended = [note for note in live(memory, holding=False) if note.closed_by]
    assert {note.text for note in ended} == {"Ana lives in Lisbon.", "Ana settled in Porto."}
    assert {note.valid_to.day for note in ended} == {3}
    assert [hit.text for hit in memory.recall("Lisbon", at="2024-05-01T12:00")] == ["Ana lives in Lisbon."]
    memory.undo()
    assert len(live(memory)) == 5


def test_a_reply_that_forgets_too_much_is_rejected(open_memory):
    pairs = [{"id": number, "because": 4} for number in range(3)]
    memory = chain(open_memory, {"contradictions": pairs}, {"merged": []})
    memory.consolidate()
    assert len(live(memory)) == 5


def test_the_model_tidies_only_groups_that_grew_and_a_broken_reply_changes_nothing(open_memory):
    pairs = [{"id": 0, "because": 1}]
    memory = chain(open_memory, "no", "no", "no", "no", {"contradictions": pairs}, {"merged": []})
    assert memory.consolidate().run is None
    assert len(live(memory)) == 5
    assert memory.consolidate().run is not None
    assert memory.consolidate().cost.calls == 0


# Merge


def test_tails_of_one_head_and_relation_are_joined(likes):
    likes.add("I like chess.", speaker="Ben", at="2024-05-04")
    change = likes.consolidate().changes[0]
    assert [note.text for note in change.replaces] == [f"Ana likes {thing}." for thing in LIKES]
    assert texts(likes) == ["Ben likes chess.", "Ana likes tea, jazz and chess."]
    hit = likes.recall("What does Ana like?", k=1)[0]
    assert len(hit.sources) == 3
    assert likes.consolidate().changes == ()
    assert [hit.text for hit in likes.recall("Ana", session="s2")] == ["Ana likes jazz."]
    assert len(likes.recall("Ana", at="2024-05-02T12:00")) == 2
    likes.undo()
    assert len(live(likes)) == 4


def test_a_merged_thought_grows_up_to_its_limit(likes):
    likes.consolidate()
    likes.add("I like rice.", speaker="Ana", at="2024-05-05")
    likes.consolidate()
    assert texts(likes) == ["Ana likes tea, jazz, chess and rice."]
    likes.method.max_joined = 4
    likes.add("I like snow.", speaker="Ana", at="2024-05-06")
    likes.add("I like the sea.", speaker="Ana", at="2024-05-07")
    likes.consolidate()
    assert texts(likes) == ["Ana likes tea, jazz, chess and rice.", "Ana likes snow and the sea."]


def test_what_ends_a_part_of_a_merged_thought_leaves_the_rest(likes):
    likes.consolidate()
    ended = likes.add("I don't like jazz anymore.", speaker="Ana", at="2024-06-01")
    held = texts(likes)
    assert "Ana likes tea and chess." in held
    assert not any("jazz and" in text for text in held)
    assert [hit.text for hit in likes.recall("What does Ana like?", at="2024-05-20", k=1)] == [
        "Ana likes tea, jazz and chess."
    ]
    likes.forget(ended.id)
    assert texts(likes) == ["Ana likes tea, jazz and chess."]
    first = next(iter(likes.episodes()))
    likes.forget(first.id)
    assert sorted(texts(likes)) == ["Ana likes chess.", "Ana likes jazz."]
    assert likes.verify().clean


def test_events_are_not_joined_as_each_has_its_time(open_memory):
    memory = open_memory(method=ThinkInMemory())
    memory.add("I went to Paris.", speaker="Ana")
    memory.add("I went to Rome.", speaker="Ana")
    assert len(live(memory)) == 2
    assert memory.consolidate().changes == ()


def test_only_short_tails_of_lasting_relations_are_joined(open_memory):
    memory = open_memory(method=ThinkInMemory())
    told = (
        "I speak French.",
        "I speak German.",
        "I have had a busy week with the kids.",
        "I have some other old stuff here.",
    )
    told += ("I love walking for hours along the river.", "I love reading in the shade of our old tree.")
    memory.add_many({"text": text, "speaker": "Ana"} for text in told)
    assert [change.note.text for change in memory.consolidate().changes] == ["Ana speaks French and German."]


def test_the_model_merges_by_id_and_must_not_lose_numbers_or_words(open_memory):
    turns = [
        thinks(said(f"Ana has {count} {what}.", relation="has", tail=what))
        for count, what in ((2, "cats"), (3, "dogs"))
    ]
    turns += [thinks(said("Ana plays chess.", relation="plays", tail="chess"))]
    good = {"ids": [0, 1, 1, 7], "sentence": "Ana has 2 cats and 3 dogs."}
    replies = [
        {"merged": [{"ids": [0, 1], "sentence": "Ana has pets."}]},
        {"merged": [good, {"ids": [1, 2], "sentence": "x"}]},
    ]
    none = {"contradictions": []}
    memory = open_memory(method=ThinkInMemory(), lm=Scripted([*turns, none, replies[0], none, replies[1]]))
    memory.add_many({"text": f"turn {number}"} for number in range(3))
    assert memory.consolidate().changes == ()
    memory.consolidate()
    assert sorted(texts(memory)) == ["Ana has 2 cats and 3 dogs.", "Ana plays chess."]


def test_a_merged_sentence_is_held_against_the_words_it_merges(likes):
    group = live(likes)
    assert says_all("Ana likes tea, jazz and chess.", group, 0.0)
    assert not says_all("Ana likes tea.", group, 0.3)
    assert says_all("Ana likes tea and jazz.", group, 0.3)
    assert not says_all(" ", group, 1.0)


@pytest.mark.parametrize("at_once", [True, False])
def test_fifteen_additions_of_five_facts_leave_five(open_memory, at_once):
    five = ("I live in Lisbon", "I have two cats", "My sister works at a bank", "I love the Beatles", "I play chess")
    items = [
        {"text": text + end, "speaker": "Ana", "at": f"2024-0{m}-01"} for m, end in enumerate(".!", 1) for text in five
    ]
    items += [{"text": "By the way, " + text, "speaker": "Ana", "at": "2024-09-01"} for text in five]
    memory = open_memory(method=ThinkInMemory())
    if at_once:
        memory.add_many(items)
    else:
        for item in items:
            memory.add(**item)
    assert sorted(len(note.sources) for note in live(memory)) == [3] * 5


# Post-thinking


def conclude(memory, question="Where does Ana live?"):
    answer = memory.answer(question)
    assert not answer.abstained
    return answer


def test_what_an_answer_was_read_from_is_kept_under_the_question(open_memory):
    memory = open_memory(method=ThinkInMemory())
    memory.add("I moved from Lisbon to Porto.", speaker="Ana", at="2024-05-12")
    memory.add("I have two cats.", speaker="Ana", at="2024-05-13")
    answer = conclude(memory)
    (note,) = live(memory, "conclusion")
    assert note.text == "Ana moved from Lisbon to Porto."
    assert note.key == "Where does Ana live? Ana moved from Lisbon to Porto."
    assert note.sources == (answer.quotes[0].episode_id,)
    assert note.meta["answer"] == answer.text
    hits = memory.recall("Where does Ana live?")
    assert hits[0].kind == "conclusion"
    assert [hit.text for hit in hits].count(note.text) == 1
    assert conclude(memory).text == answer.text
    assert len(live(memory, "conclusion")) == 1
    assert [hit.kind for hit in memory.recall("Where does Ana live?", kinds=["thought"])] == ["thought"] * 2


def test_a_conclusion_ends_with_what_it_was_drawn_from(open_memory):
    memory = open_memory(method=ThinkInMemory())
    lives = memory.add("I live in Lisbon and I have two cats.", speaker="Ana", at="2024-05-12")
    conclude(memory)
    memory.add("I have a bicycle.", speaker="Ana", at="2024-05-13")
    assert len(live(memory, "conclusion")) == 1
    moved = memory.add("I moved to Porto.", speaker="Ana", at="2024-06-12")
    assert live(memory, "conclusion") == []
    memory.forget(moved.id)
    assert len(live(memory, "conclusion")) == 1
    memory.forget(lives.id)
    assert live(memory, "conclusion", holding=False) == []


def test_the_models_conclusion_rests_on_all_that_it_quotes(open_memory):
    memory = open_memory(method=ThinkInMemory())
    at = datetime(2024, 5, 12).astimezone()
    first, second = (memory.add(text, speaker="Ana", at=at) for text in ("Rex is my dog.", "My dog is ill."))
    lm = Scripted([thinks(said("Rex is ill.", "Rex", "is", "ill")), "no", "no"])
    memory.use_language_model(lm)
    quotes = tuple(Quote(episode.text, episode.id, episode.at + timedelta(0), "Ana") for episode in (first, second))
    answer = Answer("Rex", quotes, False, 1.0, "scripted")
    from recollect.store import derivation
    from recollect.store.method import Scope

    scope = Scope(memory.user)
    assert derivation.learn(memory.engine, memory.method, scope, "Who is ill?", answer) == 1
    shown = json.loads(lm.calls[0][-1]["content"])
    assert (shown["question"], shown["answer"], len(shown["memories"])) == ("Who is ill?", "Rex", 2)
    assert live(memory, "conclusion")[0].sources == (first.id, second.id)
    assert derivation.learn(memory.engine, memory.method, scope, "Who is ill?", answer) == 0  # a broken reply
    memory.forget(first.id)
    assert live(memory, "conclusion", holding=False) == []


# Buckets


def test_the_bucket_is_the_axis_that_a_vector_points_along_most():
    buckets = Buckets(np.zeros((0, 2), np.float32), num_buckets=4)
    buckets._directions = np.eye(2, dtype=np.float32)
    vectors = np.array([[1, 0.1], [0.1, 1], [-1, 0.1], [0.1, -1]], np.float32)
    assert buckets.of(vectors)[:, 0].tolist() == [0, 1, 2, 3]


def unit(rng, *shape):
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_looking_into_every_bucket_is_flat_search_and_into_fewer_is_a_part_of_it():
    rng = np.random.default_rng(1)
    made = unit(rng, 500, 32)
    for num_tables in (1, 3):
        vectors = made
        buckets = Buckets(vectors[:200], 8, num_tables)
        buckets.add(vectors[200:400])
        buckets.add(vectors[400:430])  # too few to get buckets of their own yet
        vectors = vectors[:430]
        assert len(buckets) == 430
        for query in unit(rng, 20, 32):
            flat = np.argsort(-(vectors @ query), kind="stable")[:5]
            rows, cosines = buckets.search(query, 5, 8)
            assert rows.tolist() == flat.tolist()
            assert cosines == pytest.approx(vectors[flat] @ query, abs=1e-5)
            own = buckets.of(query[None])[0]
            rows, _ = buckets.search(query, 5, 1)
            assert all(row >= 400 or (buckets.of(vectors[row : row + 1])[0] == own).any() for row in rows)


def test_empty_buckets_send_a_query_on_to_the_next():
    vectors = unit(np.random.default_rng(2), 3, 16)
    rows, _ = Buckets(vectors, 64).search(vectors[0], 3, 1)
    assert sorted(rows.tolist()) == [0, 1, 2]
    assert Buckets(vectors[:0], 64).search(vectors[0], 3, 1)[0].tolist() == []


def test_a_common_direction_does_not_fill_one_bucket():
    rng = np.random.default_rng(3)
    vectors = unit(rng, 2000, 32) + 3 * unit(rng, 32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counts = np.bincount(Buckets(vectors, 16).of(vectors)[:, 0], minlength=16)
    assert counts.max() < 400


def test_what_has_ended_is_passed_over():
    vectors = unit(np.random.default_rng(4), 50, 16)
    hashed = Hashed("", "0", np.arange(100, 150), Buckets(vectors, 4), 50)
    allowed = np.delete(np.arange(100, 150), [3, 7])
    ids, cosines = hashed.search(vectors[3], 5, 4, allowed)
    assert len(ids) == 5
    assert 103 not in ids
    assert cosines[0] < 0.99


def test_hashed_recall_follows_additions_closings_and_a_reindex(open_memory):
    memory = open_memory(method=ThinkInMemory(flat_below=1, num_probes=64))
    flat = open_memory(method=ThinkInMemory(num_buckets=0))

    def same() -> list[str]:
        for query in ("Where does Ana live?", "friend 3", "What does friend 20 like?"):
            one, other = ([(hit.id, round(hit.score, 3)) for hit in m.recall(query, k=4)] for m in (memory, flat))
            assert one == other
        return [hit.text for hit in memory.recall("Where does Ana live?", k=1)]

    memory.add_many({"text": f"Friend{n} likes dish number {n}.", "at": "2024-01-01"} for n in range(40))
    memory.add("I live in Lisbon.", speaker="Ana", at="2024-01-05")
    assert same() == ["Ana lives in Lisbon."]
    assert len(memory.method._hashed) == 1
    memory.add("I live in Porto.", speaker="Ana", at="2024-02-05")
    assert same() == ["Ana lives in Porto."]
    memory.forget(next(iter(memory.episodes())).id)
    same()
    memory.recall("Ana", speaker="Ana")  # narrowed: not hashed
    assert len(memory.method._hashed) == 1
    memory.reindex()
    assert same() == ["Ana lives in Porto."]


def test_a_thought_that_holds_again_is_hashed_again(open_memory):
    memory = open_memory(method=ThinkInMemory(num_buckets=0))
    memory.add("I live in Lisbon.", speaker="Ana", at="2024-01-05")
    porto = memory.add("I live in Porto.", speaker="Ana", at="2024-02-05")
    memory.add_many({"text": f"I like dish {n}.", "speaker": f"Friend{n}", "at": "2024-02-06"} for n in range(20))
    hashed = open_memory(method=ThinkInMemory(flat_below=1, num_probes=64))
    assert hashed.recall("Where does Ana live?", k=1)[0].text == "Ana lives in Porto."
    memory.forget([list(memory.episodes())[7].id, porto.id])
    assert hashed.recall("Where does Ana live?", k=1)[0].text == "Ana lives in Lisbon."


def test_what_is_closed_is_closed_as_a_narrow_request_sees_it_too(open_memory):
    pairs = [{"id": 0, "because": 1}]
    memory = chain(open_memory, {"contradictions": pairs}, {"merged": []})
    memory.consolidate()  # Porto is said anew to close Lisbon
    leaves = said("Ana left.", relation="settled in", tail="", ended=True)
    memory.use_language_model(Scripted([thinks(leaves)]))
    memory.add("turn 5", at="2024-06-01")
    assert [hit.text for hit in memory.recall("Porto", before="2024-05-03")] == []


def test_an_odd_number_of_buckets_is_refused():
    with pytest.raises(InvalidInput, match="num_buckets: 3"):
        ThinkInMemory(num_buckets=3)


def test_agents_do_not_share_thoughts(open_memory):
    for agent, thing in (("one", "rice"), ("two", "snow")):
        open_memory(method=ThinkInMemory(), agent=agent).add("I like tea.", speaker="Ana", at="2024-01-01")
        open_memory(method=ThinkInMemory(), agent=agent).add(f"I like {thing}.", speaker="Ana", at="2024-01-02")
    both = open_memory(method=ThinkInMemory())
    assert len(live(both)) == 4
    assert len(both.consolidate().changes) == 2
    assert sorted(texts(both)) == ["Ana likes tea and rice.", "Ana likes tea and snow."]
