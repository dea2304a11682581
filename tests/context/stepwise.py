"""The specification of a policy on a model with one layer: what each token attends to, and where that stands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

Place = Callable[[int], tuple[list[int], list[int], list[int]]]


def stepwise_logits(model: Any, ids: torch.Tensor, place: Place) -> torch.Tensor:
    """Logits [B, T, V] of a one-layer Llama in which token i attends as `place(i)` says, computed token by token.

    `place` returns the tokens that are attended to, the position of each, and the query's position when it meets each.
    """
    layer, attention = model.model.layers[0], model.model.layers[0].self_attn
    apply = sys.modules[type(attention).__module__].apply_rotary_pos_emb

    def turn(x: torch.Tensor, positions: list[int]) -> torch.Tensor:
        cos, sin = model.model.rotary_emb(x, torch.tensor([positions]))
        return apply(x, x, cos, sin)[0]

    with torch.no_grad():
        hidden = model.model.embed_tokens(ids)
        normed = layer.input_layernorm(hidden)
        B, T, _ = normed.shape
        D = attention.head_dim
        q, k, v = (
            part(normed).view(B, T, -1, D).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        rows = []
        for i in range(T):
            kept, at_key, at_query = place(i)
            keys = turn(k[:, :, kept], at_key)
            queries = turn(q[:, :, i : i + 1].expand(-1, -1, len(kept), -1), at_query)
            weights = ((queries * keys).sum(-1) * attention.scaling).softmax(-1)
            rows.append((weights[..., None] * v[:, :, kept]).sum(2).reshape(B, -1))
        hidden = hidden + attention.o_proj(torch.stack(rows, dim=1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return model.lm_head(model.model.norm(hidden))
