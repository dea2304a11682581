"""The climb goes where it says, as far as it says, and the step after it descends from there."""

from __future__ import annotations

import copy

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.weights.learner import Learner
from recollect.weights.refresh import Langevin, Refresh
from recollect.weights.replay import Replay

from .conftest import make_net, make_tasks


def in_a_task(method: Refresh, *others):
    net = make_net()
    net.body[3].p = 0.0
    learner = Learner(net, [*others, method], batch_rows=24)
    task = make_tasks()[0]
    learner.task, learner.task_name = task, task.name
    return learner, list(task.train.tensors)


def test_unlearning_moves_every_tensor_by_a_share_of_its_norm_along_the_gradient():
    learner, batch = in_a_task(Refresh(step=0.01, noise=0.0))
    before = copy.deepcopy(learner.model)
    loss = learner.loss_of(batch, learner.task)
    climb = torch.autograd.grad(loss, learner.model.head.weight)[0]
    learner.methods[0].before_step(learner, batch)
    moved = (learner.model.head.weight - before.head.weight).detach()
    weight = before.head.weight.detach()
    assert torch.allclose(moved, 0.01 * climb * weight.norm() / climb.norm(), atol=1e-6)
    with torch.no_grad():
        assert learner.loss_of(batch, learner.task) > loss
    assert torch.equal(learner.model.frozen.weight, before.frozen.weight)


def test_weights_that_mattered_are_unlearned_less():
    learner, batch = in_a_task(Refresh(step=0.01, noise=0.0, fisher_weight=1.0))
    names = [name for name, _ in learner.named_parameters()]
    learner.methods[0].state["fisher"] = {name: torch.tensor(1e9 if name == "head.weight" else 0.0) for name in names}
    before = copy.deepcopy(learner.model)
    learner.methods[0].before_step(learner, batch)
    assert torch.allclose(learner.model.head.weight, before.head.weight, atol=1e-8)
    assert not torch.allclose(learner.model.head.bias, before.head.bias, atol=1e-5)


def test_the_papers_step_is_preconditioned_and_its_noise_has_the_variance_of_the_equation():
    learner, batch = in_a_task(Langevin(step=1e-3, noise=0.0, damping=2.0))
    before = copy.deepcopy(learner.model)
    climb = torch.autograd.grad(learner.loss_of(batch, learner.task), learner.model.head.weight)[0]
    learner.methods[0].before_step(learner, batch)
    assert torch.allclose(learner.model.head.weight - before.head.weight, 1e-3 * climb / 2, atol=1e-7)

    method, wide = Langevin(step=1e-3, damping=2.0), torch.nn.Linear(100, 100)
    learner = Learner(wide)
    still = {"weight": torch.zeros(100, 100)}
    at = wide.weight.detach().clone()
    method.unlearn(learner, still, torch.Generator().manual_seed(0))
    assert float((wide.weight - at).var().detach()) == pytest.approx(2 * 1e-3 / 2, rel=0.1)


def test_the_full_objective_climbs_what_the_other_methods_add():
    replay = Replay(share=0.5)
    learner, batch = in_a_task(Refresh(objective="full"), replay)
    for row in range(4):
        replay.put(learner, None, (batch[0][row], batch[1][row]), 0)
    replay.share = 0.9
    full = learner.methods[1].direction(learner, batch)["head.weight"]
    learner.methods[1].objective = "current"
    current = learner.methods[1].direction(learner, batch)["head.weight"]
    assert not torch.allclose(full, current)


def test_importances_fade_from_task_to_task():
    learner = Learner(make_net(), [method := Refresh(fisher_keep=0.0, fisher_rows=4)], batch_rows=8)
    one, two = make_tasks()
    learner.learn(one)
    first = method.state["fisher"]["head.weight"].clone()
    learner.learn(two)
    assert not torch.allclose(method.state["fisher"]["head.weight"], first)


@pytest.mark.parametrize("wrong", [{"step": -1.0}, {"objective": "other"}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Refresh(**wrong)
