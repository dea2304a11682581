"""Linear attention by its definition, and the Taylor features against the polynomial that they stand for."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.linear_attention import LinearAttention, features


def test_outputs_are_a_normalised_sum_over_the_past(x):
    layer = LinearAttention(8, num_heads=1, conv_tokens=0, chunk_tokens=4)
    q, k, v = layer.project(x).chunk(3, -1)
    weights = (features(q, "elu") @ features(k, "elu").mT).tril()
    torch.testing.assert_close(layer(x)[0], layer.out(weights @ v / weights.sum(-1, keepdim=True)))


def test_taylor_features_are_the_second_order_of_the_exponential():
    q, k = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    product = (q * k).sum(-1) / 6**0.5
    torch.testing.assert_close((features(q, "taylor") * features(k, "taylor")).sum(-1), 1 + product + product**2 / 2)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="num_heads: 3 does not divide 8"):
        LinearAttention(8, num_heads=3)
    with pytest.raises(InvalidInput, match="feature_map: 'relu' is not known"):
        LinearAttention(8, feature_map="relu")  # type: ignore[arg-type]
