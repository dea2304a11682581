"""Looking through a memory a page at a time: nothing is left out, nothing comes twice, nothing is another user's."""

from __future__ import annotations

import pytest

from recollect.errors import InvalidInput, NotFound
from recollect.store import browse

BACKENDS = ("sqlite", "postgres")


@pytest.fixture
def talks(open_memory):
    """Seven conversations of three turns, written in another order than they were held, and one turn outside of any."""
    memory = open_memory()
    for month in (5, 2, 7, 1, 6, 3, 4):
        for turn in range(3):
            memory.add(
                f"turn {turn} of month {month}",
                session=f"talk {month}",
                at=f"2024-0{month}-10T10:0{turn}Z",
                meta={"title": f"Month {month}"} if month > 3 else None,
            )
    memory.add("alone", at="2024-08-01T00:00Z")
    other = open_memory(user="other")
    other.add("another's", session="talk 9", at="2024-05-10T10:01Z")
    return memory


def pages(read, following):
    """Everything that is read two at a time."""
    found, after = [], None
    while page := read(after):
        found += page
        after = following(page[-1])
    return found


def test_conversations_come_latest_first_with_their_size_and_title(talks):
    found = pages(lambda after: talks.sessions(2, following=after), lambda session: session.cursor)
    assert [session.name for session in found] == [f"talk {month}" for month in (7, 6, 5, 4, 3, 2, 1)]
    assert {session.num_episodes for session in found} == {3}
    assert (found[0].title, found[-1].title) == ("Month 7", None)
    assert found[0].opening == "turn 0 of month 7"
    assert (found[0].first_at.minute, found[0].last_at.minute) == (0, 2)
    for strange in ("", "x", "1_", "1_2_3", "9" * 40, "1_\u0661"):
        with pytest.raises(InvalidInput, match="after"):
            talks.sessions(2, following=strange)


def test_conversations_before_1970_have_a_place(open_memory):
    memory = open_memory()
    for year in (1950, 1960, 1980):
        memory.add(f"said in {year}", session=str(year), at=f"{year}-01-01T00:00Z")
    found = pages(lambda after: memory.sessions(1, following=after), lambda session: session.cursor)
    assert [session.name for session in found] == ["1980", "1960", "1950"]


@pytest.mark.parametrize("few", [0, 10_000], ids=["among all users", "sorted"])
def test_the_latest_come_first_and_as_of_a_time(talks, few, monkeypatch):
    monkeypatch.setattr(browse, "FEW", few)
    found = pages(lambda after: talks.latest(2, following=after), lambda episode: episode.id)
    assert len(found) == 22
    assert found == sorted(found, key=lambda episode: episode.at, reverse=True)
    assert talks.latest(1)[0].text == "alone"
    assert talks.latest(1, at="2024-03-10T10:01Z")[0].text == "turn 1 of month 3"
    with pytest.raises(NotFound):
        talks.latest(1, following="ep_none")


def test_a_timeline_counts_every_episode_once(talks, open_memory):
    for num_parts in (1, 7, 60):
        line = talks.timeline(num_parts)
        assert (len(line.counts), sum(line.counts)) == (num_parts, 22)
    assert (line.first_at.month, line.last_at.month) == (1, 8)
    assert line.counts[0] == 3
    assert line.counts[-1] == 1
    assert open_memory(user="nobody").timeline(5).counts == ()


def test_one_user_alone_is_counted_alike(open_memory, tmp_path):
    memory = open_memory(path=tmp_path / "alone.db")
    for day in (1, 1, 2, 9):
        memory.add(f"{day}", at=f"2024-01-0{day}T00:00Z", source_id=f"{day}-{memory.engine.db.num_episodes('default')}")
    alone = memory.timeline(8)
    open_memory(path=tmp_path / "alone.db", user="other").add("x", at="2024-01-05T00:00Z")
    assert memory.timeline(8) == alone
    assert sum(alone.counts) == 4


def test_live_notes_come_last_written_first(talks):
    source = talks.latest(1)[0].id
    made = [talks.note(f"note {number}", kind="fact" if number % 2 else "tag", sources=[source]) for number in range(5)]
    found = pages(lambda after: talks.notes(2, following=after), lambda note: note.id)
    assert [note.id for note in found] == [note.id for note in reversed(made)]
    assert [note.text for note in talks.notes(kind="tag")] == ["note 4", "note 2", "note 0"]
    assert talks.notes(method="tim") == []
    with pytest.raises(NotFound):
        talks.notes(following="no_none")


def test_a_neighbourhood_holds_two_steps_and_no_more(talks):
    first, second, third, fourth = (episode.id for episode in talks.latest(4))
    for one, other in ((first, second), (second, third), (third, fourth)):
        talks.link(one, other, "next")
    note = talks.note("about the first", kind="fact", sources=[first])
    around = talks.neighbourhood(first)
    assert around.records[0].id == first
    assert {record.id for record in around.records} == {first, second, third, note.id}
    assert {(link.source, link.target, link.relation) for link in around.links} == {
        (first, second, "next"),
        (second, third, "next"),
        (note.id, first, browse.DERIVED),
    }
    assert len(talks.neighbourhood(first, limit=1).records) == 2
    with pytest.raises(NotFound):
        talks.neighbourhood("ep_none")


def test_of_many_links_the_heaviest_are_shown(talks):
    middle, *others = (episode.id for episode in talks.latest(12))
    for weight, other in enumerate(others):
        talks.link(middle, other, "near", weight=weight)
    around = talks.neighbourhood(middle, limit=3)
    assert {record.id for record in around.records} == {middle, *others[-3:]}


def test_a_walk_begins_where_links_meet_else_at_the_last_note_or_turn(open_memory):
    memory = open_memory()
    with pytest.raises(NotFound):
        memory.neighbourhood()
    ids = [memory.add(f"thing {number}", at=f"2024-01-0{number}").id for number in range(1, 6)]
    assert memory.neighbourhood().records[0].id == ids[-1]
    note = memory.note("a note", kind="fact", sources=ids[:1])
    assert memory.neighbourhood().records[0].id == note.id
    for one, other in ((0, 1), (1, 2), (3, 1)):
        memory.link(ids[one], ids[other], "near")
    assert memory.neighbourhood().records[0].id == ids[1]
    other = open_memory(user="other")
    alone = other.add("another's").id
    assert [record.id for record in other.neighbourhood().records] == [alone]
