"""The trainer: it learns, goes on exactly where it was cut off, and truncated segments add up."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import Conflict, InvalidInput
from recollect.state.layer import detach
from recollect.state.lm import memory_lm
from recollect.state.trainer import CHECKPOINT, STEADY, Plan, segments, train

PLAN = Plan(num_steps=12, learning_rate=1e-2, warmup_steps=2, save_steps=5)


def make():
    return memory_lm(12, 8, ["linear-attention", "lstm"])


def loss_of(model, stop_at=None):
    """Counting up, from a start that a step's random numbers choose."""

    def loss(step):
        if step == stop_at:
            raise KeyboardInterrupt
        ids = (torch.randint(12, (4, 1)) + torch.arange(9)) % 12
        return model(ids, labels=ids).loss

    return loss


def test_it_learns_and_leaves_the_mode_and_the_random_numbers_as_they_were():
    model = make().eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    losses = train(model, loss_of(model), PLAN)
    assert torch.equal(torch.rand(1), expected)
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.1
    assert not model.training


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(tmp_path):
    whole, model = make(), make()
    expected = train(whole, loss_of(whole), PLAN)
    with pytest.raises(KeyboardInterrupt):
        train(model, loss_of(model, stop_at=8), PLAN, tmp_path)
    fresh, seen = make(), []
    losses = train(fresh, loss_of(fresh), PLAN, tmp_path, lambda step, total, what: seen.append(step))
    assert seen == [6, 7, 8, 9, 10, 11, 12]
    assert losses == pytest.approx(expected, abs=1e-6)
    for ours, theirs in zip(fresh.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert train(make(), loss_of(fresh, stop_at=0), PLAN, tmp_path) == losses
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_of_another_plan_or_model_is_refused(tmp_path):
    model = make()
    train(model, loss_of(model), PLAN, tmp_path)
    with pytest.raises(Conflict, match=r"learning_rate: the checkpoint in .* was made with 0\.01, not 0\.003"):
        train(model, loss_of(model), Plan(num_steps=12, warmup_steps=2), tmp_path)
    other = memory_lm(12, 8, ["lstm"])
    with pytest.raises(Conflict, match="is of another model"):
        train(other, loss_of(other), PLAN, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run():
    model = make()
    with pytest.raises(InvalidInput, match="learning_rate: the loss is nan at step 0"):
        train(model, lambda step: model.embed.weight.sum() * float("nan"), PLAN)


def test_a_run_that_has_learned_ends_and_is_not_taken_up_again(tmp_path):
    model, plan = make(), Plan(num_steps=80, learning_rate=1e-4, enough=100.0)
    losses = train(model, loss_of(model), plan, tmp_path)
    assert len(losses) == STEADY
    assert train(make(), loss_of(model, stop_at=STEADY), plan, tmp_path) == losses
    assert not plan.is_over([99.0] * 20 + [101.0] + [99.0] * (STEADY - 1))
    assert plan.is_over([101.0] + [99.0] * STEADY)
    assert not Plan(num_steps=80).is_over([0.0] * 79)


def test_segments_add_up_and_their_gradient_stops_at_borders():
    model = make().train()
    ids = torch.randint(12, (2, 11))
    whole = model(ids, labels=ids).loss
    torch.testing.assert_close(sum(segments(model, ids, 4)), whole)
    model.zero_grad()
    for part in segments(model, ids, 4):
        part.backward()
    cut = model.embed.weight.grad.clone()
    model.zero_grad()
    whole.backward()
    assert (cut - model.embed.weight.grad).abs().max() > 1e-5
    state = model(ids, use_cache=True).cache
    assert not any(each.requires_grad for each in detach(state.states)["1"].values())


def test_parameters_with_a_rate_of_their_own(monkeypatch):
    """A factor of zero leaves a weight where it was; decay touches matrices without a factor alone."""
    from recollect.state.rnn import LSTM

    monkeypatch.setattr(LSTM, "rate_factors", lambda self: {"cell.weight_hh_l0": 0.0})
    model = make()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, loss_of(model), PLAN)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == before.keys() - {"blocks.1.layer.cell.weight_hh_l0"}
