"""Importances by hand, and plateaus found where they are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from recollect.errors import InvalidInput
from recollect.weights.learner import Learner
from recollect.weights.mas import MAS, TaskFreeMAS, sensitivity

from .conftest import MadeTask, copies, make_net, make_tasks


def test_the_importance_is_the_mean_absolute_gradient_of_the_squared_output():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # outputs 1 and -1, gradients 2 * (1, 0) and -2 * (1, 1)
    data = TensorDataset(rows, torch.zeros(2, dtype=torch.long))
    found = sensitivity(Learner(layer), data, [0, 1])
    assert found["weight"].tolist() == [[2.0, 1.0]]  # |2| and |-2|, |0| and |-2|: signs do not cancel


def test_of_language_models_the_logits_are_centred():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.scale = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.scale * x + self.shift

    data = TensorDataset(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, dtype=torch.long))
    found = sensitivity(Learner(Shifted()), data, [0])
    assert found["shift"].tolist() == [0.0]
    assert found["scale"].tolist() == [4.0]  # (s * 1)^2 + (s * -1)^2


def test_the_penalty_holds_weights_and_adds_up_over_tasks(tasks):
    moved = []
    for strength in (0.0, 5.0):
        learner = Learner(
            make_net(),
            [method := MAS(strength, num_rows=8)],
            optimizer=lambda each: torch.optim.SGD(each, lr=0.02),
            batch_rows=8,
            num_epochs=20,
        )
        learner.learn(tasks[0])
        before, first = copies(learner.model), method.state["omega"]["head.weight"].clone()
        learner.learn(tasks[1])
        moved.append(float((first * (learner.model.head.weight.detach() - before["head.weight"]) ** 2).sum()))
        assert (method.state["omega"]["head.weight"] >= first).all()
    assert moved[1] < moved[0] / 3
    with pytest.raises(InvalidInput, match="strength: -1"):
        MAS(-1)


def feed(method: TaskFreeMAS, losses: list[float]) -> list[int]:
    """Steps after which the method has consolidated, on these losses."""
    learner, found = Learner(make_net()), []
    batch = [make_tasks()[0].train.tensors[0][:2], torch.tensor([0, 1])]
    for step, loss in enumerate(losses):
        before = method.num_consolidations
        method.loss(learner, batch, torch.tensor(loss))
        method.after_step(learner, batch)
        if method.num_consolidations > before:
            found.append(step)
    return found


def test_it_consolidates_once_on_each_plateau_and_again_only_after_a_peak():
    method = TaskFreeMAS(window=3, plateau_mean=0.2, plateau_variance=0.01, hard_rows=3)
    falling, flat, peak = [2.0, 1.0, 0.5], [0.1] * 6, [3.0, 2.0, 0.6]
    assert feed(method, [*falling, *flat, *peak, *flat]) == [5, 14]
    steady = TaskFreeMAS(window=3, plateau_mean=0.2, plateau_variance=0.01)
    assert feed(steady, [0.1] * 12) == [2]
    assert feed(TaskFreeMAS(window=3), [1.0] * 12) == []


def test_the_hardest_rows_are_kept_and_importances_are_averaged():
    method, learner = TaskFreeMAS(hard_rows=2), Learner(net := make_net())
    x, y = make_tasks()[0].train.tensors
    with torch.no_grad():
        net.eval()
        losses = nn.functional.cross_entropy(net(x), y, reduction="none")
    for start in range(0, 24, 8):
        method._keep_hard(learner, [x[start : start + 8], y[start : start + 8]])
    hardest = x[losses.topk(2).indices]
    kept = method.state["hard"][0]
    assert torch.equal(kept[kept[:, 0].argsort()], hardest[hardest[:, 0].argsort()])
    method._consolidate(learner)
    first = method.state["omega"]["head.weight"].clone()
    method._consolidate(learner)
    assert torch.allclose(method.state["omega"]["head.weight"], first)  # half of it, and half of the same again


def test_it_never_looks_at_a_task(tasks):
    assert "before_task" not in vars(TaskFreeMAS)
    assert "after_task" not in vars(TaskFreeMAS)
    joined = SimpleNamespace(name="all", train=tasks[0].train, test=tasks[0].test)
    learner = Learner(make_net(), [method := TaskFreeMAS(plateau_mean=5.0, plateau_variance=5.0)], batch_rows=4)
    learner.learn(MadeTask(**vars(joined)))
    assert method.num_consolidations == 1
