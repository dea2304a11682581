"""LongVQ is softmax attention over quantised keys, whatever of the past is kept as counts and means."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.longvq import LongVQ

LENGTH = 150


@pytest.fixture
def layer():
    torch.manual_seed(0)
    made = LongVQ(8, codebook_size=16, window_tokens=32, key_size=8, num_averages=4, chunk_tokens=24).eval()
    with torch.no_grad():
        made.near.normal_()
        made.around.weight.normal_()
    return made


def quadratic(layer, x):
    """The definition: every query against every quantised key before it, with a bias in the window."""
    smooth, _ = layer.average(x, layer.initial_state(len(x))["average"])
    z = F.silu(smooth)
    base = F.silu(layer.base(z))
    q, k = (layer._normed(base * layer.scale[each] + layer.offset[each]) for each in (0, 1))
    k = layer.codes[layer.quantise(k)]
    at = torch.arange(x.shape[1])
    distance = at[:, None] - at
    scores = q @ k.mT
    scores = scores + torch.where(distance < 32, layer.near[distance.clamp(0, 31)], 0.0)
    y = torch.softmax(scores.masked_fill(distance < 0, -torch.inf), -1) @ F.silu(layer.value(x))
    y = F.silu(layer.out(F.silu(layer.gate(z)) * layer.said(y)) + layer.around(z))
    return layer.update(z).sigmoid() * y


@pytest.mark.parametrize("chunk_tokens", [1, 24, 200])
def test_it_equals_the_quadratic_definition(layer, chunk_tokens):
    x = torch.randn(2, LENGTH, 8)
    layer.chunk_tokens = chunk_tokens
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], quadratic(layer, x), atol=1e-5, rtol=1e-4)


def test_the_state_counts_what_left_the_window_and_does_not_grow(layer):
    with torch.no_grad():
        _, state = layer(torch.randn(1, LENGTH, 8))
    assert state["counts"].sum() == LENGTH - 32
    assert layer.state_bytes(10) == layer.state_bytes(10**6)


def test_in_training_it_asks_for_the_codebook_to_follow_the_keys(layer):
    x = torch.randn(2, 40, 8)
    layer(x)
    assert layer.auxiliary_loss is None
    layer.train()
    optimizer, losses = torch.optim.Adam([layer.codes], lr=0.03), []
    for _ in range(5):
        layer(x)
        losses.append(layer.auxiliary_loss.item())
        layer.zero_grad()
        layer.auxiliary_loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_the_nearest_code_word_is_taken(layer):
    keys = layer.codes.detach()[None, [3, 11, 3]] + 0.01
    assert layer.quantise(keys).tolist() == [[3, 11, 3]]
    with pytest.raises(InvalidInput, match="codebook_size: 0 is too small"):
        LongVQ(8, codebook_size=0)
