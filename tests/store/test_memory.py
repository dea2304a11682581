"""The front door: adding, recalling, answering, histories, notes and links, scopes, time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import recollect
import recollect.errors
from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.store.records import parse_time

TURNS = [
    {"text": "I moved to Lisbon in May.", "speaker": "Ana", "session": "s1", "at": "2024-05-12T09:30"},
    {"text": "Which part of the city?", "speaker": "Ben", "session": "s1", "at": "2024-05-12T09:31"},
    {"text": "Near the river, above a bakery.", "speaker": "Ana", "session": "s1", "at": "2024-05-12T09:32"},
    {"text": "The violin lessons start on Tuesday.", "speaker": "Ben", "session": "s2", "at": "2024-06-02T18:00"},
    {"text": "My brother breeds alpacas in the hills.", "speaker": "Ana", "session": "s2", "at": "2024-06-02T18:05"},
]

BACKENDS = ("sqlite", "postgres")


def test_what_was_added_is_recalled_with_its_reasons(open_memory):
    memory = open_memory()
    assert memory.add_many(TURNS).added == 5
    hit = memory.recall("Where did Ana move to?", k=2)[0]
    assert hit.text == "I moved to Lisbon in May."
    assert (hit.speaker, hit.session, hit.kind) == ("Ana", "s1", "episode")
    assert hit.at == parse_time("2024-05-12T09:30")
    assert hit.why
    assert sum(signal.share for signal in hit.why) == pytest.approx(1.0, abs=1e-6)
    assert hit.sources == (hit.id,)


def test_scores_fall_and_k_bounds_the_hits(open_memory):
    memory = open_memory()
    memory.add_many(TURNS)
    hits = memory.recall("alpacas", k=3)
    assert len(hits) == 3
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].text.startswith("My brother breeds alpacas")


def test_an_episode_comes_back_word_for_word_after_reopening(open_memory):
    text = "  Zwölf Boxkämpfer\tjagen Viktor \U0001f40e\nquer über den Sylter Deich.  "
    first = open_memory()
    added = first.add(text, speaker="Zoë", at="2024-02-29T23:59:59.123456+05:30", meta={"n": 1, "tags": ["a"]})
    first.close()
    again = open_memory().get(added.id)
    assert again == added
    assert again.at.isoformat() == "2024-02-29T23:59:59.123456+05:30"


def test_the_same_twice_is_stored_once(open_memory):
    memory = open_memory()
    first = memory.add("I like tea.", at="2024-01-01", session="s")
    assert memory.add("I like tea.", at="2024-01-01", session="s").id == first.id
    assert memory.add("I like tea.", at="2024-01-02", session="s").id != first.id
    assert memory.add("I like tea.", at="2024-01-01", session="t").id != first.id
    report = memory.add_many([*TURNS, *TURNS])
    assert (report.added, report.existing) == (5, 5)
    assert memory.add_many(TURNS).existing == 5
    assert memory.stats().num_episodes == 8


def test_a_source_id_without_a_time_is_stored_once(open_memory):
    memory = open_memory()
    first = memory.add("I like tea.", source_id="m1")
    assert memory.add("I like tea.", source_id="m1").id == first.id
    with pytest.raises(Conflict, match=r"^source_id"):
        memory.add("I like coffee.", source_id="m1")
    assert memory.stats().num_episodes == 1


def test_recall_as_things_were_known_then(open_memory):
    memory = open_memory()
    memory.add("Ana lives in Lisbon.", at="2024-02-01")
    memory.add("Ana lives in Porto.", at="2024-09-01")
    assert {hit.text for hit in memory.recall("Where does Ana live?")} == {
        "Ana lives in Lisbon.",
        "Ana lives in Porto.",
    }
    assert [hit.text for hit in memory.recall("Where does Ana live?", at="2024-06-01")] == ["Ana lives in Lisbon."]
    assert memory.recall("Where does Ana live?", at="2024-01-01") == []


def test_filters_narrow(open_memory):
    memory = open_memory()
    memory.add_many(TURNS)
    assert {hit.session for hit in memory.recall("Lisbon lessons", session="s2")} == {"s2"}
    assert {hit.speaker for hit in memory.recall("Lisbon lessons", speaker="ben")} == {"Ben"}
    assert all(hit.at >= parse_time("2024-06-01") for hit in memory.recall("Lisbon", after="2024-06-01"))
    assert all(hit.at < parse_time("2024-06-01") for hit in memory.recall("Lisbon", before="2024-06-01"))
    assert memory.recall("Lisbon", kinds=["fact"]) == []
    with pytest.raises(InvalidInput, match=r"^after"):
        memory.recall("Lisbon", after="2024-06-01", before="2024-05-01")


def test_users_and_agents_never_see_each_other(open_memory):
    ana, ben = open_memory(user="ana"), open_memory(user="ben")
    secret = ana.add("The password of the safe is heliotrope.", session="s")
    ben.add("I like gardening.", session="s")
    assert all("heliotrope" not in hit.text for hit in ben.recall("password of the safe heliotrope", k=50))
    with pytest.raises(NotFound):
        ben.get(secret.id)
    with pytest.raises(NotFound):
        ben.history(secret.id)
    with pytest.raises(NotFound):
        ben.forget([secret.id])
    with pytest.raises(InvalidInput, match=r"^sources"):
        ben.note("stolen", kind="fact", sources=[secret.id])
    mine = next(ben.episodes())
    with pytest.raises(InvalidInput, match=r"^target"):
        ben.link(mine.id, secret.id, "like")
    assert ben.forget(query="heliotrope").episodes == ()
    assert ben.forget(session="s").episodes == (mine.id,)
    assert ana.get(secret.id) == secret
    assert "heliotrope" not in str(ben.stats().to_json())


def test_an_agent_sees_its_own_and_the_user_sees_all(open_memory):
    cook, coach = open_memory(agent="cook"), open_memory(agent="coach")
    cook.add("Ana likes saffron.")
    coach.add("Ana runs on Sundays.")
    assert [hit.text for hit in cook.recall("Ana")] == ["Ana likes saffron."]
    assert {hit.text for hit in open_memory().recall("Ana")} == {"Ana likes saffron.", "Ana runs on Sundays."}


def test_another_users_texts_do_not_move_the_scores(open_memory):
    ana = open_memory(user="ana")
    ana.add_many(TURNS)
    before = [(hit.id, hit.score) for hit in ana.recall("Lisbon alpacas")]
    ben = open_memory(user="ben")
    ben.add_many({"text": f"Lisbon alpacas {n}", "at": "2024-05-12"} for n in range(50))
    after = [(hit.id, hit.score) for hit in ana.recall("Lisbon alpacas")]
    assert [id_ for id_, _ in after] == [id_ for id_, _ in before]
    assert [score for _, score in after] == pytest.approx([score for _, score in before])


def test_notes_and_links_have_provenance(open_memory):
    memory = open_memory()
    memory.add_many(TURNS)
    source, other = list(memory.episodes())[:2]
    note = memory.note("Ana lives in Lisbon", kind="fact", sources=[source.id], valid_from="2024-05-12")
    link = memory.link(source.id, other.id, "answers", weight=0.5)
    history = memory.history(source.id)
    assert history.notes == (note,)
    assert history.links == (link,)
    assert [episode.text for episode in history.after] == [turn["text"] for turn in TURNS[1:3]]
    assert memory.history(note.id).sources == (source,)
    hits = memory.recall("Where does Ana live?", kinds=["fact"])
    assert [(hit.id, hit.kind, hit.sources) for hit in hits] == [(note.id, "fact", (source.id,))]
    assert note.id in {hit.id for hit in memory.recall("Ana lives in Lisbon")}


def test_the_answer_quotes_and_cites(open_memory):
    memory = open_memory()
    memory.add_many(TURNS)
    answer = memory.answer("Where did Ana move in May?", at="2024-07-01")
    assert not answer.abstained
    assert "Lisbon" in answer.text
    assert answer.quotes[0].episode_id == next(memory.episodes()).id
    assert memory.answer("What does Ana think of quantum chromodynamics?", at="2024-07-01").abstained


def test_answer_with_a_language_model_reads_notes_and_cites(open_memory):
    from recollect.lm import Scripted

    memory = open_memory()
    episode = memory.add("I moved to Lisbon in May.", speaker="Ana", at="2024-05-12")

    def reply(messages):
        assert "I moved to Lisbon" in str(messages)
        return {
            "notes": [{"id": "m1", "note": "moved to Lisbon"}],
            "answer": "Lisbon",
            "cited": ["m1", "m7"],
            "answerable": True,
        }

    memory.lm = Scripted([reply, reply])
    answer = memory.answer("Where does Ana live?", at="2024-07-01")
    assert answer.text == "Lisbon"
    assert [quote.episode_id for quote in answer.quotes] == [episode.id]


def test_long_texts_are_found_by_their_end(open_memory):
    memory = open_memory()
    filler = "The weather was mild and nothing much happened on that day. " * 400
    long = memory.add(filler + "At midnight the zeppelin landed.", at="2024-01-01")
    memory.add_many({"text": f"Short note number {n}.", "at": "2024-01-02"} for n in range(30))
    hit = memory.recall("When did the zeppelin land?")[0]
    assert hit.id == long.id
    first, last = hit.excerpt
    assert "zeppelin" in hit.text[first:last]
    assert last - first < 5000


def test_stats_count_this_user_only(open_memory):
    memory = open_memory(user="ana")
    assert memory.stats().num_episodes == 0
    memory.add_many(TURNS)
    open_memory(user="ben").add("x")
    stats = memory.stats()
    assert (stats.num_episodes, stats.num_sessions) == (5, 2)
    assert stats.speakers == {"Ana": 3, "Ben": 2}
    assert stats.first_at == parse_time("2024-05-12T09:30")
    assert stats.embedder.startswith("hashing")


def test_an_unknown_field_or_a_bad_value_names_the_field_and_changes_nothing(open_memory):
    memory = open_memory()
    for item, field in (
        ({"text": ""}, "text"),
        ({"text": " \n"}, "text"),
        ({"text": 3}, "text"),
        ({}, "text"),
        ({"text": "x", "at": "yesterday"}, "at"),
        ({"text": "x", "at": 12}, "at"),
        ({"text": "x", "speaker": ""}, "speaker"),
        ({"text": "x", "session": "s" * 1001}, "session"),
        ({"text": "x", "meta": {"f": float("nan")}}, "meta"),
        ({"text": "x", "meta": [1]}, "meta"),
        ({"text": "x", "mood": "good"}, "mood"),
        ({"text": "half \ud800 pair"}, "text"),
    ):
        with pytest.raises(InvalidInput, match=field):
            memory.add_many([item])
    for k in (0, -1, 2.5, True, 10**9):
        with pytest.raises(InvalidInput, match=r"^k"):
            memory.recall("x", k=k)
    for query in ("", "  ", "\0", None, 3):
        with pytest.raises(InvalidInput, match=r"^query"):
            memory.recall(query)
    assert memory.stats().num_episodes == 0


def test_a_bad_item_keeps_the_batches_before_it(open_memory):
    memory = open_memory()
    items = [{"text": f"t{n}", "at": "2024-01-01"} for n in range(6)] + [{"text": ""}]
    with pytest.raises(InvalidInput, match="item 6: text"):
        memory.add_many(items, batch_size=3)
    assert memory.stats().num_episodes == 6


def test_a_database_remembers_its_embedder(open_memory, place):
    open_memory().add("x")

    class Other:
        name, dim, has_tokens = "other-1", 4, False

        def split(self, text):
            return [(0, len(text))]

    with pytest.raises(Conflict, match=r"embedder.*recollect reindex"):
        recollect.open(place, embedder=Other())
    assert recollect.open(place).engine.embedder.name.startswith("hashing")


def test_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(InvalidInput, match=r"^path"):
        recollect.open(tmp_path)
    with pytest.raises(InvalidInput, match=r"^path"):
        recollect.open(tmp_path / "no" / "where.db")
    with pytest.raises(InvalidInput, match=r"^path"):
        recollect.open("")
    (tmp_path / "text.db").write_text("This is no database, however long one looks at it." * 100)
    with pytest.raises(recollect.errors.StorageFailed, match="not a recollect database"):
        recollect.open(tmp_path / "text.db", embedder="hashing")


def test_times_keep_their_clock():
    assert parse_time("2024-05-12T09:30+02:00").utcoffset() == timedelta(hours=2)
    assert parse_time(datetime(2024, 5, 12, tzinfo=UTC)) == datetime(2024, 5, 12, tzinfo=UTC)
    for bad in ("2024-13-01", "soon", "", "0001-01-01", "9999-12-31T23:59:59"):
        with pytest.raises(InvalidInput, match=r"^at"):
            parse_time(bad)
