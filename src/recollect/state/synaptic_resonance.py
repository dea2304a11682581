"""Synaptic Resonance: fast weights beside attention, written the more the better a token fits what was read before.

Each head keeps a matrix that maps keys to values. A token writes into it with a strength, its *resonance*: how much a
projection of the token points the way of a projection of the running context. What is read from the matrix is added to
the output of attention over a window, by a gate that starts closed.

Paper: Exploring Synaptic Resonance in Large Language Models, arXiv:2502.10699 (2025).
Reading: the paper names the idea (weights strengthened while reading, by relevance to the context, in training and in
inference) and gives no equation. Those here are ours: a gated delta rule (arXiv:2412.06464) whose rate is the resonance.
"hebb", the literal reinforcement, writes without the correction. No author's code is known to compare with.
Cost: per head K x V float32 values, and the trace of the context, a row; O(K V) a token beside the window's attention.

Shapes: B rows, T tokens, H heads, K = V = D / H head size, D width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.attention import Attention
from recollect.state.layer import State, StateLayer
from recollect.state.scan import linear_scan, recurrence

Rule = Literal["delta", "hebb"]


class SynapticResonance(StateLayer):
    """Window attention and a fast-weight memory that resonance writes."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 2,
        rule: Rule = "delta",
        window_tokens: int = 64,  # of the attention beside
        chunk_tokens: int = 64,
    ):
        super().__init__(dim)
        if rule not in ("delta", "hebb"):
            raise InvalidInput(f"rule: {rule!r:.20} is not known; use delta, hebb.")
        self.rule, self.num_heads, self.chunk_tokens = rule, num_heads, chunk_tokens
        self.attention = Attention(dim, num_heads, window_tokens)
        self.project = nn.Linear(dim, 3 * dim, bias=False)  # queries, keys and values of the fast weights
        self.token, self.context = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)  # W_r, U_r
        self.trace_decay = nn.Parameter(torch.tensor(_logit(0.95)))  # lambda
        self.sharpness = nn.Parameter(torch.full((num_heads,), 4.0))  # kappa
        self.bias = nn.Parameter(torch.zeros(num_heads))
        self.rate = nn.Parameter(torch.full((num_heads,), _logit(0.5)))  # eta
        self.decay = nn.Parameter(torch.full((num_heads,), _logit(0.002)))  # delta
        self.read = nn.Linear(dim, num_heads)  # the gate of what is read
        self.share = nn.Parameter(torch.zeros(num_heads))  # gamma: at 0 the layer is its attention
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, num_rows: int = 1) -> State:
        """`attention`: its own; `weights` [B, H, K, V] and `trace` [B, D] of the context, in float32."""
        size = self.dim // self.num_heads
        return {
            "attention": self.attention.initial_state(num_rows),
            "weights": self.zeros(num_rows, self.num_heads, size, size),
            "trace": self.zeros(num_rows, self.dim),
        }

    def state_bytes(self, num_tokens: int = 0) -> int:
        """See `StateLayer.state_bytes`."""
        return super().state_bytes() + self.attention.state_bytes(num_tokens) - self.attention.state_bytes()

    def reset(self, state: State, rows: Tensor) -> State:
        """See `StateLayer.reset`."""
        own = {name: state[name] for name in ("weights", "trace")}
        fresh = self.initial_state(len(rows))
        chosen = rows.to(state["trace"].device)
        kept = {
            name: torch.where(chosen.view(-1, *[1] * (old.ndim - 1)), fresh[name], old) for name, old in own.items()
        }
        return {"attention": self.attention.reset(state["attention"], rows)} | kept

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`. A token reads before it writes."""
        y, attended = self.attention.mix(x, state["attention"])
        keep = self.trace_decay.sigmoid()
        normed = F.layer_norm(x.float(), (self.dim,))
        traces = linear_scan(keep.float().view(1, 1, 1), (1 - keep.float()) * normed, state["trace"])
        before = torch.cat([state["trace"][:, None], traces[:, :-1]], 1)
        strength = self.rate.sigmoid() * self.resonance(x, before)  # [B, T, H]
        q, k, v = (self._heads(each) for each in self.project(x).chunk(3, -1))
        q, k = F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1)
        log_decay = F.logsigmoid(-self.decay.float()).expand(*x.shape[:2], -1)
        rate = strength if self.rule == "delta" else None
        written = v.float() if rate is not None else strength[..., None] * v.float()
        ahead = torch.cat([q[:, 1:], torch.zeros_like(q[:, :1])], 1)  # the next token's query reads what this one wrote
        found, weights = recurrence(ahead, k, written, state["weights"], log_decay, rate, self.chunk_tokens)
        first = torch.einsum("bhk,bhkv->bhv", q[:, 0], state["weights"])
        found = F.rms_norm(torch.cat([first[:, None], found[:, :-1]], 1), (v.shape[-1],), eps=1e-4)
        gate = self.share * self.read(x).sigmoid()
        y = y + self.out((gate[..., None] * found.to(x.dtype)).flatten(2))
        return y, {"attention": attended, "weights": weights, "trace": traces[:, -1]}

    def resonance(self, x: Tensor, before: Tensor) -> Tensor:
        """How strongly each token writes, [B, T, H] in 0..1, from the tokens x and the context before each [B, T, D]."""
        context = self._heads(self.context(before.to(x.dtype))).float()
        alike = F.cosine_similarity(self._heads(self.token(x)).float(), context, dim=-1, eps=1e-4)
        return (self.sharpness * alike + self.bias).sigmoid()

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, H, K] of [B, T, D]."""
        return x.unflatten(-1, (self.num_heads, -1))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
