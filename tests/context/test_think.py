"""ThinK: equal to the paper's formula in plain loops, the bytes it promises, and what it keeps, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recollect.context.think import ThinK
from recollect.errors import InvalidInput

from .conftest import LENGTH, logits_of, make_model
from .test_attention import make_layer

D = 8


def turn(x: torch.Tensor, positions: torch.Tensor | slice, length: int = 0) -> torch.Tensor:
    """Rotary positions by complex numbers: channel j turns with channel j + D / 2."""
    if isinstance(positions, slice):
        positions = torch.arange(length)[positions]
    angles = positions.float()[:, None] * 10.0 ** -torch.arange(D // 2)
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def by_the_paper(queries, keys, values, split: int, observed: int, kept: int, scaling: float) -> torch.Tensor:
    """Output [H, D] of the last query, when the keys before `split` were thinned as the paper says at the end of a prompt.

    The prompt is all but the last token. Queries [H, N, D], keys and values [G, N, D], turned; one number at a time.
    """
    H, N, _ = queries.shape
    G = keys.shape[0]
    outputs = []
    for head in range(H):
        group = head // (H // G)
        norms = []
        for j in range(D):
            square = 0.0
            for other in range(group * H // G, (group + 1) * H // G):
                product = torch.outer(queries[other, N - 1 - observed : N - 1, j], keys[group, : N - 1, j])
                square += float(product.square().sum())
            norms.append(math.sqrt(square))
        channels = sorted(range(D), key=lambda j: -norms[j])[:kept]
        scores = []
        for token in range(N):
            use = channels if token < split else range(D)
            dot = sum(float(queries[head, N - 1, j] * keys[group, token, j]) for j in use)
            scores.append(dot * scaling)
        weights = torch.tensor(scores).softmax(0)
        outputs.append((weights[:, None] * values[group]).sum(0))
    return torch.stack(outputs)


@pytest.mark.parametrize(("ratio", "kept"), [(0.4, 4), (0.5, 4), (0.75, 2), (0.0, 8)])
def test_it_equals_the_papers_formula_in_plain_loops(ratio, kept):
    generator = torch.Generator().manual_seed(0)
    H, G, N, recent, observed = 4, 2, 20, 5, 6
    queries, keys, values = (torch.randn(1, heads, N, D, generator=generator) for heads in (H, G, G))
    keys *= torch.rand(D, generator=generator) * 3  # channels of different weight
    policy = ThinK(ratio=ratio, num_observed_queries=observed, recent_tokens=recent, batch_tokens=1)
    layer = make_layer(rotate=turn, scaling=D**-0.5)
    prompt, step = slice(0, N - 1), slice(N - 1, N)
    policy.attend(layer, queries[:, :, prompt], keys[:, :, prompt], values[:, :, prompt])
    layer = replace(layer, num_read=N - 1)
    ours = policy.attend(layer, queries[:, :, step], keys[:, :, step], values[:, :, step])[0, :, 0]
    at = torch.arange(N)
    expected = by_the_paper(
        turn(queries[0], at), turn(keys[0], at), values[0], N - 1 - recent, observed, kept, layer.scaling
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_old_keys_take_the_bytes_of_the_channels_kept(model, ids):
    sizes = {}
    for ratio in (0.0, 0.5):
        policy = ThinK(ratio=ratio, recent_tokens=4, batch_tokens=4, num_observed_queries=4)
        with policy.attach(model) as memory:
            memory.read(ids)
            sizes[ratio] = memory.size_bytes().device
            state = memory.memory.units[0].layers[0]
    assert state["thin_keys"].shape == (2, 2, LENGTH - 4, 4)
    layers, rows, heads, float32, int64 = 2, 2, 2, 4, 8
    assert sizes[0.0] - sizes[0.5] == layers * rows * heads * ((LENGTH - 4) * 4 * float32 + 4 * int64)


@pytest.mark.parametrize("chunk", [3, 8, 512])
def test_nothing_pruned_is_plain_attention_however_it_is_read(ids, chunk):
    model = make_model()
    policy = ThinK(ratio=0.0, recent_tokens=2, batch_tokens=3, num_observed_queries=2, chunk_tokens=chunk)
    with policy.attach(model):
        ours = logits_of(model, ids)
    torch.testing.assert_close(ours, logits_of(model, ids), atol=1e-5, rtol=1e-5)


def test_a_turn_of_several_tokens_meets_old_keys_as_single_ones_do(model, ids):
    policy = ThinK(ratio=0.5, recent_tokens=4, batch_tokens=8, num_observed_queries=4)
    with policy.attach(model) as memory:
        memory.read(ids[:, :16])
        kept = memory.memory
        together = logits_of(model, ids[:, 16:20], cache=kept.copy())
        single = [logits_of(model, ids[:, at : at + 1], cache=kept) for at in range(16, 20)]
    torch.testing.assert_close(together, torch.cat(single, dim=1), atol=1e-5, rtol=1e-5)
    assert (together - logits_of(model, ids[:, :20])[:, 16:]).abs().max() > 1e-3


def test_the_channels_of_greatest_product_are_kept_not_those_of_greatest_keys():
    queries = torch.tensor([[[[1.0, 0.1, 2.0, 0.0]], [[1.0, 0.1, 0.0, 0.0]]]])  # two heads of one group
    keys = torch.tensor([[[[1.0, 5.0, 1.0, 9.0]]]])
    score = ThinK().score(queries, keys)
    assert torch.allclose(score, torch.tensor([[[1.0, 0.25, 2.0, 0.0]]]))
    huge = ThinK().score(queries.half() * 300, keys.half() * 300)
    assert torch.isfinite(huge).all()  # squares of outlier channels do not overflow


def test_each_head_keeps_the_old_tokens_that_got_most_attention():
    policy = ThinK(ratio=0.0, recent_tokens=1, batch_tokens=1, num_observed_queries=1, num_kept_tokens=2)
    layer = make_layer(scaling=1.0)
    keys = torch.zeros(1, 2, 5, 2)
    keys[0, 0, [1, 2], 0] = 8.0  # what the queries of the first head look at
    keys[0, 1, [0, 1], 0] = 8.0
    values = torch.arange(5.0)[None, None, :, None].expand(1, 2, 5, 2)
    queries = torch.zeros(1, 2, 5, 2)
    queries[..., 0] = 1.0
    policy.attend(layer, queries, keys, values)
    assert layer.state["thin_values"][0, :, :, 0].tolist() == [[1.0, 2.0], [0.0, 1.0]]
    assert layer.state["values"][0, :, :, 0].tolist() == [[4.0], [4.0]]


def test_far_keys_stand_at_one_distance_when_asked():
    """With a distance, the output does not depend on how long ago the old tokens were read."""
    outputs = []
    policy = ThinK(ratio=0.5, recent_tokens=1, batch_tokens=1, num_observed_queries=2, far_distance_tokens=7)
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 1, 6, D, generator=generator)
    for start in (0, 1000):
        layer = make_layer(rotate=turn, num_read=start)
        policy.attend(layer, queries[:, :, :5], keys[:, :, :5], values[:, :, :5])
        layer = replace(layer, num_read=start + 5)
        outputs.append(policy.attend(layer, queries[:, :, 5:], keys[:, :, 5:], values[:, :, 5:]))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"ratio": 1.0}, "ratio"),
        ({"ratio": -0.1}, "ratio"),
        ({"num_kept_tokens": 0}, "num_kept_tokens"),
        ({"recent_tokens": 0}, "recent_tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, field):
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        ThinK(**wrong)
