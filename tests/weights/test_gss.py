"""A full memory takes in rows that oppose what it has, and gives up those that have company."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils.data import TensorDataset

from recollect.weights.gss import GSS
from recollect.weights.learner import Learner

from .conftest import MadeTask


class Linear(torch.nn.Module):
    """A logistic model without bias: a row's gradient is (p - y) x."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.zero_()

    def forward(self, x):
        return self.head(x)


def still(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def test_scores_are_the_greatest_cosine_with_what_is_there():
    learner = Learner(Linear(), [method := GSS(capacity=5)], optimizer=still)
    rows = [(torch.tensor([1.0, 0.0]), 0), (torch.tensor([2.0, 0.0]), 0), (torch.tensor([1.0, 0.0]), 1)]
    for step, (x, y) in enumerate(rows):
        learner.step = step
        method.offer(learner, (x, torch.tensor(y)), y, torch.Generator().manual_seed(0))
    # nothing to compare with; the same direction: cosine 1; the opposite label: cosine -1
    assert [round(each, 4) for each in method.state["scores"]] == [0.0, 1.0, 0.0]


def test_it_keeps_directions_that_a_reservoir_would_lose():
    """90 rows of one direction, then 10 of the opposite one."""
    x = torch.tensor([[1.0, 0.0]]).repeat(100, 1) + 0.01 * torch.randn(
        100, 2, generator=torch.Generator().manual_seed(0)
    )
    y = torch.tensor([0] * 90 + [1] * 10)
    data = [TensorDataset(x[:90], y[:90]), TensorDataset(x[90:], y[90:])]
    counts: Counter[int] = Counter()
    for seed in range(5):
        learner = Learner(Linear(), [method := GSS(capacity=6, share=0.0)], optimizer=still, batch_rows=5, seed=seed)
        for name, part in zip("ab", data, strict=True):
            learner.learn(MadeTask(name, part, part))
        assert len(method.state["rows"]) == len(method.state["scores"]) == 6
        counts.update(method.state["labels"])
    assert counts[1] >= 5  # at least one of six, where the reservoir expects 0.6


def test_a_row_like_those_that_are_there_does_not_enter_a_full_memory():
    x, y = torch.tensor([[1.0, 0.0]]).repeat(30, 1), torch.zeros(30, dtype=torch.long)
    learner = Learner(Linear(), [method := GSS(capacity=4, share=0.0)], optimizer=still, batch_rows=5)
    data = TensorDataset(x * torch.arange(1, 31)[:, None], y)
    learner.learn(MadeTask("one", data, data))
    first = {float(row[0][0]) for row in method.state["rows"]}
    order = torch.Generator().manual_seed(0)
    for step in range(5):
        learner.step = 100 + step
        method.offer(learner, (torch.tensor([50.0, 0.0]), torch.tensor(0)), 0, order)
    assert {float(row[0][0]) for row in method.state["rows"]} == first
    assert method.forget("one") == 4
    assert method.state["scores"] == []


def test_a_pattern_limits_the_gradients():
    learner = Learner(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)))
    row = (torch.ones(2), torch.tensor(0))
    assert len(GSS(pattern=r"^1\.")._gradient(learner, row)) == 8
    assert len(GSS()._gradient(learner, row)) == 17
