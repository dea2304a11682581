"""JRT-RNN: its definition written out, and that only the prefix looks ahead."""

from __future__ import annotations

import torch

from recollect.state.jrt import PrefixLinearAttention
from recollect.state.linear_attention import features


def test_every_token_sees_the_whole_prefix_by_keys_of_its_own(x):
    layer = PrefixLinearAttention(8, prefix_tokens=6, num_heads=1, key_size=3, conv_tokens=0, chunk_tokens=4)
    q, k, v = layer.causal_part.project(x).split(layer.causal_part.sizes, -1)
    k_prefix, v_prefix = layer.prefix(x[:, :6]).split(layer.sizes, -1)
    phi = [features(each, "taylor") for each in (q, k, k_prefix)]
    near, far = (phi[0] @ phi[1].mT).tril(), phi[0] @ phi[2].mT
    read = (near @ v + far @ v_prefix) / (near.sum(-1, keepdim=True) + far.sum(-1, keepdim=True))
    torch.testing.assert_close(layer(x)[0], layer.causal_part.out(read), atol=1e-5, rtol=1e-4)


def test_keys_and_values_of_the_prefix_are_made_of_neighbours_too(x):
    layer = PrefixLinearAttention(8, prefix_tokens=6, num_heads=1, key_size=3, conv_tokens=2)
    with torch.no_grad():
        layer.prefix_conv.weight.copy_(torch.tensor([1.0, 0.0]))  # the token before
    shifted = torch.cat([torch.zeros_like(x[:, :1]), x[:, :5]], 1)
    k, v = layer.prefix(shifted).split(layer.sizes, -1)
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    added = layer(x)[1]["memory"] - layer.causal_part(x)[1]["memory"]
    torch.testing.assert_close(added[:, 0], features(k, "taylor").mT @ v, atol=1e-5, rtol=1e-4)


def test_the_prefix_looks_ahead_and_nothing_after_it_does(x):
    layer = PrefixLinearAttention(8, prefix_tokens=6)
    y = layer(x)[0]
    for at, sees in ((5, True), (6, False), (12, False)):
        changed = x.clone()
        changed[:, at] += 1
        assert bool((layer(changed)[0] - y)[:, :at].abs().max() > 1e-6) == sees


def test_without_a_prefix_it_is_linear_attention(x):
    layer = PrefixLinearAttention(8, prefix_tokens=0)
    torch.testing.assert_close(layer(x)[0], layer.causal_part(x)[0])


def test_a_prompt_shorter_than_the_prefix_is_taken_as_it_is(x):
    layer = PrefixLinearAttention(8, prefix_tokens=100)
    _, state = layer(x[:, :9])
    y, _ = layer(x[:, 9:], state)
    changed = x.clone()
    changed[:, -1] += 1
    torch.testing.assert_close(layer(changed[:, 9:], state)[0][:, :-1], y[:, :-1])
