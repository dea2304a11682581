"""LongVQ: softmax attention over the whole past at a fixed size, because every key is one of a few code words.

A moving average smooths the input (the structured memory); queries and keys are made of it. Keys are quantised to a
codebook, so that all tokens of the past with one code word share one score: a count and a mean value per code word stand
for them. The last tokens are attended to one by one, with a bias for their distance.

Paper: LongVQ: Long Sequence Modeling with Vector Quantization on Structured Memory, arXiv:2404.11163 (2024); the attention
follows Transformer-VQ, arXiv:2309.16354 (2023), the gates and the moving average Mega, arXiv:2209.10655 (2022).
Differs: the codebook is a parameter that the scores and a codebook loss (VQ-VAE, arXiv:1711.00937) move, where
Transformer-VQ averages assigned keys, so that a forward pass changes nothing. Where Mega mixes the input back in by a gate,
that gate scales the output, and the block's residual brings the input. A token leaves the window one by one, not by blocks.
What attention says is normalised before its gate, which begins open, and the path around attention begins at nothing.
Cost: per row S (V + 1) + W (K + V) + D N values; O(S + W) V a token.

Shapes: B rows, T tokens, D width, K key size, V value size, S code words, W window, N averages a channel, C tokens a chunk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.layer import State, StateLayer
from recollect.state.scan import linear_scan

CODEBOOK = 0.1  # weight of the codebook loss; Adam makes of it a pace, which only clipping feels
NOTHING = -1e9  # the score of a code word that no token has


class MovingAverage(nn.Module):
    """Damped exponential moving averages, N a channel (Mega, equation 4), mixed to one output a channel."""

    def __init__(self, dim: int, num: int):
        super().__init__()
        self.weigh = nn.Parameter(torch.randn(dim, num) * 0.2)  # beta
        self.gain = nn.Parameter(torch.randn(dim, num))  # alpha
        self.damp = nn.Parameter(torch.randn(dim, num))  # delta
        self.mix = nn.Parameter(torch.randn(dim, num) / math.sqrt(num))  # eta
        self.skip = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(y [B, T, D], averages [B, D, N] after the last token), in float32."""
        gain, damp = self.gain.float().sigmoid(), self.damp.float().sigmoid()
        averages = linear_scan((1 - gain * damp)[None, None], x.float()[..., None] * (gain * self.weigh), state)
        return (averages * self.mix).sum(-1) + self.skip * x, averages[:, -1]


