"""Synaptic Resonance: attention until the gate opens, and the written equations beside it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.synaptic_resonance import SynapticResonance


def opened(rule):
    torch.manual_seed(0)
    layer = SynapticResonance(8, num_heads=2, rule=rule, window_tokens=4, chunk_tokens=3)
    with torch.no_grad():
        layer.share.fill_(0.7)
    return layer


def test_it_begins_as_its_attention():
    torch.manual_seed(0)
    layer, x = SynapticResonance(8, window_tokens=4), torch.randn(2, 11, 8)
    assert torch.equal(layer(x)[0], layer.attention(x)[0])


@pytest.mark.parametrize("rule", ["delta", "hebb"])
def test_it_follows_its_equations_token_by_token(rule):
    layer, x = opened(rule), torch.randn(1, 10, 8)
    with torch.no_grad():
        weights, trace, added = torch.zeros(2, 4, 4), torch.zeros(8), []
        for token in x[0]:
            q, k, v = (each.view(2, 4) for each in layer.project(token).chunk(3))
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            alike = F.cosine_similarity(layer.token(token).view(2, 4), layer.context(trace).view(2, 4), -1, 1e-4)
            strength = 0.5 * (layer.sharpness * alike + layer.bias).sigmoid()
            read = torch.einsum("hk,hkv->hv", q, weights)
            read = read / (read.square().mean(-1, keepdim=True) + 1e-4).sqrt()
            added.append(layer.out((0.7 * layer.read(token).sigmoid()[:, None] * read).flatten()))
            weights = (1 - 0.002) * weights
            target = v - torch.einsum("hk,hkv->hv", k, weights) if rule == "delta" else v
            weights = weights + strength[:, None, None] * k[..., None] * target[:, None]
            trace = 0.95 * trace + 0.05 * F.layer_norm(token, (8,))
        y, state = layer(x)
        torch.testing.assert_close(y - layer.attention(x)[0], torch.stack(added)[None], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(state["weights"][0], weights, atol=1e-5, rtol=1e-4)


def test_without_a_context_the_strength_is_the_bias():
    layer = opened("delta")
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
        strength = layer.resonance(torch.randn(1, 1, 8), torch.zeros(1, 1, 8))
    torch.testing.assert_close(strength[0, 0], torch.tensor([0.5, -1.0]).sigmoid())


def test_an_unknown_rule_is_refused():
    with pytest.raises(InvalidInput, match="rule: 'oja' is not known; use delta, hebb"):
        SynapticResonance(8, rule="oja")  # type: ignore[arg-type]
