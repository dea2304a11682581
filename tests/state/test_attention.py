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
