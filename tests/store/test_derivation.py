"""Deriving, consolidating, undoing and forgetting, with a small method whose every step can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest

from recollect.errors import InvalidInput, NotFound, Unavailable
from recollect.store import notes
from recollect.store.checks import new_id
from recollect.store.hits import note_hit
from recollect.store.method import Draft, Request, view_of
from recollect.store.notes import NewNote
from recollect.store.records import Link, Note
from recollect.store.views import View

BACKENDS = ("sqlite", "postgres")


@dataclass
class Sayings:
    """One note an episode, in capitals; consolidation joins all live notes into one, which replaces them."""

    lm: object = None
    fails_on: str = ""
    out_of_reach: bool = False
    name: str = "sayings"
    version: str = "1"
    seen: list[str] = field(default_factory=list)

    def _note(self, text: str, sources: Sequence[str], kind: str = "saying", **more) -> Note:
        now = datetime.now().astimezone()
        return Note("no_" + new_id(now), kind, text, self.name, self.version, tuple(sources), now, **more)

    def encode(self, engine, scope, episodes):
        if self.out_of_reach:
            raise Unavailable("lm: gone.")
        draft = Draft()
        for episode in episodes:
            self.seen.append(episode.text)
            if self.fails_on and self.fails_on in episode.text:
                draft.failed[episode.id] = "schema: broken"
                continue
            note = self._note(episode.text.upper(), [episode.id], key=f"key {episode.text}")
            draft.notes.append(NewNote(note))
            draft.links.append(Link(note.id, episode.id, "of", 1.0, self.name))
        return draft

    def recall(self, engine, request: Request):
        view = View(request.filter, self.name)
        found = engine.nearest_notes(engine.embed([request.text], "query")[0], view, request.k)
        by_row = notes.by_rows(engine.db, [row for row, _, _ in found], request.filter.until)
        return [note_hit(by_row[row], score) for row, score, _ in found]

    def consolidate(self, engine, scope):
        live = list(notes.seen(engine.db, View(scope.filter, self.name)).values())
        if len(live) < 2:
            return Draft()
        joined = self._note(
            " / ".join(note.text for note in live), [source for note in live for source in note.sources], "joined"
        )
        return Draft([NewNote(joined, replaces=tuple(note.id for note in live))])

    def rederive(self, engine, scope, flagged):
        return Draft(
            [NewNote(self._note(f"again from {len(note.sources)}", note.sources, note.kind)) for note in flagged]
        )

    def after_answer(self, engine, scope, question, answer):
        return Draft()


@pytest.fixture
def memory(open_memory):
    memory = open_memory(method=Sayings())
    for day, text in enumerate(("tea in Lisbon", "a red bicycle", "rain at night"), 1):
        memory.add(text, at=f"2024-05-0{day}", session=f"s{day}", speaker="Ana")
    return memory


def texts(memory) -> list[str]:
    view = View(memory._filter(), memory.method.name)
    return [note.text for note in notes.seen(memory.engine.db, view).values()]


def test_every_episode_is_read_once(memory, open_memory):
    assert texts(memory) == ["TEA IN LISBON", "A RED BICYCLE", "RAIN AT NIGHT"]
    again = open_memory(method=Sayings())
    again.recall("bicycle")
    assert again.method.seen == []
    assert again.num_underived() == 0


def test_a_memory_that_changes_its_method_reads_what_is_there(open_memory):
    plain = open_memory()
    plain.add_many({"text": f"remark {number}"} for number in range(150))
    switched = open_memory(method=Sayings())
    assert switched.num_underived() == 150
    done: list[int] = []
    report = switched.derive(progress=done.append)
    assert (report.episodes, report.notes, sum(done)) == (150, 150, 150)
    assert len(plain.recall("remark", k=200, kinds=["episode"])) == len(plain.recall("remark", k=200)) > 0
    assert switched.stats().notes == {"sayings": 150}


def test_an_interrupted_derivation_goes_on_where_it_stopped(open_memory):
    plain = open_memory()
    plain.add_many({"text": f"remark {number}"} for number in range(150))
    switched = open_memory(method=Sayings())

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        switched.derive(progress=stop)
    assert 0 < switched.num_underived() < 150
    assert switched.derive().episodes == switched.stats().num_episodes - 64
    assert len(set(texts(switched))) == len(texts(switched)) == 150


def test_what_fails_waits_and_is_tried_again(open_memory):
    memory = open_memory(method=Sayings(fails_on="bicycle"))
    memory.add_many([{"text": "tea"}, {"text": "a red bicycle"}])
    assert texts(memory) == ["TEA"]
    assert memory.derive().waiting == 1
    memory.method.fails_on = ""
    assert memory.derive().waiting == 1  # not unless asked
    assert memory.derive(retry=True).waiting == 0
    assert sorted(texts(memory)) == ["A RED BICYCLE", "TEA"]


def test_a_model_out_of_reach_loses_nothing(open_memory):
    memory = open_memory(method=Sayings(out_of_reach=True))
    with pytest.warns(UserWarning, match="lm: gone"):
        memory.add("tea")
    memory.add("rain")  # no second warning within a minute
    assert memory.stats().num_episodes == 2
    assert memory.num_underived() == 2
    memory.method.out_of_reach = False
    assert memory.derive().notes == 2


def test_notes_are_found_by_their_key_and_their_time(memory):
    assert memory.recall("red bicycle", k=1)[0].text == "A RED BICYCLE"
    assert [hit.text for hit in memory.recall("anything", at="2024-05-01T12:00")] == ["TEA IN LISBON"]
    assert [hit.text for hit in memory.recall("anything", session="s2")] == ["A RED BICYCLE"]
    assert len(memory.recall("anything", speaker="ana")) == 3
    assert memory.recall("anything", speaker="Ben") == []
    assert "key rain" in memory.engine.db.rows("SELECT coalesce(key, text) FROM notes WHERE seq = 3")[0][0]


def test_a_consolidation_is_shown_done_and_undone(memory):
    shown = memory.consolidate(dry_run=True)
    assert shown.run is None
    assert [len(change.replaces) for change in shown.changes] == [3]
    assert len(texts(memory)) == 3
    done = memory.consolidate()
    assert texts(memory) == ["TEA IN LISBON / A RED BICYCLE / RAIN AT NIGHT"]
    assert memory.recall("bicycle", at="2024-05-02T12:00", k=1)[0].text == "A RED BICYCLE"  # as it was known then
    assert [(run.num_added, run.num_replaced) for run in memory.consolidations()] == [(1, 3)]
    assert [run.run for run in memory.undo(done.run)] == [done.run]
    assert len(texts(memory)) == 3
    assert memory.consolidations() == []
    assert memory.verify().clean
    with pytest.raises(NotFound, match="no consolidation"):
        memory.undo()


def test_forgetting_brings_back_what_a_merged_note_had_replaced(memory, place):
    memory.consolidate()
    (rain,) = [episode for episode in memory.episodes() if "rain" in episode.text]
    memory.forget(rain.id)
    assert sorted(texts(memory)) == ["A RED BICYCLE", "TEA IN LISBON"]
    memory.close()
    if not isinstance(place, Path):
        return  # the files of a server are not ours to read
    content = place.read_bytes()
    assert b"RAIN AT NIGHT" not in content
    assert b"key rain" not in content


def test_a_note_of_several_episodes_is_derived_again(memory):
    first, second, _ = memory.episodes()
    item = NewNote(memory.method._note("A SUMMARY OF BOTH", [first.id, second.id], "summary"))
    with memory.engine.writing_notes([item]):
        notes.insert(memory.engine.db, [item], memory.user)
    receipt = memory.forget(first.id)
    assert receipt.flagged_notes == (item.note.id,)
    assert sorted(texts(memory)) == ["A RED BICYCLE", "RAIN AT NIGHT", "again from 1"]


def test_a_note_that_each_source_carries_stays_with_those_that_are_left(memory):
    first, second, third = memory.episodes()
    item = NewNote(memory.method._note("SAID OFTEN", [second.id, third.id], "fact", any_source=True))
    with memory.engine.writing_notes([item]):
        notes.insert(memory.engine.db, [item], memory.user)
        notes.add_sources(memory.engine.db, [(item.note.id, first.id)], memory.user)
    assert memory.get(item.note.id).at == first.at
    receipt = memory.forget(first.id)
    assert item.note.id not in receipt.flagged_notes + receipt.notes
    kept = memory.get(item.note.id)
    assert (kept.sources, kept.at) == ((second.id, third.id), second.at)


def test_a_closed_note_stays_and_says_until_when_it_held(memory):
    first, second, _ = memory.episodes()
    old, new = (memory.method._note(text, [source.id], "fact") for text, source in (("OLD", first), ("NEW", second)))
    items = [NewNote(old), NewNote(new, closes=(old.id,))]
    with memory.engine.writing_notes(items):
        notes.insert(memory.engine.db, items, memory.user)
    assert memory.get(old.id).valid_to == second.at
    now = {hit.id: hit for hit in memory.recall("old", k=10)}
    assert now[old.id].valid_to == second.at
    then = {hit.id: hit for hit in memory.recall("old", k=10, at="2024-05-01T12:00")}
    assert then[old.id].valid_to is None
    memory.forget(second.id)
    assert memory.get(old.id).valid_to is None


def test_agents_of_one_user_do_not_share_what_is_derived(open_memory):
    for agent in ("one", "two"):
        memory = open_memory(method=Sayings(), agent=agent)
        memory.add(f"a secret of {agent}")
    assert [hit.text for hit in memory.recall("secret", k=5)] == ["A SECRET OF TWO"]
    memory.consolidate()
    assert len(open_memory(method=Sayings()).recall("secret", k=5)) == 2


def test_another_version_derives_anew(memory, open_memory):
    newer = open_memory(method=Sayings(version="2"))
    assert newer.derive().notes == 3
    assert newer.stats().notes == {"sayings": 3}
    assert newer.derive(again=True).notes == 3
    assert len(newer.stats().notes) == 1
    assert newer.verify().clean


def test_export_and_restore_keep_what_was_derived(memory, open_memory, tmp_path, monkeypatch):
    from recollect.store import derivation, transfer

    for module in (derivation, transfer):
        if hasattr(module, "method_targets"):
            monkeypatch.setattr(module, "method_targets", lambda: {"sayings": "", "episodic": ""})
    memory.consolidate()
    memory.export(tmp_path / "e.jsonl")
    restored = open_memory(path=tmp_path / "restored.db", method=Sayings())
    restored.import_(tmp_path / "e.jsonl")
    assert restored.num_underived() == 0
    assert texts(restored) == texts(memory)
    assert restored.recall("bicycle", at="2024-05-02T12:00", k=1)[0].text == "A RED BICYCLE"
    restored.export(tmp_path / "again.jsonl")
    one, two = ((tmp_path / name).read_text("utf-8").splitlines()[1:] for name in ("e.jsonl", "again.jsonl"))
    assert one == two


def test_notes_of_methods_cannot_be_written_by_hand(open_memory):
    memory = open_memory()
    episode = memory.add("tea")
    with pytest.raises(InvalidInput, match="method"):
        memory.note("a thing", kind="fact", sources=[episode.id], method="episodic")
    kept = memory.note("likes tea", kind="fact", sources=[episode.id], method="my program")
    assert kept.id in {hit.id for hit in memory.recall("likes tea", k=5)}


def test_a_narrow_request_sees_notes_as_first_derived(memory):
    memory.consolidate()
    view = View(memory._filter(), "sayings")
    first = View(memory._filter(), "sayings", first=True)
    assert len(notes.seen(memory.engine.db, view)) == 1
    assert len(notes.seen(memory.engine.db, first)) == 3
    request = Request("tea", 5, datetime.now().astimezone(), memory._filter(session="s1"), frozenset({"saying"}))
    narrow = view_of(memory.method, request, ["saying", "joined"])
    assert (narrow.first, narrow.kinds) == (True, ("saying",))
    assert [note.text for note in notes.seen(memory.engine.db, narrow).values()] == ["TEA IN LISBON"]
    whole = replace(request, filter=memory._filter(at="2024-05-09"))
    assert not view_of(memory.method, whole, ["saying"]).first
    nothing = view_of(memory.method, replace(request, kinds=frozenset({"fact"})), ["saying"])
    assert notes.seen(memory.engine.db, nothing) == {}


def test_a_view_can_leave_out_what_was_closed(memory):
    first, second, _ = memory.episodes()
    old, new = (memory.method._note(text, [source.id], "fact") for text, source in (("OLD", first), ("NEW", second)))
    items = [NewNote(old), NewNote(new, closes=(old.id,))]
    with memory.engine.writing_notes(items):
        notes.insert(memory.engine.db, items, memory.user)

    def held(**conditions):
        view = View(memory._filter(**conditions), "sayings", ("fact",), holding=True)
        return [note.text for note in notes.seen(memory.engine.db, view).values()]

    assert held() == ["NEW"]
    assert held(at="2024-05-01T12:00") == ["OLD"]


def test_versions_lead_from_the_first_to_the_last_and_back(memory):
    view = View(memory._filter(), "sayings")
    before = notes.seen(memory.engine.db, view)
    ids = [note.id for note in before.values()]
    assert notes.first_versions(memory.engine.db, ids) == {id_: [id_] for id_ in ids}
    memory.consolidate()
    ((row, joined),) = notes.seen(memory.engine.db, view).items()
    assert notes.first_versions(memory.engine.db, [joined.id]) == {joined.id: ids}
    later = notes.versions(memory.engine.db, ids[:2])
    assert sorted(later[row]) == ids[:2]
    assert [later[old] for old in list(before)[:2]] == [[id_] for id_ in ids[:2]]
    assert notes.among(memory.engine.db, view, later) == [row]


def test_links_of_a_method_are_found_from_either_end(memory):
    first, second, third = (
        note.id for note in notes.seen(memory.engine.db, View(memory._filter(), "sayings")).values()
    )
    ends = {link.target for link in notes.links_at(memory.engine.db, [first], memory.user, "sayings")}
    assert ends == {episode.id for episode in list(memory.episodes())[:1]}
    link = Link(first, second, "near", 0.5, "sayings")
    notes.insert_links(memory.engine.db, [link], memory.user)
    for id_ in (first, second):
        assert link in notes.links_at(memory.engine.db, [id_], memory.user, "sayings")
    assert notes.links_at(memory.engine.db, [first, second], memory.user, "sayings").count(link) == 1
    assert link not in notes.links_at(memory.engine.db, [third], memory.user, "sayings")
    assert notes.links_at(memory.engine.db, [first], memory.user, "other") == []


def test_notes_embedded_for_a_draft_are_not_embedded_again(memory, monkeypatch):
    source = next(iter(memory.episodes()))
    items = [NewNote(memory.method._note(text, [source.id])) for text in ("A BLUE DOOR", "A GREEN DOOR")]
    vectors = memory.engine.embed_notes(items)
    assert vectors.shape == (2, memory.engine.embedder.dim)
    assert vectors @ memory.engine.embed(["A BLUE DOOR"])[0] == pytest.approx([1.0, vectors[0] @ vectors[1]], abs=1e-3)
    monkeypatch.setattr(type(memory.engine.embedder), "embed", None)
    with memory.engine.writing_notes(items):
        notes.insert(memory.engine.db, items, memory.user)
    monkeypatch.undo()
    assert memory.recall("blue door", k=1)[0].text == "A BLUE DOOR"
    assert memory.verify().clean
