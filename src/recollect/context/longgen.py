"""LongGen: full attention in the middle third of the layers, a fixed sparse pattern in the others.

Remembers every key in `full_layers`, so that something sees all of the stream, and in the sparse layers only what the
pattern will ever show again: the first and the last tokens, or the last blocks and every so-manieth older one. Weights and
shapes stay as they are, so that a pretrained model is converted by attaching; it learns to live with what the sparse
layers miss by training on longer texts while attached (`recollect testbed extend`).

Paper: A Little Goes a Long Way: Efficient Long Context Training and Inference with Partial Contexts, arXiv:2410.01485
(2024), sections 3 and 4.
Differs: all heads share one offset of the strided blocks, so that other blocks are dropped. The pattern is a mask over
what is kept, without a block-sparse kernel. The paper does not state sinks, base or learning rate; those here are ours.
Cost: keys and values of T * full layers + (sinks + window) * sparse layers; O(T) a token in the full layers, O(sinks +
window) in the others.

Shapes: B rows, H query heads, G key-value heads, T new tokens, S kept tokens, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from recollect.context.attention import Band, Part, attend_fused
from recollect.context.cache import Layer, append
from recollect.context.policy import ContextMemory
from recollect.errors import InvalidInput


@dataclass
class LongGen(ContextMemory):
    """A hybrid of full and sparse layers (the paper keeps about 2K of 128K tokens in a sparse one)."""

    chunk_tokens: int = 2048
    full_share: float = 1 / 3  # of the layers; rounded, and at least one
    place: Literal["middle", "bottom", "top", "interleaved"] = "middle"  # of the full layers; the paper: middle
    pattern: Literal["window", "blocks"] = "window"
    num_sink_tokens: int = 64  # of the window pattern
    window_tokens: int = 1984
    block_tokens: int = 64  # of the block pattern
    num_local_blocks: int = 16
    num_stride_blocks: int = 128  # older blocks are kept whose number is divisible by this

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(full_share=0.0, num_sink_tokens=0, window_tokens=1)
        self.check(block_tokens=1, num_local_blocks=1, num_stride_blocks=1)
        for name, known in (("place", ("middle", "bottom", "top", "interleaved")), ("pattern", ("window", "blocks"))):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{name}: {getattr(self, name)!r:.20} is not known; use {', '.join(known)}.")

    def full_layers(self, num_layers: int) -> list[int]:
        """The layers that keep everything; the bottom one is 0."""
        if not self.full_share:
            return []
        num = min(num_layers, max(1, round(self.full_share * num_layers)))
        if self.place == "interleaved":
            return [(2 * each + 1) * num_layers // (2 * num) for each in range(num)]
        start = {"bottom": 0, "middle": (num_layers - num) // 2, "top": num_layers - num}[self.place]
        return list(range(start, start + num))

    def kept_tokens(self, num_read: int) -> int:
        """Tokens of a stream of `num_read` that a sparse layer keeps for the next one, which counts in its own window."""
        return int(self.sees(torch.tensor(num_read), torch.arange(num_read)).sum())

    def kept_share(self, num_read: int, num_layers: int) -> float:
        """Share of the full cache that is kept of a stream of `num_read` tokens: f + (1 - f) r."""
        full = len(self.full_layers(num_layers)) / num_layers
        return full + (1 - full) * self.kept_tokens(num_read) / num_read

    def sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether a sparse layer's query at a place in the stream may look at a key at another, broadcast; causal.

        What a query does not see, no later one does.
        """
        if self.pattern == "window":
            near = (queries - keys < self.window_tokens) | (keys < self.num_sink_tokens)
        else:
            block = keys // self.block_tokens
            near = queries // self.block_tokens - block < self.num_local_blocks
            near = near | (block % self.num_stride_blocks == 0)
        return near & (queries >= keys)

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Everything, or what the pattern shows; each key at its true place."""
        if layer.index in self.full_layers(layer.num_layers):
            return self._attend_full(layer, queries, keys, values)
        state, (B, _, T, _) = layer.state, keys.shape
        stream = torch.arange(layer.num_read, layer.num_read + T, device=keys.device)
        places = stream
        if "keys" in state:
            keys = torch.cat([state["keys"], keys], dim=2)
            values = torch.cat([state["values"], values], dim=2)
            places = torch.cat([state["places"][0], stream])
        end = layer.num_read + T
        mask = self.sees(stream[:, None], places)
        part = Part(layer.rotate(queries, stream, end), layer.rotate(keys, places, end), values, mask)
        kept = self.sees(stream.new_full((), end), places).nonzero()[:, 0]
        state["keys"], state["values"] = (x if len(kept) == x.shape[2] else x[:, :, kept] for x in (keys, values))
        state["places"] = places[kept].repeat(B, 1)
        return attend_fused([part], layer)

    def _attend_full(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Causal attention to all that was read; the cache [B, S, G, D] is appended to."""
        T = keys.shape[2]
        for name, new in (("keys", keys), ("values", values)):
            append(layer.state, name, new.transpose(1, 2))
        keys, values = (layer.state[name].tensor.transpose(1, 2) for name in ("keys", "values"))
        S = keys.shape[2]
        turned = layer.rotate(queries, slice(S - T, S), S)
        return attend_fused([Part(turned, layer.rotate(keys, slice(S), S), values, Band(S - T))], layer)


def raise_rope_base(model: Any, length: int, base: float | None = None) -> None:
    """Let a model with plain rotary positions reach `length` tokens, by a larger base; the weights stay.

    `base` None: the base times (length / trained length) ** (R / (R - 2)), with which the slowest of the R / 2
    frequencies turns within `length` as far as it did within the trained length (NTK-aware scaling). Raises
    InvalidInput for a model whose positions are scaled already, or when `length` is below the trained one.
    """
    config = model.config
    decoder = next((part for part in model.modules() if hasattr(part, "rotary_emb") and hasattr(part, "layers")), None)
    parameters = getattr(config, "rope_parameters", None)
    if decoder is None or not parameters or parameters.get("rope_type", "default") != "default":
        raise InvalidInput(f"model: {type(model).__name__} has no plain rotary positions; name one that has.")
    trained = config.max_position_embeddings
    if length < trained:
        raise InvalidInput(f"length: {length} is below the trained {trained} tokens; use more.")
    width = 2 * len(decoder.rotary_emb.inv_freq)
    grown = parameters["rope_theta"] * (length / trained) ** (width / (width - 2))
    config.rope_parameters = {**parameters, "rope_theta": float(grown if base is None else base)}
    config.max_position_embeddings = length
    decoder.rotary_emb = type(decoder.rotary_emb)(config=config).to(model.device)
