"""Linear attention: softmax's exponential replaced by a product of features, so that the past fits in one matrix.

Remembers the sum of the outer products of features of keys and values, and the sum of the features.

Papers: Transformers are RNNs, arXiv:2006.16236 (2020), for "elu"; Simple linear attention language models balance the
recall-throughput tradeoff (Based), arXiv:2402.18668 (2024), for "taylor": 1, x / d^(1/4) and x x^T / sqrt(2 d) of x of
size d, whose products are the second-order Taylor polynomial of exp(q k / sqrt(d)).
Cost: H F (V + 1) float32 values a row, O(F V) a token; F is the key size, or 1 + d + d^2 with "taylor".

Shapes: B rows, T tokens, H heads, d key size, F features, V value size, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.convolution import ShortConvolution
from recollect.state.layer import State, StateLayer
from recollect.state.scan import recurrence, running_sum

FeatureMap = Literal["elu", "taylor"]


def features(x: Tensor, kind: FeatureMap) -> Tensor:
    """Features [..., F] of x [..., d], in float32."""
    x = x.float()
    if kind == "elu":
        return F.elu(x) + 1
    size = x.shape[-1]
    square = (x[..., :, None] * x[..., None, :]).flatten(-2) / (2 * size) ** 0.5
    return torch.cat([torch.ones_like(x[..., :1]), x / size**0.25, square], -1)


class LinearAttention(StateLayer):
    """Multi-head causal linear attention with a normaliser."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 2,
        key_size: int | None = None,  # None: as the values; the paper of "taylor": 16
        feature_map: FeatureMap = "elu",
        conv_tokens: int = 4,  # 0: no convolution
        chunk_tokens: int = 64,
    ):
        super().__init__(dim)
        if dim % num_heads:
            raise InvalidInput(f"num_heads: {num_heads} does not divide {dim}; use another number.")
        if feature_map not in ("elu", "taylor"):
            raise InvalidInput(f"feature_map: {feature_map!r:.20} is not known; use elu, taylor.")
        self.num_heads, self.chunk_tokens = num_heads, chunk_tokens
        self.feature_map: FeatureMap = feature_map
        self.key_size = key_size or dim // num_heads
        self.sizes = [num_heads * self.key_size, num_heads * self.key_size, dim]
        self.project = nn.Linear(dim, sum(self.sizes), bias=False)
        self.conv = ShortConvolution(sum(self.sizes), conv_tokens) if conv_tokens else None
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, num_rows: int = 1) -> State:
        """`memory` [B, H, F, V + 1]: sums of features and values, and of features alone in the last column."""
        num = self.key_size if self.feature_map == "elu" else 1 + self.key_size + self.key_size**2
        state = {"memory": self.zeros(num_rows, self.num_heads, num, self.dim // self.num_heads + 1)}
        return state | ({"tail": self.conv.initial_tail(num_rows)} if self.conv else {})

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        new = {}
        projected = self.project(x)
        if self.conv:
            projected, new["tail"] = self.conv(projected, state["tail"])
        q, k, v = (each.unflatten(-1, (self.num_heads, -1)) for each in projected.split(self.sizes, -1))
        q, k = features(q, self.feature_map), features(k, self.feature_map)
        y, memory = recurrence(q, k, v, state["memory"][..., :-1], chunk_tokens=self.chunk_tokens)
        total = state["memory"][:, None, ..., -1] + running_sum(k)  # [B, T, H, F]: the features up to each token
        new["memory"] = torch.cat([memory, total[:, -1, ..., None]], -1)
        y = y / ((q * total).sum(-1, keepdim=True) + 1e-6)
        return self.out(y.flatten(2).to(x.dtype)), {"memory": new.pop("memory"), **new}
