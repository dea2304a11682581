"""Importances against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from recollect.errors import InvalidInput
from recollect.weights.batches import local_cross_entropy
from recollect.weights.importance import add, anchor_of, fisher, penalty
from recollect.weights.learner import Learner

from .conftest import MadeTask, make_net


def test_the_penalty_is_the_weighed_square_of_the_way():
    layer = nn.Linear(2, 1)
    anchor = anchor_of(layer.named_parameters())
    with torch.no_grad():
        layer.weight += torch.tensor([[1.0, 2.0]])
        layer.bias += 3.0
    assert float(penalty(layer.named_parameters(), anchor).detach()) == pytest.approx(1 + 4 + 9, rel=1e-5)
    weights = {"weight": torch.tensor([[10.0, 1.0]]), "bias": torch.zeros(1)}
    assert float(penalty(layer.named_parameters(), anchor, weights).detach()) == pytest.approx(14, rel=1e-5)
    assert float(penalty([], anchor)) == 0.0


def logistic(rows: torch.Tensor, labels: list[int]) -> tuple[Learner, MadeTask]:
    layer = nn.Linear(2, 2, bias=False)
    data = TensorDataset(rows, torch.tensor(labels))
    return Learner(layer), MadeTask("one", data, data, (0, 1))


def test_the_fisher_of_a_logistic_model_is_p_times_one_minus_p_x_squared():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).repeat(2000, 1)
    learner, task = logistic(rows, [0, 1] * 2000)
    found = fisher(learner, task, 4000)["weight"]
    p = rows[:2] @ learner.model.weight.detach().T
    p = p.softmax(1)
    expected = ((p * (1 - p))[:, :, None] * rows[:2, None, :] ** 2).mean(0)
    assert torch.allclose(found, expected, rtol=0.1, atol=0.01)


def test_the_empirical_fisher_squares_each_rows_own_gradient():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    learner, task = logistic(rows, [0, 1, 1])
    p = (rows @ learner.model.weight.detach().T).softmax(1)
    rest = torch.eye(2)[[0, 1, 1]] - p
    by_hand = ((rest[:, :, None] * rows[:, None, :]) ** 2).mean(0)
    assert torch.allclose(fisher(learner, task, 10, "true")["weight"], by_hand, atol=1e-6)


def test_with_a_local_loss_other_classes_matter_nothing(tasks):
    learner = Learner(make_net(), objective=local_cross_entropy)
    found = fisher(learner, tasks[0], 8)
    assert set(found) == {name for name, _ in learner.named_parameters()}
    assert float(found["head.weight"][2:].abs().max()) == 0.0
    assert float(found["head.weight"][:2].abs().max()) > 0.0
    everywhere = fisher(Learner(make_net()), tasks[0], 8)
    assert float(everywhere["head.weight"][2:].abs().max()) > 0.0


def test_importances_add_up_and_fade():
    old, new = {"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}
    assert add(None, new) is new
    assert {name: float(each) for name, each in add(old, new, 0.5).items()} == {"a": 1.5, "b": 1.0}
    with pytest.raises(InvalidInput, match="labels: 'other' is not known"):
        fisher(Learner(make_net()), MadeTask("one", [], []), 1, "other")  # type: ignore[arg-type]
