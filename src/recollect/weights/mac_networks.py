"""The networks of MAC: an encoder of texts into slots, an aggregator's block, layers of a slot's own; steps as in `mac.py`.

Shapes: B texts, T tokens, G banks, N documents a bank, Q questions a bank, V vectors, D the decoder's width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SlotMLPs(nn.Module):
    """A residual MLP of its own for each of `num` slots: [B, num, width] -> [B, num, out]."""

    def __init__(self, num: int, width: int, out: int, activation: Any) -> None:
        super().__init__()
        self.norm, self.activation = nn.LayerNorm(width), activation
        self.skip = nn.Identity() if width == out else nn.Linear(width, out)
        self.first = nn.Parameter(torch.randn(num, width, width) / width**0.5)
        self.second = nn.Parameter(torch.zeros(num, width, out))
        self.biases = nn.ParameterList([torch.zeros(num, width), torch.zeros(num, out)])

    def forward(self, x: Tensor) -> Tensor:
        """Each slot through its own layers, added to the slot itself."""
        inner = self.activation(torch.einsum("bnd,nde->bne", self.norm(x), self.first) + self.biases[0])
        return self.skip(x) + torch.einsum("bnd,nde->bne", inner, self.second) + self.biases[1]


class SlotEncoder(nn.Module):
    """A text as V vectors: what a body of transformers makes of learned slots after the text (steps 1 and 2)."""

    def __init__(self, body: nn.Module, num_vectors: int, out: int) -> None:
        super().__init__()
        self.body = body.float().requires_grad_(True)
        table: Tensor = self._embed.weight.requires_grad_(False)
        scale = float(table.square().mean().sqrt())
        self.slots = nn.Parameter(scale * torch.randn(num_vectors, table.shape[1]))
        self.leave = SlotMLPs(num_vectors, table.shape[1], out, torch.tanh)

    @property
    def _embed(self) -> Any:
        body: Any = self.body
        return body.get_input_embeddings()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens and a mask [B, T], 1 where tokens are -> [B, V, D]."""
        tokens = self._embed(ids)
        words = F.normalize((tokens * mask[..., None]).sum(1, keepdim=True), dim=-1) * tokens.shape[-1] ** 0.5
        rows = torch.cat([tokens, self.slots.expand(len(ids), -1, -1)], 1)
        hidden = self.body(inputs_embeds=rows, attention_mask=F.pad(mask, (0, len(self.slots)), value=1))
        read = F.normalize(hidden.last_hidden_state[:, -len(self.slots) :], dim=-1) * tokens.shape[-1] ** 0.5
        return self.leave(read + words)


class CrossBlock(nn.Module):
    """One block of the aggregator: questions attend to the bank, then a feed-forward layer (step 3).

    Queries and keys start with the same orthogonal weights, and what is read with its own size: attention begins as likeness.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        with torch.no_grad():
            self.key.weight.copy_(nn.init.orthogonal_(self.query.weight, gain=2.0))
            self.out.weight.copy_(nn.init.orthogonal_(self.value.weight).T)
        self.forwards = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor, bank: Tensor) -> Tensor:
        """x [G, Q V, D], bank [G, N V, D] -> [G, Q V, D]."""
        read = self.norms[1](bank)
        query, key, value = (
            layer(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, rows in ((self.query, self.norms[0](x)), (self.key, read), (self.value, read))
        )
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.forwards(self.norms[2](x))
