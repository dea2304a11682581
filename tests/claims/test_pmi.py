"""PMI's claim: equal parameters, its rule, and all of it at a size that takes a second."""

from __future__ import annotations

from recollect.claims import pmi
from recollect.claims.claim import Row, Setting


def test_networks_have_as_many_parameters():
    size = pmi.SMALL
    counts = [
        sum(weight.numel() for weight in pmi.make(name, size).parameters())
        for name in (pmi.SYSTEM, pmi.WORKSPACE, pmi.ATTENTION)
    ]
    assert max(counts) - min(counts) < 0.01 * counts[0]


def test_the_rule():
    def rows(ours, workspace, attention):
        values = {pmi.SYSTEM: ours, pmi.WORKSPACE: workspace, pmi.ATTENTION: attention}
        return {name: Row(name, "system", {"relations right": each}) for name, each in values.items()}

    assert pmi.decide(rows(0.8, 0.8, 0.7))
    assert not pmi.decide(rows(0.8, 0.82, 0.7))
    assert not pmi.decide(rows(0.8, 0.7, 0.79))


def test_every_row_is_measured(monkeypatch):
    monkeypatch.setattr(pmi, "SMALL", pmi.Size(16, 2, 2, rows=4, num_scenes=64, num_layers=2))
    found = {row.name: row for row in pmi.measure(Setting(), lambda line: None)}
    assert list(found) == [pmi.SYSTEM, pmi.OUTER, pmi.WORKSPACE, pmi.ATTENTION]
    assert all(0 <= row.values["relations right"] <= 1 for row in found.values())
    assert isinstance(pmi.decide(found), bool)
