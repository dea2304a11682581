"""The load benchmark at its smallest: a real server, real clients, a real kill."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

import recollect
from recollect.benchmarks import load
from recollect.errors import InvalidInput, StorageFailed


def test_a_small_load_loses_nothing():
    result = load.run(50, 4, 1.0, embedder="hashing")
    assert result["missing"] == result["lost_by_kill"] == 0
    assert result["verified"]
    assert result["acknowledged"] > 0
    assert result["acknowledged_before_kill"] > 0
    assert result["errors"] == {}
    for kind in ("add", "recall"):
        assert 0 < result[kind]["p50_ms"] <= result[kind]["p95_ms"] <= result[kind]["p99_ms"]
    console = Console(record=True, width=120)
    load.show([result], console)
    text = console.export_text()
    assert re.search(r"sqlite\s+│ add", text)
    assert "4 clients for 1 s on 50 memories" in text


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(load, "_missing", lambda place, ids: 3)
    with pytest.raises(StorageFailed, match="3 acknowledged memories were missing"):
        load.run(10, 2, 0.2, embedder="hashing")


def test_missing_counts_what_is_not_there(tmp_path: Path):
    with recollect.open(tmp_path / "m.db", embedder="hashing") as memory:
        kept = memory.add("here").id
    assert load._missing(str(tmp_path / "m.db"), {kept, "ep_never"}) == 1


def test_a_database_that_holds_memories_is_not_filled(tmp_path: Path):
    load.check_empty(str(tmp_path / "new.db"))
    with recollect.open(tmp_path / "m.db", embedder="hashing") as memory:
        memory.add("mine")
    with pytest.raises(InvalidInput, match="postgres: this database holds memories"):
        load.check_empty(str(tmp_path / "m.db"))
