"""Mixture of memories: what a token was not sent to does not change, the shares, the balance, the single memory inside."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
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
