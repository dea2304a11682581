"""Mixture-of-Memories: several matrix memories, of which a router lets each token write and read a few.

Remembers E separate sums of outer products, so that unrelated facts do not overwrite each other, and one that every token
writes. A memory that a token was not sent to does not even decay.

Paper: MoM: Linear Sequence Modeling with Mixture-of-Memories, arXiv:2502.13685 (2025), section 3.
Differs: the convolution before queries, keys and values runs over all tokens, not over those of each memory. Decay begins
spread evenly over the heads, from the slowest to the fastest that the authors' code draws: among few that are drawn, none may
be slow enough to recall with. Tokens are sorted by memory as in the paper; all memories of all rows are as long as the
longest. A GPU sorts from `SORTED_TOKENS` on: to learn the longest is to wait, which costs more than short memories save.
Cost: (E + 1) H K V float32 values a row; O((k + 1) H K V) a token where the router is balanced, O(E H K V) at most.

Shapes: B rows, T tokens, H heads, K key size, V value size, E routed memories, M all memories, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.convolution import ShortConvolution
from recollect.state.layer import State, StateLayer
from recollect.state.scan import recurrence

Update = Literal["linear", "decay", "delta", "gated-delta"]
UPDATES = ("linear", "decay", "delta", "gated-delta")
SORTED_TOKENS = 512


class Writes(NamedTuple):
    """What tokens bring to some memories: zero rate and decay, or zero values, for the tokens that were not sent there."""

    keys: Tensor  # [B, T, M, H, K]
    values: Tensor  # [B, T, M, H, V]
    share: Tensor  # [B, T, M, H]: what a token reads of a memory
    log_decay: Tensor | None  # [B, T, M, H]
    rate: Tensor | None  # [B, T, M, H]

    def map(self, function: Callable[[Tensor], Tensor]) -> Writes:
        """Each of them changed by `function`."""
        return Writes._make(None if each is None else function(each) for each in self)


class MixtureOfMemories(StateLayer):
    """q (sum_m g_m M^m + M^shared), with g the renormalised chances of the `top_k` memories of a token.

    `num_memories` 0 leaves the shared memory alone: one layer of the chosen rule, the baseline.
    """

    def __init__(
        self,
        dim: int,
        num_memories: int = 4,
        top_k: int = 2,
        shared: bool = True,
        update: Update = "gated-delta",
        num_heads: int = 2,
        key_size: int | None = None,  # None: as the values
        value_size: int | None = None,  # None: dim / num_heads
        balance: float = 0.01,  # weight of the loss that wants memories used alike; the paper's ablation prefers 0.001
        conv_tokens: int = 4,
        chunk_tokens: int = 64,
    ):
        super().__init__(dim)
        if (not 0 <= top_k <= num_memories and num_memories) or num_memories + shared < 1:
            raise InvalidInput(f"top_k: {top_k} of {num_memories} memories cannot be chosen; use 1 to {num_memories}.")
        if update not in UPDATES:
            raise InvalidInput(f"update: {update!r:.20} is not known; use {', '.join(UPDATES)}.")
        self.num_memories, self.top_k, self.shared, self.num_heads = num_memories, top_k, shared, num_heads
        self.balance, self.chunk_tokens = balance, chunk_tokens
        self.delta, self.decay = "delta" in update, update in ("decay", "gated-delta")
        self.value_size = value_size or dim // num_heads
        self.key_size = key_size or self.value_size
        M = num_memories + shared
        self.sizes = [num_heads * self.key_size, M * num_heads * self.key_size, M * num_heads * self.value_size]
        self.router = nn.Linear(dim, num_memories, bias=False) if num_memories else None
        self.project = nn.Linear(dim, sum(self.sizes), bias=False)
        self.conv = ShortConvolution(sum(self.sizes), conv_tokens) if conv_tokens else None
        self.rate = nn.Linear(dim, M * num_heads, bias=False) if self.delta else None
        self.forget = nn.Linear(dim, M * num_heads, bias=False) if self.decay else None
        if self.decay:
            step = torch.exp(torch.linspace(-6.9, -2.3, num_heads))  # 0.001 to 0.1: from slow heads to fast ones
            self.log_scale = nn.Parameter(torch.linspace(1.0, 16.0, num_heads).log())
            self.bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus gives the step back
        self.norm = nn.RMSNorm(self.value_size)
        self.gate = nn.Linear(dim, num_heads * self.value_size, bias=False)
        self.out = nn.Linear(num_heads * self.value_size, dim, bias=False)

    def initial_state(self, num_rows: int = 1) -> State:
        """`memory` [B, M * H, K, V]: zeros, the shared one last; `tail` of the convolution."""
        heads = (self.num_memories + self.shared) * self.num_heads
        state = {"memory": self.zeros(num_rows, heads, self.key_size, self.value_size)}
        return state | ({"tail": self.conv.initial_tail(num_rows)} if self.conv else {})

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        new: State = {}
        projected = self.project(x)
        if self.conv:
            projected, new["tail"] = self.conv(projected, state["tail"])
        H, M, E = self.num_heads, self.num_memories + self.shared, self.num_memories
        q, k, v = F.silu(projected).split(self.sizes, -1)
        q, k, v = q.unflatten(-1, (H, -1)), k.unflatten(-1, (M, H, -1)), v.unflatten(-1, (M, H, -1))
        if self.delta:
            q, k = F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1)
        share = self.route(x)  # [B, T, M]: what a token reads of each memory; 0: it does not write there either
        sent = (share > 0)[..., None]  # [B, T, M, 1]
        rate = self.rate(x).float().sigmoid().unflatten(-1, (M, H)) * sent if self.rate else None
        log_decay = self._log_decay(x).unflatten(-1, (M, H)) * sent if self.forget else None
        if rate is None:
            v = v * sent[..., None]
        memory, writes = (
            state["memory"].unflatten(1, (M, H)),
            Writes(k, v, share[..., None].expand(-1, -1, -1, H), log_decay, rate),
        )
        if x.shape[1] >= (2 if x.is_cpu else SORTED_TOKENS) and self.top_k < E:
            y, memories = self._sorted(q, writes.map(lambda each: each[:, :, :E]), memory[:, :E])
            if self.shared:
                of_shared = self._masked(q, writes.map(lambda each: each[:, :, E:]), memory[:, E:])
                y, memories = y + of_shared[0], torch.cat([memories, of_shared[1]], 1)
        else:
            y, memories = self._masked(q, writes, memory)
        y = self.norm(y.to(x.dtype)).flatten(2)
        return self.out(y * F.silu(self.gate(x))), {"memory": memories.flatten(1, 2), **new}

    def _masked(self, q: Tensor, writes: Writes, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(y [B, T, H, V], memories) of q [B, T, H, K] and memories [B, M, H, K, V] that are run over all tokens.

        What `_sorted` must give.
        """
        M = memory.shape[1]
        keys, values, share, log_decay, rate = writes.map(lambda each: each.flatten(2, 3))
        y, after = recurrence(
            q[:, :, None].expand(-1, -1, M, -1, -1).flatten(2, 3),
            keys,
            values,
            memory.flatten(1, 2),
            log_decay,
            rate,
            chunk_tokens=self.chunk_tokens,
        )
        return (y * share[..., None]).unflatten(2, (M, -1)).sum(2), after.unflatten(1, (M, -1))

    def _sorted(self, q: Tensor, writes: Writes, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The same with each memory run over its own L tokens only, filled up with others, which write nothing."""
        (B, E), sent = memory.shape[:2], writes.share[:, :, :, 0] > 0
        L = int(sent.sum(1).max())
        order = (~sent).byte().argsort(dim=1, stable=True)[:, :L]  # [B, L, E]: places of a memory's tokens, in turn

        def rows(x: Tensor) -> Tensor:  # [B, T, E, ...] -> [B E, L, ...]
            places = order.view(*order.shape, *[1] * (x.ndim - 3)).expand(-1, -1, -1, *x.shape[3:])
            return x.gather(1, places).movedim(2, 1).flatten(0, 1)

        keys, values, share, log_decay, rate = writes.map(rows)
        asked = rows(q[:, :, None].expand(-1, -1, E, -1, -1))
        y, after = recurrence(
            asked, keys, values, memory.flatten(0, 1), log_decay, rate, chunk_tokens=self.chunk_tokens
        )
        y = (y * share[..., None]).unflatten(0, (B, E)).flatten(1, 2)  # [B, E L, H, V]
        places = order.mT.flatten(1)[..., None, None].expand_as(y)
        return y.new_zeros(*q.shape[:3], y.shape[-1]).scatter_add(1, places, y), after.unflatten(0, (B, E))

    def route(self, x: Tensor) -> Tensor:
        """[B, T, M]: the renormalised chances of the chosen memories, 0 for the others, and 1 for the shared one."""
        self.auxiliary_loss = None
        parts = []
        if self.router:
            chances = self.router(x).float().softmax(-1)
            best, which = chances.topk(self.top_k, -1)
            parts.append(torch.zeros_like(chances).scatter(-1, which, best / best.sum(-1, keepdim=True)))
            if self.training:
                used = (parts[0] > 0).float().mean((0, 1))
                self.auxiliary_loss = self.balance * self.num_memories * (used * chances.mean((0, 1))).sum()
        if self.shared:
            parts.append(x.new_ones(*x.shape[:2], 1, dtype=torch.float32))
        return torch.cat(parts, -1)

    def _log_decay(self, x: Tensor) -> Tensor:
        """[B, T, M * H]: -scale * softplus(w x + bias), scale and bias shared by all memories."""
        assert self.forget
        M = self.num_memories + self.shared
        pushed = F.softplus(self.forget(x).float() + self.bias.float().repeat(M))
        return -self.log_scale.float().exp().repeat(M) * pushed
