"""The engine: the approximate index of a memory that grows."""

from __future__ import annotations

import pytest

from recollect.store import approximate, vectors


def _texts(first: int, last: int):
    return [
        {"text": f"Note {number} about the thing {number % 7}.", "source_id": str(number)}
        for number in range(first, last)
    ]


def test_a_memory_that_grows_in_bulk_gets_and_keeps_its_approximate_index(open_memory, tmp_path, monkeypatch):
    if not approximate.available():
        pytest.skip("needs usearch")
    monkeypatch.setattr(vectors, "APPROXIMATE_FROM", 200)
    memory = open_memory()
    memory.add_many(_texts(0, 199))
    assert not memory.engine.index.approximate
    memory.add_many(_texts(199, 200))  # too little was added to wait for all of the others
    assert not memory.engine.index.approximate
    memory.add_many(_texts(200, 220))
    assert memory.engine.index.approximate
    assert memory.stats().index_note is None
    assert memory.recall("thing of note 215", k=1)[0].source_id == "215"

    memory.add_many(_texts(220, 300))  # a fifth of the rows are not in it
    assert memory.engine.index.num_unlinked(300) == 0
    memory.export(tmp_path / "export.jsonl")
    restored = open_memory(path=tmp_path / "other.db")
    restored.import_(tmp_path / "export.jsonl")
    assert restored.engine.index.approximate


def test_what_was_added_stays_added_when_the_index_cannot_be_written(open_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "APPROXIMATE_FROM", 10)
    memory = open_memory()
    (tmp_path / "memory.db-index").write_text("not a folder")
    assert memory.add_many(_texts(0, 20)).added == 20
