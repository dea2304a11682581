"""HMT's claim: its texts, its rule on made rows, and all of it at a size that takes a second."""

from __future__ import annotations

from random import Random

import pytest
import torch

from recollect.claims import hmt
from recollect.claims.claim import Row, Setting


def test_texts_tell_each_topic_once_and_ask_for_all():
    for text in hmt.texts(Random(1), 5, 3):
        assert len(text) == 2 * 3 * 3
        segments = [tuple(text[start : start + 3]) for start in range(0, 18, 3)]
        assert sorted(segments[:3]) == sorted(segments[3:])
        assert len({topic for _, topic, _ in segments}) == 3
        assert all(first == hmt.BEGIN and value >= hmt.VALUES for first, _, value in segments)


def test_only_asked_values_are_predicted():
    ids = torch.tensor(hmt.texts(Random(1), 2, 2))
    labels = hmt._labels(ids)
    assert (labels[:, :6] == -100).all()
    assert torch.equal(labels[:, [8, 11]], ids[:, [8, 11]])
    assert (labels >= 0).sum() == 4


def rows(ours=0.9, flat=0.4, without=0.1, recall=0.9) -> dict[str, Row]:
    made = [
        Row(hmt.SYSTEM, "system", {"right": ours, "recall on topic": recall}),
        Row(hmt.RMT, "baseline", {"right": flat}),
        Row(hmt.EMPTY, "baseline", {"right": without}),
    ]
    return {row.name: row for row in made}


def test_the_rule():
    assert hmt.decide(rows())
    assert not hmt.decide(rows(ours=0.42))
    assert not hmt.decide(rows(flat=0.15))
    assert not hmt.decide(rows(recall=0.5))


@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_row_is_measured(scale, monkeypatch):
    monkeypatch.setattr(hmt, scale.upper(), hmt.Size(2, 2, 3, 16, num_seeds=2, num_texts=4))
    found = {row.name: row for row in hmt.measure(Setting(scale), lambda line: None)}
    assert list(found) == [hmt.SYSTEM, hmt.EMPTY, hmt.RMT, hmt.ALONE]
    assert all(0 <= row.values["right"] <= 1 for row in found.values())
    assert 0 < found[hmt.SYSTEM].values["recall on topic"] < 1
    assert "recall on topic" not in found[hmt.RMT].values
    assert isinstance(hmt.decide(found), bool)
