"""The speed benchmark on a few memories, and the page made from its result."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recollect.benchmarks import page, speed
from recollect.errors import InvalidInput
from recollect.store.embedders import HashingEmbedder


def test_sizes():
    assert speed.parse_sizes("10k, 1M,500,10k") == [500, 10_000, 1_000_000]
    for bad in ("", "k", "1x", "0", "-1k"):
        with pytest.raises(InvalidInput, match="sizes"):
            speed.parse_sizes(bad)


def test_texts_and_questions_are_the_same_every_time_and_differ():
    assert speed.text(7) == speed.text(7)
    assert len({speed.text(number) for number in range(500)}) == 500
    assert speed.question(3) == speed.question(3) != speed.question(4)


def test_replayed_vectors_are_unit_near_the_real_ones_and_never_the_same():
    texts = [speed.text(number) for number in range(4)]
    replay = speed.Replay(HashingEmbedder(), texts)
    found = replay.embed(["a"] * 8).vectors
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (np.sum(found * np.tile(replay.base.vectors, (2, 1)), axis=1) > 0.8).all()
    assert not np.allclose(found[0], found[4])
    assert np.array_equal(replay.embed(["a"], "query").vectors, HashingEmbedder().embed(["a"]).vectors)


def test_a_small_run_and_its_page(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "REAL_TEXTS", 512)
    monkeypatch.setattr(speed, "NUM_QUERIES", 2)
    monkeypatch.setattr(speed, "CHROMA_LIMIT", 0)
    result = speed.run([60, 120], "hashing")
    (tmp_path / "speed.json").write_text(json.dumps(result))
    assert [row["memories"] for row in result["sizes"]] == [60, 120]
    assert {"recall", "embed_query", "vector_search", "numpy"} <= set(result["sizes"][0]["latency"])
    text = page.render_speed(tmp_path)
    assert "Growth from 60 to 120 memories, 2 times as many" in text
    assert "Chroma is measured up to 0 memories" in text
