"""Runs of a claim: means and spreads of the rows, one process or several."""

import pytest

from recollect.claims.claim import Setting
from recollect.claims.runs import Run, averages, grid


def work(run: Run, setting: Setting, progress) -> dict[str, float]:
    progress("working")
    return {run.part or "value": run.seed + {"a": 0.0, "b": 10.0}[run.name]}


def test_the_grid_has_each_name_with_each_part_and_seed():
    assert grid(["a"], [0, 1], ["x", "y"]) == [Run("a", 0, "x"), Run("a", 1, "x"), Run("a", 0, "y"), Run("a", 1, "y")]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_name_comes_with_its_means_when_all_its_runs_are_done(workers):
    told = []
    found = dict(averages(work, grid("ab", range(3)), Setting(workers=workers), told.append))
    assert found == {"a": {"value": 1.0}, "b": {"value": 11.0}}
    assert "6 of 6 runs done" in told[-1]
    assert ("a, seed 0, working" in told) == (workers == 1)


def test_parts_become_values_of_one_row_and_the_spread_is_over_seeds():
    found = dict(averages(work, grid("a", [1, 3], ["x", "y"]), Setting(), lambda line: None, spread=True))
    assert found == {"a": {"x": 2.0, "y": 2.0, "x spread": pytest.approx(2**0.5), "y spread": pytest.approx(2**0.5)}}


def test_one_seed_has_no_spread():
    assert dict(averages(work, grid("a", [1]), Setting(), lambda line: None, spread=True))["a"]["value spread"] == 0
