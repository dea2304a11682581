"""Personalised PageRank: by hand, its fast twin, and as `Memory.related`."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.errors import InvalidInput, NotFound
from recollect.store import graph
from recollect.store.graph import Transitions, pagerank, pagerank_by_hand


def test_a_chain_computed_by_hand():
    """a -> b -> c with damping 0.5 from a: every walk begins at a; half go on at each step; from c all return."""
    visits = pagerank_by_hand(np.array([0, 1]), np.array([1, 2]), np.ones(2), np.array([1.0, 0, 0]), 0.5, 200)
    # a = 0.5 + 0.5 c, b = 0.5 a, c = 0.5 b
    a = 0.5 / (1 - 0.125)
    assert visits == pytest.approx([a, a / 2, a / 4])
    assert visits.sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_the_fast_twin_is_equal(seed: int):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(seed)
    nodes, links = 50, 120
    sources, targets = rng.integers(0, nodes, links), rng.integers(0, nodes, links)
    weights = rng.random(links) * (rng.random(links) > 0.1)
    seeds = rng.random(nodes) * (rng.random(nodes) > 0.8) + 1e-3
    fast = pagerank(sources, targets, weights, seeds)
    assert fast == pytest.approx(pagerank_by_hand(sources, targets, weights, seeds), abs=1e-12)


@pytest.mark.parametrize("with_scipy", [True, False])
def test_parts_of_a_start_give_parts_of_the_visits(monkeypatch, with_scipy: bool):
    if with_scipy:
        pytest.importorskip("scipy")
    else:
        monkeypatch.setattr(graph, "find_spec", lambda name: None)
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(0, 15, 40), rng.integers(0, 20, 40)  # from the last five nodes nothing leads away
    weights, parts = rng.random(40), rng.random((20, 3))
    visits = Transitions(sources, targets, weights, 20).visits(parts)
    whole = pagerank_by_hand(sources, targets, weights, parts.sum(axis=1))
    assert visits.shape == (20, 3)
    assert visits.sum(axis=1) == pytest.approx(whole, abs=1e-12)
    none = np.zeros((20, 3))
    none[:, 0] = parts[:, 0]
    assert Transitions(sources, targets, weights, 20).visits(none)[:, 1:].sum() == 0


def test_related_follows_links_and_never_crosses_users(open_memory):
    memory = open_memory(user="ana")
    lisbon, porto, tea, alone = (memory.add(text, at="2024-01-01") for text in ("Lisbon", "Porto", "tea", "alone"))
    memory.link(lisbon.id, porto.id, "before", weight=3.0)
    memory.link(lisbon.id, tea.id, "beside", weight=1.0)
    note = memory.note("moved", kind="fact", sources=[porto.id])
    memory.link(porto.id, note.id, "says")
    related = memory.related(lisbon.id, k=10)
    assert [record.id for record, _ in related] == [porto.id, tea.id, note.id] or [
        record.id for record, _ in related
    ] == [
        porto.id,
        note.id,
        tea.id,
    ]
    assert alone.id not in {record.id for record, _ in related}
    assert all(score > 0 for _, score in related)
    assert len(memory.related(lisbon.id, k=1)) == 1
    assert memory.related(alone.id) == []
    with pytest.raises(NotFound):
        open_memory(user="ben").related(lisbon.id)
    with pytest.raises(InvalidInput, match=r"^k"):
        memory.related(lisbon.id, k=0)
