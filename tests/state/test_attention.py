"""Plain attention by its definition; the window; positions are relative."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.attention import Attention


def test_outputs_are_softmax_of_rotated_products(x):
    layer = Attention(8, num_heads=1)
    q, k, v = layer.project(x).chunk(3, -1)
    angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    turn = torch.polar(torch.ones_like(angle), angle)

    def turned(given):
        both = torch.complex(given[..., :4], given[..., 4:]) * turn
        return torch.cat([both.real, both.imag], -1)

    scores = turned(q) @ turned(k).mT / 8**0.5
    scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(layer(x)[0], layer.out(scores.softmax(-1) @ v))


def test_a_window_sees_its_last_tokens_only(x):
    layer = Attention(8, window_tokens=5)
    y, state = layer(x)
    assert state["keys"].shape[1] == 5
    torch.testing.assert_close(layer(x[:, 3:8])[0][:, -1], y[:, 7])  # distances count, not places
    changed = x.clone()
    changed[:, 0] += 1
    torch.testing.assert_close(layer(changed)[0][:, 5:], y[:, 5:])
    assert (layer(changed)[0][:, 4] - y[:, 4]).abs().max() > 1e-5


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="num_heads: 3 heads"):
        Attention(8, num_heads=3)


def read(layer, x, cuts, reset=None):
    """Outputs, the state, and the gradients by x and parameters, of reading x in pieces cut before each of `cuts`."""
    x, state, outputs = x.clone().requires_grad_(), None, []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        y, state = layer(x[:, start:end], state, None if reset is None else reset[:, start:end])
        outputs.append(y)
    y = torch.cat(outputs, 1)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()])
    return [y, state["keys"], state["values"], *grads]


@pytest.mark.parametrize("window", [1, 2, 5, 8])
@pytest.mark.parametrize("persistent", [0, 3])
@pytest.mark.parametrize("resets", [False, True])
def test_blocks_are_the_masked_window(x, window, persistent, resets):
    """Pieces no longer than the window are masked as a whole, longer ones in blocks."""
    layer = Attention(8, num_heads=2, window_tokens=window, num_persistent=persistent)
    reset = torch.zeros(x.shape[:2], dtype=torch.bool)
    reset[1, 3] = reset[0, 11] = resets
    masked = read(layer, x, list(range(window, x.shape[1], window)), reset)
    for cuts in ([], [3], [2 * window + 1]):
        for ours, other in zip(read(layer, x, cuts, reset), masked, strict=True):
            torch.testing.assert_close(ours, other)


def test_blocks_grow_with_tokens_and_not_with_their_square():
    layer = Attention(8, window_tokens=4)
    heads = torch.zeros(1, 400, 2, 4)
    *_, mask = layer._in_blocks(heads, heads, heads, heads, layer.initial_state(1))
    assert mask.numel() == 400 * 2 * 4
