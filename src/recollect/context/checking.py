"""Reading a few tokens behind a long text: keys and values that are not moved, and no mask.

transformers' usual cache copies all keys at every call, and gives a few queries a mask that keeps PyTorch from its fused
kernels. Here the room for a text is reserved once, and a causal attention whose queries stand at its end is asked for as that.

Shapes: B rows, H query heads, G key-value heads, T queries, S keys, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "recollect-lower-right"


class Reserved(DynamicLayer):
    """A layer of a cache with room for `room_tokens`, [B, G, room, D]; what it hands out are views of what is filled."""

    def __init__(self, room_tokens: int):
        super().__init__()
        self.room_tokens = room_tokens
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, G, T, D]; all of them, [B, G, S, D]."""
        known = self.get_seq_length()
        if self._rooms is None:
            self.lazy_initialization(key_states, value_states)
            self._rooms = (self._reserve(key_states), self._reserve(value_states))
        end = known + key_states.shape[2]
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, known:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values

    def _reserve(self, like: Tensor) -> Tensor:
        return like.new_empty(*like.shape[:2], self.room_tokens, like.shape[3])


@contextmanager
def lower_right(*models: Any) -> Iterator[None]:
    """Within the block, models whose attention is PyTorch's ask for causal attention of few queries without a mask.

    Others, and those with a policy attached, are left as they are. The results are the same.
    """
    parts = [part for model in models for part in model.modules() if hasattr(part, "config")]
    configs = {id(part.config): part.config for part in parts}
    ours = [each for each in configs.values() if each._attn_implementation == "sdpa"]
    for config in ours:
        config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for config in ours:
            config._attn_implementation_internal = "sdpa"


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that the model's layers call: [B, H, T, D] to [B, T, H, D]."""
    (H, T), (G, S) = query.shape[1:3], key.shape[1:3]
    if attention_mask is not None or T == 1 or T == S:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    mask: Any = causal_lower_right(T, S)
    output = scaled_dot_product_attention(query, key, value, mask, dropout, scale=scaling, enable_gqa=H != G)
    return output.transpose(1, 2).contiguous(), None


def _mask(q_length: int, kv_length: int, q_offset: Any = 0, **options: Any) -> Tensor | None:
    """The mask of PyTorch's attention, but none where the queries are the last tokens and see all before them."""
    plain = options["mask_function"] is causal_mask_function and options.get("attention_mask") is None
    if plain and isinstance(q_offset, int) and q_offset + q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, q_offset=q_offset, **options)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
