"""The figures of a run are those of its matrix."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.continual import over_seeds, run
from recollect.benchmarks.digits import Perceptron, make_glyphs
from recollect.weights.learner import Learner
from recollect.weights.streams import split_classes


def test_a_runs_figures_are_those_of_the_matrix():
    data = make_glyphs(4, 10)
    tasks = split_classes(data, data, 2)
    found = []
    for way in ("run", "matrix"):
        learner = Learner(Perceptron(width=16, classes=4), optimizer=lambda p: torch.optim.SGD(p, 0.1), num_epochs=40)
        if way == "run":
            found.append(run(learner, tasks))
        else:
            for task in tasks:
                learner.learn(task)
            found.append({"accuracy": learner.report().accuracy(), "BWT": learner.report().backward_transfer()})
    assert found[0] == found[1]
    assert found[0]["BWT"] < 0


def test_runs_are_averaged_with_their_spread():
    values = over_seeds([{"accuracy": 0.5, "BWT": -0.2}, {"accuracy": 0.7, "BWT": 0.0}])
    assert values == pytest.approx({"accuracy": 0.6, "BWT": -0.1, "sd": 0.1414}, abs=1e-3)
    assert over_seeds([{"accuracy": 0.5}]) == {"accuracy": 0.5, "sd": 0.0}
