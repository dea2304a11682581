"""MIGU: which units are masked, that the first task is plain, and that adapters are ranked as the paper says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recollect.errors import InvalidInput
from recollect.weights.learner import Learner
from recollect.weights.migu import MIGU, diagnose, profiles, strongest

from .conftest import copies, make_net, make_tasks


def learn(method, num_tasks=2, model=None):
    learner = Learner(
        model or make_net(), [method], optimizer=lambda each: torch.optim.SGD(each, lr=0.1), batch_rows=24, num_steps=1
    )
    states = [copies(learner.model)]
    for task in make_tasks(num_tasks):
        learner.learn(task)
        states.append(copies(learner.model))
    return states


def moved(before, after, name):
    """Which rows of a weight changed."""
    return (before[name] != after[name]).flatten(1).any(1)


def test_the_weakest_units_of_a_layer_are_masked_and_of_equal_ones_the_first():
    assert strongest(torch.tensor([3.0, 1.0, 2.0, 5.0]), 0.5).tolist() == [True, False, False, True]
    assert strongest(torch.zeros(4), 0.5).tolist() == [False, False, True, True]
    assert strongest(torch.ones(10), 0.7).sum() == 3


def test_the_first_task_is_plain_and_later_ones_move_the_strongest_units_only():
    _, first, second = learn(MIGU(threshold=0.75))
    plain = learn(MIGU.idle())
    assert torch.equal(first["body.0.weight"], plain[1]["body.0.weight"])
    changed = moved(first, second, "body.0.weight")
    assert changed.sum() == 2
    model = make_net()
    model.load_state_dict(first)
    inputs, _ = make_tasks()[1].train.tensors
    magnitudes = model.body[0](model.frozen(inputs)).abs().sum(0)
    assert torch.equal(changed, strongest(magnitudes, 0.75))
    assert torch.equal(moved(first, second, "body.0.weight"), first["body.0.bias"] != second["body.0.bias"])


def test_controls_move_as_many_units_but_others():
    runs = {choose: learn(MIGU(threshold=0.75, choose=choose)) for choose in ("strongest", "weakest", "random")}
    units = {choose: moved(states[1], states[2], "body.0.weight") for choose, states in runs.items()}
    assert all(each.sum() <= 2 for each in units.values())
    assert not torch.equal(units["strongest"], units["weakest"])


def test_no_hook_stays_and_padding_does_not_count():
    model = nn.Linear(3, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4, 3))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x, attention_mask=None):
            return self.inner(x)

    wrapped = Wrapped()
    x = torch.tensor([[[1.0, 0, 0], [0, 9, 0]]])
    found = profiles(wrapped, [{"x": x, "attention_mask": torch.tensor([[1, 0]])}])
    assert found["inner"].tolist() == [1, 0, 0, 0]
    assert not model._forward_hooks


def test_adapters_are_ranked_by_their_own_output_and_by_that_of_the_whole_layer():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(make_net(), peft.LoraConfig(r=4, target_modules=["0"]))
    states = learn(MIGU(threshold=0.5), model=model)
    name = next(each for each in states[1] if "lora_A" in each)
    assert moved(states[1], states[2], name).sum() == 2
    assert moved(states[1], states[2], name.replace("lora_A", "lora_B")).sum() == 4


def test_the_premise_is_measured_by_rank_correlation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 40))
    one, two = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 0, 0, 1.0])
    tasks = [[(each + 0.01 * torch.randn(8, 4), None) for _ in range(4)] for each in (one, two)]
    within, between = diagnose(model, tasks)
    assert within > 0.9
    assert between < 0.6


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match=r"threshold: 1 is not in \[0, 1\)"):
        MIGU(threshold=1)
    with pytest.raises(InvalidInput, match="choose: 'best'"):
        MIGU(choose="best")
