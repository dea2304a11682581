"""Mixture of memories: what a token was not sent to does not change, the shares, the balance, the single memory inside."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state import mom
from recollect.state.mom import MixtureOfMemories


@pytest.mark.parametrize("update", ["linear", "decay", "delta", "gated-delta"])
def test_a_memory_that_no_token_was_sent_to_neither_changes_nor_decays(update, x):
    layer = MixtureOfMemories(8, num_memories=4, top_k=1, update=update)
    state = layer.initial_state(3)
    state["memory"] = torch.ones_like(state["memory"])
    _, after = layer(x[:, :1], state)
    (chosen,) = layer.route(x[:, :1])[:, 0, :4].argmax(-1)[:1].tolist()
    memory = after["memory"][0].unflatten(0, (5, 2))
    for number in range(5):
        assert torch.equal(memory[number], torch.ones_like(memory[number])) == (number not in (chosen, 4))


def test_shares_of_the_chosen_add_up_to_one_and_the_shared_memory_is_read_in_full(x):
    share = MixtureOfMemories(8, num_memories=5, top_k=2).route(x)
    assert ((share[..., :5] > 0).sum(-1) == 2).all()
    torch.testing.assert_close(share[..., :5].sum(-1), torch.ones(3, 21))
    assert (share[..., 5] == 1).all()


def test_the_balance_is_the_switch_s(x):
    layer = MixtureOfMemories(8, num_memories=4, top_k=2, balance=0.5)
    with torch.no_grad():
        layer.router.weight.zero_()
    layer(x)
    assert layer.auxiliary_loss.item() == pytest.approx(0.5 * 2)  # even chances: top_k
    layer.eval()
    layer(x)
    assert layer.auxiliary_loss is None


def test_without_routed_memories_it_is_one_memory_of_its_rule(x):
    layer = MixtureOfMemories(8, num_memories=0, update="linear", num_heads=1, conv_tokens=0)
    q, k, v = torch.nn.functional.silu(layer.project(x)).chunk(3, -1)
    read = (q @ k.mT).tril() @ v
    expected = layer.out(layer.norm(read) * torch.nn.functional.silu(layer.gate(x)))
    torch.testing.assert_close(layer(x)[0], expected)
    assert layer.state_bytes() == 8 * 8 * 4


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="top_k: 5 of 4 memories"):
        MixtureOfMemories(8, top_k=5)
    with pytest.raises(InvalidInput, match="top_k: 2 of 0 memories"):
        MixtureOfMemories(8, num_memories=0, shared=False)
    with pytest.raises(InvalidInput, match="update: 'ssm' is not known"):
        MixtureOfMemories(8, update="ssm")  # type: ignore[arg-type]


@pytest.mark.parametrize("update", ["linear", "decay", "delta", "gated-delta"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("unbalanced", [False, True])
def test_sorted_tokens_are_the_masked_ones(update, shared, unbalanced, x, monkeypatch):
    layer = MixtureOfMemories(8, num_memories=5, top_k=2, update=update, shared=shared, chunk_tokens=4)
    if unbalanced:
        with torch.no_grad():
            layer.router.weight.zero_()  # every token goes to the same two
    state = layer.initial_state(3)
    state["memory"] = torch.randn(state["memory"].shape, generator=torch.Generator().manual_seed(0))
    found, lengths = [], []
    run = mom.recurrence
    monkeypatch.setattr(
        mom, "recurrence", lambda *given, **more: lengths.append(given[0].shape[1]) or run(*given, **more)
    )
    for masked in (False, True):
        if masked:
            monkeypatch.setattr(layer, "_sorted", layer._masked)
        leaves = [x.clone().requires_grad_(), state["memory"].clone().requires_grad_()]
        y, after = layer(leaves[0], state | {"memory": leaves[1]})
        loss = sum(
            (each * (1 + torch.arange(each.numel()).view(each.shape) % 7)).sum() for each in (y, after["memory"])
        )
        found.append(
            [y, after["memory"], *torch.autograd.grad(loss, [*leaves, *layer.parameters()], allow_unused=True)]
        )
    for ours, twin in zip(*found, strict=True):
        assert (ours is None) == (twin is None)
        if ours is not None:
            torch.testing.assert_close(ours, twin, atol=2e-4, rtol=2e-4)
    assert (min(lengths) == x.shape[1]) == unbalanced
