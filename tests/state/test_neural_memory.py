"""The neural memory against gradients taken by autograd token by token, and what its parts do."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.neural_memory import NeuralMemory, look, read_and_write

B, H, L, SIZE = 2, 2, 6, 4


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("forget", [False, True])
def test_reading_by_attention_is_reading_with_every_token_s_weights(depth, momentum, forget):
    sizes = [SIZE, *[6] * (depth - 1), SIZE]
    shapes = list(pairwise(sizes))
    first, weights, pace = (
        [random(B, H, *shape, seed=10 * number + n) / 2 for n, shape in enumerate(shapes)] for number in (1, 2, 3)
    )
    q, k, v = (random(B, H, L, SIZE, seed=n) for n in (4, 5, 6))
    step = random(B, H, L, seed=7).sigmoid()
    eta, keep = (random(B, H, L, seed=n).sigmoid() for n in (8, 9))
    y, new, new_pace = read_and_write(
        q,
        k,
        v,
        step,
        eta.log() if momentum else None,
        keep.log() if forget else None,
        first,
        weights,
        pace if momentum else None,
        3.0,
    )
    clipped = 0
    expected, now, speed = [], weights, pace if momentum else [torch.zeros_like(each) for each in weights]
    for t in range(L):
        leaves = [each.clone().requires_grad_() for each in first]
        loss = (look(leaves, k[:, :, t : t + 1]) - v[:, :, t : t + 1]).square().sum()
        surprise = torch.autograd.grad(loss, leaves)
        length = sum(each.square().sum((-1, -2), keepdim=True) for each in surprise).sqrt()
        surprise = [each * (3.0 / length).clamp(max=1.0) for each in surprise]
        clipped += int((length > 3.0).sum())

        def gate(x, t=t):
            return x[:, :, t, None, None]

        speed = [(gate(eta) if momentum else 0.0) * s - gate(step) * u for s, u in zip(speed, surprise, strict=True)]
        now = [(gate(keep) if forget else 1.0) * w + s for w, s in zip(now, speed, strict=True)]
        expected.append(look(now, q[:, :, t : t + 1]))
    torch.testing.assert_close(y, torch.cat(expected, 2))
    for ours, theirs in zip(new, now, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(new_pace or [], speed, strict=False):
        torch.testing.assert_close(ours, theirs)
    assert 0 < clipped < B * H * L  # both sides of the clip were met
    assert (new_pace is not None) == momentum


def test_one_pair_is_learned_by_one_full_step():
    """Depth 1, a key of length 1, theta 1/2: the memory then says the value."""
    key, value = torch.tensor([0.6, 0.8]).view(1, 1, 1, 2), torch.tensor([3.0, -1.0]).view(1, 1, 1, 2)
    start = [torch.randn(1, 1, 2, 2)]
    y, weights, _ = read_and_write(key, key, value, torch.full((1, 1, 1), 0.5), None, None, start, start, None, 100.0)
    torch.testing.assert_close(y, value)
    torch.testing.assert_close(look(weights, key), value)


def test_without_learning_the_state_stays_and_is_small(x):
    layer = NeuralMemory(8, learn=False, conv_tokens=0)
    _, state = layer(x)
    assert torch.equal(state["weights"]["0"], layer.initial_state(3)["weights"]["0"])
    with_all = NeuralMemory(8, conv_tokens=0)
    assert with_all.state_bytes() - 8 == 3 * (layer.state_bytes() - 8)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="num_heads: 3 does not divide 8"):
        NeuralMemory(8, num_heads=3)
    with pytest.raises(InvalidInput, match="depth: depth, expansion and chunk_tokens count from 1"):
        NeuralMemory(8, depth=0)
