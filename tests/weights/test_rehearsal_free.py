"""Each term against its formula, and what it holds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recollect.benchmarks.digits import small_vit
from recollect.errors import InvalidInput
from recollect.weights.batches import local_cross_entropy
from recollect.weights.learner import Learner
from recollect.weights.rehearsal_free import ATTENTION, RehearsalFree

from .conftest import copies, make_net, make_tasks


class Net6(torch.nn.Module):
    """A linear body and a linear head, without randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torch.nn.Linear(6, 4), torch.nn.Linear(4, 6)

    def forward(self, x):
        return self.head(self.body(x))


@torch.enable_grad()
def first_loss_of_the_second_task(method: RehearsalFree) -> tuple[float, Net6, Net6]:
    """(the loss of the first step of task 1, model before it, model after task 0): the weights are moved in between."""
    import copy

    one, two = make_tasks()
    learner = Learner(Net6(), [method], objective=local_cross_entropy, batch_rows=24, num_steps=3)
    learner.learn(one)
    old = copy.deepcopy(learner.model)
    with torch.no_grad():
        learner.model.body.weight += 0.1
        learner.model.head.weight += 0.2
    moved = copy.deepcopy(learner.model)
    seen: list[float] = []

    def stop(each: Learner) -> None:
        seen.append(float(each.last_loss))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.learn(two, progress=stop)
    return seen[0], moved, old


def own_loss(model: Net6) -> torch.Tensor:
    x, y = make_tasks()[1].train.tensors
    return F.cross_entropy(model(x)[:, 2:4], y - 2)


@torch.no_grad()
def test_predictions_are_distilled_over_the_old_classes():
    loss, moved, old = first_loss_of_the_second_task(RehearsalFree(prediction=0.5, temperature=2.0))
    x = make_tasks()[1].train.tensors[0]
    p, q = (old(x)[:, :2] / 2).softmax(1), (moved(x)[:, :2] / 2).softmax(1)
    term = 4 * (p * (p / q).log()).sum(1).mean()
    assert term > 0.001
    assert loss == pytest.approx(float(own_loss(moved) + 0.5 * term), abs=1e-5)


@torch.no_grad()
def test_features_are_distilled_before_the_head():
    loss, moved, old = first_loss_of_the_second_task(RehearsalFree(prediction=0.0, features=0.3))
    x = make_tasks()[1].train.tensors[0]
    term = (moved.body(x) - old.body(x)).pow(2).sum(1).mean()
    assert loss == pytest.approx(float(own_loss(moved) + 0.3 * term), abs=1e-5)


@torch.no_grad()
def test_l2_pulls_the_body_and_leaves_the_head():
    loss, moved, _ = first_loss_of_the_second_task(RehearsalFree(prediction=0.0, l2=2.0))
    assert loss == pytest.approx(float(own_loss(moved)) + 2.0 * 24 * 0.01, abs=1e-5)


@torch.no_grad()
def test_ewc_pulls_by_the_importances_that_add_up_over_tasks():
    method = RehearsalFree(prediction=0.0, ewc=5.0, fisher_rows=24)
    loss, moved, _ = first_loss_of_the_second_task(method)
    term = 0.01 * method.state["fisher"]["body.weight"].sum()
    assert term > 1e-4
    assert loss == pytest.approx(float(own_loss(moved) + 5.0 * term), abs=1e-5)


def test_a_strong_pull_holds_the_body_where_it_was():
    moved = []
    for strength in (0.0, 100.0):
        learner = Learner(make_net(), [RehearsalFree(prediction=0.0, l2=strength)], batch_rows=8, num_epochs=4)
        one, two = make_tasks()
        learner.learn(one)
        before = copies(learner.model)
        learner.learn(two)
        moved.append(float((learner.model.body[0].weight - before["body.0.weight"]).abs().max().detach()))
    assert moved[1] < moved[0] / 3


def test_the_attention_of_a_vision_transformer_is_chosen_by_name():
    learner = Learner(small_vit(4, width=12, layers=2))
    names = {name for name, _ in RehearsalFree(pattern=ATTENTION).penalised(learner)}
    assert len(names) == 2 * 3 * 2  # layers, projections, weight and bias
    assert all("attention" in name for name in names)
    assert len(RehearsalFree().penalised(learner)) == len(list(learner.named_parameters())) - 2


def test_the_old_model_is_kept_only_for_terms_that_need_it():
    for method, kept in ((RehearsalFree(), {"old", "classes"}), (RehearsalFree(prediction=0.0), {"classes"})):
        Learner(make_net(), [method]).learn(make_tasks()[0])
        assert set(method.state) == kept
    assert method.state["classes"] == [0, 1]


def test_settings_without_sense_are_refused():
    with pytest.raises(InvalidInput, match="l2: -1 is below 0"):
        RehearsalFree(l2=-1)
    learner = Learner(torch.nn.Conv1d(1, 1, 1), [RehearsalFree(l2=1.0)])
    with pytest.raises(InvalidInput, match="head: the model has no linear layer"):
        learner.methods[0].penalised(learner)  # type: ignore[attr-defined]
    assert RehearsalFree(head="body", l2=1.0).penalised(Learner(Net6())) != []