class LongVQ(StateLayer):
    """Gated attention with quantised keys on a moving average, one head."""

    def __init__(
        self,
        dim: int,
        codebook_size: int = 256,
        window_tokens: int = 64,
        key_size: int = 64,
        value_ratio: float = 2.0,  # value size over width
        num_averages: int = 16,
        commitment: float = 1e-4,  # weight of the distance between keys and their code words
        chunk_tokens: int = 64,
    ):
        super().__init__(dim)
        for name, value in (("codebook_size", codebook_size), ("window_tokens", window_tokens), ("key_size", key_size)):
            if value < 1:
                raise InvalidInput(f"{name}: {value} is too small; use 1 or more.")
        self.window_tokens, self.key_size, self.value_size = window_tokens, key_size, round(value_ratio * dim)
        self.commitment, self.chunk_tokens = commitment, chunk_tokens
        self.average = MovingAverage(dim, num_averages)
        self.base = nn.Linear(dim, key_size)
        self.scale, self.offset = nn.Parameter(torch.ones(2, key_size)), nn.Parameter(torch.zeros(2, key_size))
        nn.init.normal_(self.scale, 1.0, 0.1)
        nn.init.normal_(self.offset, 0.0, 0.1)
        self.value = nn.Linear(dim, self.value_size)
        self.gate, self.update = nn.Linear(dim, self.value_size), nn.Linear(dim, dim)
        self.said = nn.RMSNorm(self.value_size)
        self.out, self.around = nn.Linear(self.value_size, dim), nn.Linear(dim, dim, bias=False)
        nn.init.ones_(self.gate.bias)  # open, and nothing beside it: else what attention says is lost, and not learned
        nn.init.zeros_(self.around.weight)
        self.near = nn.Parameter(torch.zeros(window_tokens))  # bias by distance
        self.codes = nn.Parameter(self._normed(torch.randn(codebook_size, key_size)))

    def initial_state(self, num_rows: int = 1) -> State:
        """`counts` [B, S] and `means` [B, S, V] of what left the window, `keys`, `values` [B, <= W, ...], `average`."""
        S = self.codes.shape[0]
        return {
            "average": self.zeros(num_rows, *self.average.gain.shape),
            "counts": self.zeros(num_rows, S),
            "means": self.zeros(num_rows, S, self.value_size),
            "window_codes": self.zeros(num_rows, self.window_tokens, dtype=torch.int64) - 1,  # -1: no token yet
            "window_keys": self.zeros(num_rows, self.window_tokens, self.key_size),
            "window_values": self.zeros(num_rows, self.window_tokens, self.value_size),
        }

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`; sets `auxiliary_loss` in training."""
        smooth, average = self.average(x, state["average"])
        z = F.silu(smooth).to(x.dtype)
        base = F.silu(self.base(z))
        q, k = (self._normed(base * scale + offset) for scale, offset in zip(self.scale, self.offset, strict=True))
        v = F.silu(self.value(x)).float()
        found = self.quantise(k)
        nearest = self.codes[found].float()
        self.auxiliary_loss = None
        if self.training:
            far = (k - nearest.detach()).square().sum(-1).mean()
            self.auxiliary_loss = self.commitment * far + CODEBOOK * (k.detach() - nearest).square().mean()
        k = nearest + k - k.detach()  # straight through: the code word's value, the gradient of both
        state = state | {"average": average}
        outputs = []
        for start in range(0, x.shape[1], self.chunk_tokens):
            cut = slice(start, start + self.chunk_tokens)
            y, state = self._attend(q[:, cut], k[:, cut], v[:, cut], found[:, cut], state)
            outputs.append(y)
        y = torch.cat(outputs, 1).to(x.dtype)
        y = F.silu(self.out(F.silu(self.gate(z)) * self.said(y)) + self.around(z))
        return self.update(z).sigmoid() * y, state

    def quantise(self, keys: Tensor) -> Tensor:
        """The nearest code word of each key [B, T, K]: [B, T]."""
        with torch.no_grad():
            return torch.cdist(keys.float(), self.codes.float()[None]).argmin(-1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, found: Tensor, state: State) -> tuple[Tensor, State]:
        """Attention of a chunk, [B, C, V], in float32: what left the window by code words, all else one by one."""
        W, C, S = self.window_tokens, q.shape[1], self.codes.shape[0]
        keys, values = torch.cat([state["window_keys"], k], 1), torch.cat([state["window_values"], v], 1)
        codes = torch.cat([state["window_codes"], found], 1)
        distance = W + torch.arange(C, device=q.device)[:, None] - torch.arange(W + C, device=q.device)
        near = (distance >= 0) & (distance < W)
        exact = q @ keys.mT + self.near.float()[distance.clamp(0, W - 1)]
        shared = q @ self.codes.float().T  # [B, C, S]
        coded = shared.gather(
            -1, codes.clamp(min=0)[:, None].expand(-1, C, -1)
        )  # within the chunk, yet out of the window
        scores = torch.where(near, exact, coded)
        scores = scores.masked_fill((distance < 0) | (codes < 0)[:, None], NOTHING)
        known = state["counts"] > 0
        counted = shared + torch.where(known, state["counts"].clamp(min=1).log(), NOTHING)[:, None]
        weights = torch.softmax(torch.cat([counted, scores], -1), -1)
        y = weights[..., :S] @ state["means"] + weights[..., S:] @ values
        return y, self._leave(state, keys, values, codes, C)

    def _leave(self, state: State, keys: Tensor, values: Tensor, codes: Tensor, num: int) -> State:
        """The state when the oldest `num` tokens have left the window."""
        left = F.one_hot(codes[:, :num].clamp(min=0), self.codes.shape[0]).float() * (codes[:, :num] >= 0)[..., None]
        counts = state["counts"] + left.sum(1)
        sums = state["counts"][..., None] * state["means"] + left.mT @ values[:, :num]
        return state | {
            "counts": counts,
            "means": sums / counts.clamp(min=1)[..., None],
            "window_codes": codes[:, num:],
            "window_keys": keys[:, num:],
            "window_values": values[:, num:],
        }

    def _normed(self, x: Tensor) -> Tensor:
        """x [..., K] with mean 0, and of a length at which scores and distances stay bounded; float32."""
        return F.layer_norm(x.float(), (self.key_size,)) * self.key_size**-0.25
