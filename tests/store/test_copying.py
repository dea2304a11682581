"""A memory is copied into PostgreSQL whole or not at all."""

from __future__ import annotations

import pytest

import recollect
from recollect.errors import Conflict, InvalidInput, StorageFailed
from recollect.store import copying

BACKENDS = ("postgres",)


@pytest.fixture
def source(tmp_path):
    """A file of two users with what a method derived, revised, linked, forgot and did not get to."""
    path = tmp_path / "memory.db"
    for user in ("ana", "bo"):
        with recollect.open(path, embedder="hashing", user=user, method="hipporag2") as memory:
            memory.add_many(
                {"text": f"{name} lives in {town}.", "speaker": user, "session": f"s{n % 2}", "at": f"2024-0{n + 1}-01"}
                for n, (name, town) in enumerate(
                    [("Eva", "Lisbon"), ("Tom", "Porto"), ("Eva", "Porto"), ("Ida", "Faro")]
                )
            )
            memory.consolidate()
            memory.forget(query="Tom Porto")
    return path


def test_everything_arrives_and_answers_alike(source, place):
    seen = []
    counts = copying.sqlite_to_postgres(source, place, lambda table, done, total: seen.append((table, done, total)))
    assert set(counts) == set(copying.COPIED)
    assert counts["episodes"] == 6
    assert counts["embeddings"] == counts["chunks"] > 6
    assert {(table, counts[table]) for table, done, total in seen if done == total} >= {("episodes", 6)}
    for user in ("ana", "bo"):
        with recollect.open(source, user=user) as one, recollect.open(place, user=user) as other:
            assert list(one.episodes()) == list(other.episodes())
            assert one.num_underived() == other.num_underived() == 0
            assert other.method.name == "hipporag2"
            for query in ("Where does Eva live?", "Who is in Faro?"):
                told = [[(hit.id, round(hit.score, 2)) for hit in memory.recall(query, k=3)] for memory in (one, other)]
                assert [score for _, score in told[0]] == [score for _, score in told[1]]
                assert told[0][0] == told[1][0]
            assert other.verify().problems == ()
            other.add("Uma lives in Evora.")
            assert other.recall("Where does Uma live?", k=1)[0].text == "Uma lives in Evora."
            assert other.verify().problems == ()


def test_a_target_that_holds_anything_is_refused(source, place):
    with recollect.open(place, embedder="hashing") as memory:
        memory.add("I was here first.")
    with pytest.raises(Conflict, match="not empty"):
        copying.sqlite_to_postgres(source, place)
    with recollect.open(place) as memory:
        assert memory.stats().num_episodes == 1


def test_a_count_that_differs_leaves_nothing(source, place, monkeypatch):
    batches = copying._batches

    def short(db, table, columns):
        return (rows[:-1] if table == "term_counts" else rows for rows in batches(db, table, columns))

    monkeypatch.setattr(copying, "_batches", short)
    with pytest.raises(StorageFailed, match=r"term_counts has \d+ of \d+; nothing was copied"):
        copying.sqlite_to_postgres(source, place)
    monkeypatch.undo()
    assert copying.sqlite_to_postgres(source, place)["episodes"] == 6  # the target was left empty


def test_what_cannot_be_copied_is_told(tmp_path, source):
    with pytest.raises(InvalidInput, match="source"):
        copying.sqlite_to_postgres(tmp_path / "none.db", "postgresql://h/x")
    with pytest.raises(InvalidInput, match="target"):
        copying.sqlite_to_postgres(source, "elsewhere.db")
