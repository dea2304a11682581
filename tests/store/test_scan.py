"""The scan against a plain product, and the largest scores against a whole sort."""

from __future__ import annotations

import numpy as np
import pytest

from recollect.store import scan


@pytest.mark.parametrize("num", [0, 1, 1024, 1025, 40_000])
def test_scores_are_those_of_a_plain_product(num: int) -> None:
    chance = np.random.default_rng(0)
    rows = np.zeros(num, [("values", "i1", (16,)), ("step", "<f4")])
    rows["values"] = chance.integers(-127, 128, (num, 16))
    rows["step"] = chance.random(num) * (chance.random(num) < 0.9)
    query = chance.standard_normal(16).astype(np.float32)
    plain = np.where(rows["step"] > 0, rows["values"].astype(np.float32) @ query * rows["step"], -np.inf)
    assert np.allclose(scan.scores(rows, query), plain, rtol=1e-4, atol=1e-4)
    ids = 1 + chance.permutation(num)[: num // 2]
    assert np.allclose(scan.scores(rows, query, ids), plain[ids - 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num", [3, 64, 5000])
def test_the_largest_are_those_of_a_whole_sort(num: int) -> None:
    chance = np.random.default_rng(0)
    for scores in (chance.random(num), chance.integers(0, 9, num), np.full(num, -np.inf)):
        scores = scores.astype(np.float32)
        for k in (1, 2, 70, num):
            found = scan.largest(scores, k)
            assert len(set(found)) == len(found) >= min(k, num)
            assert np.sort(scores[found])[::-1][:k].tolist() == np.sort(scores)[::-1][:k].tolist()


def test_the_best_come_first_equals_by_id_and_empty_rows_never() -> None:
    scores = np.array([0.5, -np.inf, 0.9, 0.5, 0.9, 0.1], np.float32)
    assert scan.best(None, scores, 4)[0].tolist() == [3, 5, 1, 4]
    assert scan.best(np.arange(60, 0, -10), scores, 3)[0].tolist() == [20, 40, 30]
    assert scan.best(None, scores, 100)[0].tolist() == [3, 5, 1, 4, 6]
