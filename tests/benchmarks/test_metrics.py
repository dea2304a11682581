"""Measures against values worked out by hand, chance levels against all orders, intervals against theory."""

from __future__ import annotations

from itertools import permutations
from math import log2

import numpy as np
import pytest

from recollect.benchmarks import metrics

RANKED = ["a", "x", "b", "y", "z"]
GOLD = ("a", "b", "c")


def test_recall_in_its_three_senses():
    assert metrics.recall_fraction(RANKED, GOLD, 1) == pytest.approx(1 / 3)
    assert metrics.recall_fraction(RANKED, GOLD, 5) == pytest.approx(2 / 3)
    assert metrics.recall_any(RANKED, GOLD, 1) == 1
    assert metrics.recall_any(["x", "a"], GOLD, 1) == 0
    assert metrics.recall_all(RANKED, GOLD, 5) == 0
    assert metrics.recall_all(RANKED, ("a", "b"), 3) == 1
    assert metrics.recall_all(RANKED, ("a", "b"), 2) == 0


def test_rank_of_the_first_evidence():
    assert metrics.hit_at_1(RANKED, GOLD) == 1
    assert metrics.hit_at_1(RANKED, ("b",)) == 0
    assert metrics.mrr(RANKED, ("b", "y")) == pytest.approx(1 / 3)
    assert metrics.mrr(RANKED, ("q",)) == 0


def test_ndcg_divides_by_the_gain_of_all_evidence_first():
    found = 1 + 1 / log2(4)
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    assert metrics.ndcg(RANKED, GOLD, 5) == pytest.approx(found / ideal)
    assert metrics.ndcg(RANKED, GOLD, 1) == 1
    assert metrics.ndcg(["a"], ("a", "b"), 10) < 1


def test_ndcg_in_longmemevals_form_counts_the_first_two_ranks_alike():
    assert metrics.ndcg_longmemeval(["x", "a"], ("a",), 5) == 1
    assert metrics.ndcg_longmemeval(["x", "y", "a"], ("a",), 5) == pytest.approx(1 / log2(3))
    found = 1 + 1 / log2(3)
    assert metrics.ndcg_longmemeval(RANKED, GOLD, 5) == pytest.approx(found / (1 + 1 + 1 / log2(3)))
    assert metrics.ndcg_longmemeval(RANKED, (), 5) == 0


@pytest.mark.parametrize(("num_units", "num_gold"), [(6, 1), (6, 3), (5, 5), (3, 2)])
def test_chance_levels_are_the_means_over_all_orders(num_units, num_gold):
    ks = (1, 2, 5, 10)
    units = [str(unit) for unit in range(num_units)]
    orders = [metrics.score_ranking(order, units[:num_gold], ks) for order in permutations(units)]
    levels = metrics.chance_levels(num_units, num_gold, ks)
    assert set(levels) == set(orders[0])
    for name, level in levels.items():
        assert level == pytest.approx(np.mean([scores[name] for scores in orders])), name


def test_intervals_are_those_of_theory_and_repeat():
    values = np.concatenate([np.ones(300), np.zeros(100)])[:, None]
    ((low, high),) = metrics.bootstrap_intervals(values)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)
    assert metrics.bootstrap_intervals(values) == [(low, high)]
    assert metrics.bootstrap_intervals(values, seed=1) != [(low, high)]


def test_normalised_answers():
    assert metrics.normalise_answer("The  Cats, and a dog's 1,000 toys!") == "cats dogs 1000 toys"
    assert metrics.normalise_answer("and") == ""


def test_f1_over_stemmed_bags():
    assert metrics.token_f1("running in the parks", "she runs, parks") == pytest.approx(2 / 3)
    assert metrics.token_f1("red red car", "red car") == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert metrics.token_f1("May 7, 2023", "7 May 2023") == 1
    assert metrics.token_f1("", "anything") == 0
    assert metrics.token_f1("the", "a") == 0


def test_f1_by_category():
    assert metrics.locomo_f1("chess, red apples", "apple, chess, tea", 1) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics.locomo_f1("likely no", "Likely no; she never says so", 3) == 1
    assert metrics.locomo_f1("likely no", "Likely no; she never says so", 4) < 1
    assert metrics.locomo_f1("Not mentioned in the conversation", "self-care", 5) == 1
    assert metrics.locomo_f1("There is no information available.", "", 5) == 1
    assert metrics.locomo_f1("self-care", "self-care", 5) == 0


def test_exact_match_compares_sets():
    assert metrics.exact_match("dog the dog cat", "cat, dog") == 1
    assert metrics.exact_match("dog", "dogs") == 0
