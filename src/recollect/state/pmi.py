"""PMI: perceptions compete to write a small working memory, which a long-term memory gathers; both answer each perception.

Remembers `num_slots` vectors of working memory and `num_segments` times as many of long-term memory. A call is one
perception: each slot attends to all of its tokens and keeps the `top_k` strongest (the competitive write), a gate mixes what
they say into the slot, and the long-term memory takes the slots in. Every token then reads both: attention to the working
memory, attention to the long-term memory corrected by the first, and a fixed mixture of the two. Tokens meet in the memories only.

Paper: A Framework for Inference Inspired by Human Memory Mechanisms, arXiv:2310.09297 (2023), section 2; released code where
it says more.
Differs: the state goes on from call to call, where the released code begins anew at each; share one layer over the depth of
a network by calling it again with the state it gave, as the paper does. The long-term memory begins as one fixed draw, where
the code draws at every pass. `association="outer"` is ours: a sum of outer products of the slots' keys and values; in the
paper's ("scalar") the sum over its width leaves a slot, weighed by a number, which layer norm brings to nothing at first.
Cost: (1 + `num_segments`) * `num_slots` * D values a row; O(num_slots * D) a token. The correction attends from each token of a
call to each other one.

Shapes: B rows, T tokens of a call, N slots, C segments, H heads, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.layer import State, StateLayer

ASSOCIATIONS = ("scalar", "outer")


class PMI(StateLayer):
    """alpha U_w + (1 - alpha) U_wl: what working memory says, and what long-term memory says once corrected by it."""

    causal = False
    start: Tensor  # of the long-term memory

    def __init__(
        self,
        dim: int,
        num_slots: int = 8,
        num_segments: int = 5,
        num_heads: int = 8,
        head_size: int = 32,
        top_k: int = 5,
        alpha: float = 0.7,  # 1: a shared workspace without long-term memory
        association: Literal["scalar", "outer"] = "scalar",
        scale: bool = False,  # divide scores by the root of the head's size; the paper does not
    ):
        super().__init__(dim)
        if association not in ASSOCIATIONS:
            raise InvalidInput(f"association: {association!r:.20} is not known; use {', '.join(ASSOCIATIONS)}.")
        if min(num_slots, num_segments, num_heads, top_k) < 1 or not 0 <= alpha <= 1:
            raise InvalidInput("alpha: must be 0 to 1, and num_slots, num_segments, num_heads and top_k 1 or more.")
        self.num_slots, self.num_heads, self.top_k, self.alpha = num_slots, num_heads, top_k, alpha
        self.association = association
        self.scaling = head_size**-0.5 if scale else 1.0
        inner = num_heads * head_size
        self.perceive = nn.Linear(dim, dim)
        self.query, self.key, self.value = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, dim, bias=False)
        self.think = nn.Linear(dim, dim)  # passed four times
        self.written, self.thought = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gate_slots = nn.Parameter(torch.randn(num_slots, dim, 2) * dim**-0.5)
        self.gate_scale = nn.Parameter(torch.ones(dim))
        self.gate_input = nn.Linear(dim, 2)
        self.gate_bias = nn.Parameter(torch.tensor([0.0, 1.0]))  # of input and of forgetting
        if association == "scalar":
            self.gathered = nn.LayerNorm(dim)
            start = torch.rand(num_segments, num_slots, dim)
        else:
            self.store_key = nn.Linear(dim, num_segments * dim, bias=False)
            self.store_value = nn.Linear(dim, num_segments * dim, bias=False)
            start = torch.zeros(num_segments, dim, dim)
        self.register_buffer("start", start)

    def initial_state(self, num_rows: int = 1) -> State:
        """`working` [B, N, D]: rows of the identity; `lasting` [B, C, N, D], or [B, C, D, D] of outer products."""
        slots = torch.eye(self.num_slots, self.dim, device=self.start.device)
        return {
            "working": slots.expand(num_rows, -1, -1).contiguous(),
            "lasting": self.start.float().expand(num_rows, -1, -1, -1).contiguous(),
        }

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        seen = self.perceive(x)
        working = state["working"].to(x.dtype)
        slots = self.written(working + self._attend(working, seen, self.top_k))
        thought = slots
        for _ in range(4):
            thought = F.relu(self.think(thought))
        slots = self.thought(slots + thought)  # M^h
        gates = torch.einsum("bnd,nde->bne", torch.tanh(working), self.gate_slots)
        gates = gates + self.gate_input(F.relu(self.gate_scale * seen).mean(dim=1))[:, None]
        take, keep = torch.sigmoid(gates + self.gate_bias).unbind(-1)
        working = take[..., None] * torch.tanh(slots) + keep[..., None] * working
        lasting, far = self._gather(state["lasting"].to(x.dtype), slots, seen)
        near = self._attend(seen, working)
        u = self.alpha * near + (1 - self.alpha) * self._attend(far, near)
        return u, {"working": working.float(), "lasting": lasting.float()}

    def _gather(self, lasting: Tensor, slots: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(the long-term memory with the slots in it, what it says to each token [B, T, D])."""
        if self.association == "scalar":
            lasting = self.gathered(lasting + lasting.sum(dim=-1, keepdim=True) * slots[:, None])
            return lasting, self._attend(seen, lasting.mean(dim=1), self.top_k)
        keys, values = (part(slots).unflatten(-1, (-1, self.dim)) for part in (self.store_key, self.store_value))
        lasting = lasting + torch.einsum("bncd,bnce->bcde", keys.softmax(dim=-1), values) / self.num_slots
        asked = self.store_key(seen).unflatten(-1, (-1, self.dim)).softmax(dim=-1)
        return lasting, torch.einsum("btcd,bcde->bte", asked, lasting) / lasting.shape[1]

    def _attend(self, asking: Tensor, asked: Tensor, top_k: int | None = None) -> Tensor:
        """Attention of [B, S, D] to [B, R, D]; of each head's weights only the `top_k` largest count, as they are."""
        q, k, v = (
            part(given).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part, given in ((self.query, asking), (self.key, asked), (self.value, asked))
        )
        weights = torch.softmax((q @ k.transpose(-1, -2) * self.scaling).float(), dim=-1).to(v.dtype)
        if top_k is not None and top_k < weights.shape[-1]:
            least = weights.topk(top_k, dim=-1).values[..., -1:]
            weights = weights.where(weights >= least, 0.0)
        return self.out((weights @ v).transpose(1, 2).flatten(2))
