"""The side network of LongMem: the trained part, which reads the frozen backbone's states and its bank.

Each side layer stands for a share of `reduction` backbone layers and begins as a copy of the last of them; the one that reads
the bank begins as a copy of the layer that wrote it, so that its queries live in the space of the keys. To its output is
added what the backbone's layers of the share added (the cross-network residual).

Shapes: B rows, T tokens, E width, H query heads, K chunks that are found.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recollect.state.bank import MemoryBank
from recollect.state.decoder import Reading, attention_function, final_norm, renamed, unrotated

_JOINT = "recollect-longmem"


class MemoryAttention(nn.Module):
    """An attention module of the backbone's kind that also reads a bank; `gate` [H], 0 (half and half) at first."""

    def __init__(self, inner: Any, num_heads: int, num_chunks: int):
        super().__init__()
        self.inner, self.num_chunks = inner, num_chunks
        self.gate = nn.Parameter(torch.zeros(num_heads))
        self.memory: MemoryBank | None = None
        self.found: Tensor | None = None  # slots [B, H, T, K] of the last call, for inspection
        inner.local = inner.config._attn_implementation
        inner.config = renamed(inner.config, _JOINT)

    def forward(self, hidden_states: Tensor, position_embeddings: Any, **options: Any) -> Any:
        """As the module within; rows whose memory is empty attend to their window alone."""
        held = None if self.memory is None else self.memory.held(len(hidden_states))
        self.inner.far = self.found = None
        if held is not None and held.any():
            queries = unrotated(self.inner, hidden_states, position_embeddings)[0]
            share = torch.sigmoid(self.gate) * held[:, None].to(self.gate.device)  # [B, H]
            self.inner.far = _Far(self, queries, share)
        try:
            return self.inner(hidden_states=hidden_states, position_embeddings=position_embeddings, **options)
        finally:
            self.inner.far = None


class _Far:
    """What the attention function needs of the bank's side in one call; no module, lest it count as a part of one."""

    def __init__(self, outer: MemoryAttention, queries: Tensor, share: Tensor):
        self.outer, self.queries, self.share = outer, queries, share


def _joint(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple[Tensor, Any]:
    """(1 - share) times attention to the window, plus share times attention to the bank; returns [B, T, H, D]."""
    near, weights = attention_function(module, module.local)(module, query, key, value, mask, **options)
    if module.far is None:
        return near, weights
    outer, share = module.far.outer, module.far.share[:, None, :, None].to(near.dtype)
    assert outer.memory is not None
    far, outer.found = outer.memory.attend(
        module.far.queries, outer.num_chunks, options["scaling"], options.get("softcap")
    )
    return (1 - share) * near + share * far.transpose(1, 2), weights


ALL_ATTENTION_FUNCTIONS[_JOINT] = _joint  # by its name only; no model is touched


class SideNet(nn.Module):
    """Copies of backbone layers, one of which also reads the bank, and of the final norm."""

    def __init__(self, decoder: Any, reduction: int, memory_layer: int, num_chunks: int, dtype: torch.dtype | None):
        super().__init__()
        count = len(decoder.layers)
        self.ends = [*range(0, count, reduction), count]  # backbone layers below each side layer
        self.reader = memory_layer // reduction
        self.sources = [end - 1 for end in self.ends[1:]]
        self.sources[self.reader] = memory_layer
        self.layers = nn.ModuleList()
        for number, source in enumerate(self.sources):
            layer = copy.deepcopy(decoder.layers[source], {id(decoder.config): decoder.config})
            layer.self_attn.layer_idx = count + number  # its place in the cache, behind the backbone's
            self.layers.append(layer)
        reader = self.layers[self.reader]
        reader.self_attn = MemoryAttention(reader.self_attn, decoder.config.num_attention_heads, num_chunks)
        self.norm = copy.deepcopy(final_norm(decoder))
        weight = next(decoder.parameters())
        self.to(weight.device, dtype or weight.dtype).requires_grad_(True)

    @property
    def attention(self) -> Any:
        """The MemoryAttention of the layer that reads the bank."""
        return self.layers[self.reader].self_attn

    def forward(self, reading: Reading, memory: MemoryBank | None, cache: Any) -> Tensor:
        """Hidden states [B, T, E], normed, beside a reading of the backbone."""
        dtype = next(self.parameters()).dtype
        hidden = [_as(dtype, reading.hidden[end]) for end in self.ends]
        self.attention.memory = memory
        x = hidden[0]
        for number, layer in enumerate(self.layers):
            options = {name: _as(dtype, value) for name, value in reading.options[self.sources[number]].items()}
            x = layer(x, **options | {"cache": cache}) + hidden[number + 1] - hidden[number]
        return self.norm(x)


def _as(dtype: torch.dtype, value: Any) -> Any:
    """A floating tensor, or several, in this type; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_as(dtype, each) for each in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
