"""Plots of learning are written, come out the same twice, and show what was measured."""

from __future__ import annotations

import pytest

from recollect.benchmarks.learning_plots import draw_curves, draw_matrix, draw_tasks
from recollect.weights.metrics import Scores

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def some_scores():
    scores = Scores(["red", "blue"])
    for after, task, score in ((0, 0, 0.91), (1, 0, 0.32), (1, 1, 0.83)):
        scores.set(after, task, score)
    return scores


def test_the_matrix_shows_each_measured_score(tmp_path):
    path = draw_matrix(some_scores(), tmp_path, "matrix", "plain")
    text = path.read_text("utf-8")
    assert all(f"<!-- {shown} -->" in text for shown in ("0.91", "0.32", "0.83", "red", "blue", "plain"))
    assert "<!-- nan -->" not in text
    assert draw_matrix(some_scores(), tmp_path / "again", "matrix", "plain").read_bytes() == path.read_bytes()


def test_tasks_and_curves_are_drawn_with_their_names(tmp_path):
    text = draw_tasks({"plain": some_scores(), "replay": some_scores()}, tmp_path, "tasks").read_text("utf-8")
    assert all(f"<!-- {shown} -->" in text for shown in ("plain", "replay", "red", "blue"))
    curves = {"kept": ([0, 1, 10], [1.0, 0.5, 0.2])}
    path = draw_curves(curves, tmp_path, "curves", ("updates", "recall"), logarithmic=True)
    assert all(f"<!-- {shown} -->" in path.read_text("utf-8") for shown in ("kept", "updates", "recall"))
