"""Measures on a matrix computed by hand."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console

from recollect.errors import InvalidInput
from recollect.weights.metrics import Curve, Scores, fuar, retained

R = [[0.8, 0.2, 0.1], [0.5, 0.9, 0.3], [0.6, 0.7, 1.0]]


def scores(rows=R, **references):
    made = Scores([f"task {each}" for each in range(len(rows))], **references)
    for after, row in enumerate(rows):
        for task, score in enumerate(row):
            made.set(after, task, score)
    return made


def test_measures_of_a_matrix_are_those_computed_by_hand():
    made = scores(untrained={1: 0.1, 2: 0.1}, joint={0: 0.9, 1: 0.9, 2: 0.9})
    assert made.accuracy() == pytest.approx(2.3 / 3)
    assert made.accuracy(2) == pytest.approx(0.7)
    assert made.average_incremental() == pytest.approx((0.8 + 0.7 + 2.3 / 3) / 3)
    assert made.backward_transfer() == pytest.approx(((0.6 - 0.8) + (0.7 - 0.9)) / 2)
    assert made.backward_transfer(divisor="t") == pytest.approx(-0.4 / 3)
    assert made.backward_transfer(2) == pytest.approx(-0.3)
    assert made.forward_transfer() == pytest.approx(((0.2 - 0.1) + (0.3 - 0.1)) / 2)
    assert made.forgetting() == pytest.approx(((0.8 - 0.6) + (0.9 - 0.7)) / 2)
    assert made.intransigence() == pytest.approx(-0.1)
    assert made.omega() == pytest.approx(
        {"base": (0.5 + 0.6) / 2 / 0.9, "new": (0.9 + 1.0) / 2, "all": (0.7 + 2.3 / 3) / 2 / 0.9}
    )
    assert list(made.summary()) == ["ACC", "AIA", "BWT", "FWT", "forgetting", "intransigence"]


def test_one_task_has_forgotten_nothing_and_what_was_not_measured_is_not_summed_up():
    made = scores([[0.5]])
    assert (made.forgetting(), made.backward_transfer(), made.accuracy()) == (0, 0, 0.5)
    assert list(made.summary()) == ["ACC", "AIA", "BWT", "forgetting"]
    for measure in (made.forward_transfer, made.intransigence, made.omega):
        with pytest.raises(InvalidInput, match=r"^(untrained|joint): "):
            measure()


@given(some.lists(some.lists(some.floats(0, 1), min_size=4, max_size=4), min_size=4, max_size=4))
def test_forgetting_is_at_least_what_backward_transfer_loses(rows):
    made = scores(rows)
    assert made.forgetting() >= -made.backward_transfer() - 1e-12


def test_scores_that_cannot_be_are_refused():
    made = Scores(["a", "b"])
    for arguments, match in (
        ((0, 2, 0.5), "^task: 2"),
        ((-1, 0, 0.5), "^after: -1"),
        ((0, 0, float("nan")), "^score: "),
    ):
        with pytest.raises(InvalidInput, match=match):
            made.set(*arguments)
    with pytest.raises(InvalidInput, match=r"^trained: 0 tasks"):
        made.accuracy()
    made.set(1, 1, 0.5)
    with pytest.raises(InvalidInput, match="task 0 was not tested after task 1"):
        made.accuracy()


def test_scores_are_the_same_after_json():
    made = scores(untrained={1: 0.1, 2: 0.2})
    assert Scores.from_json(made.to_json()) == made


def test_the_report_shows_every_score_and_every_measure():
    out = io.StringIO()
    Console(file=out, width=120).print(scores())
    shown = out.getvalue()
    assert all(f"{score:.3f}" in shown for row in R for score in row)
    assert "forgetting 0.200" in shown
    assert "task 2" in shown


def test_fuar_is_what_was_lost_over_what_was_gained():
    assert fuar([(1.0, 0.5), (0.2, 0.4)], [(0.0, 0.5)], [(0.0, 0.5)]) == pytest.approx(0.5)
    with pytest.raises(InvalidInput, match="nothing was gained"):
        fuar([(1.0, 0.5)], [(0.5, 0.5)], [(0.6, 0.5)])


def test_retained_is_the_mean_change():
    assert retained([0.5, 0.7], [0.4, 0.4]) == pytest.approx(-0.2)
    with pytest.raises(InvalidInput, match="2 before and 1 after"):
        retained([0.5, 0.7], [0.4])


def test_a_curve_is_normalised_and_tells_when_it_reaches_and_when_it_halves():
    curve = Curve(reference=0.8)
    for step, score in ((1, 0.2), (2, 0.8), (5, 0.5), (9, 0.4)):
        curve.add(step, score)
    assert curve.normalised() == pytest.approx([0.25, 1.0, 0.625, 0.5])
    assert curve.reaches(0.9) == 2
    assert curve.reaches(1.1) is None
    assert curve.half_life() == 7
    assert Curve().half_life() is None
    with pytest.raises(InvalidInput, match="step: 9 does not come after 9"):
        curve.add(9, 0.1)
