"""The comparison that LongMem is measured against: a decoder that is trained itself and reads what its earlier self wrote.

After Memorizing Transformers (arXiv:2203.08913): one layer of the decoder attends to a bank of keys and values of its own,
through the same gate for each head. What it wrote before an update was written with other weights, and so becomes stale.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recollect.state.adapt import Streams
from recollect.state.bank import MemoryBank
from recollect.state.decoder import decoder_of, unrotated
from recollect.state.longmem import LongMemSettings
from recollect.state.sidenet import MemoryAttention
from recollect.state.trainer import Plan, Progress, train


class Coupled(nn.Module):
    """A copy of a decoder with a bank at one layer. Each call is a window of its own, [B, T], and is written behind it."""

    def __init__(self, backbone: Any, settings: LongMemSettings, memory_layer: int):
        super().__init__()
        self.settings = settings
        self.model = copy.deepcopy(backbone).requires_grad_(True)
        decoder = decoder_of(self.model)
        layer, num_chunks = decoder.layers[memory_layer], settings.num_retrieved_tokens // settings.chunk_tokens
        layer.self_attn = MemoryAttention(layer.self_attn, decoder.config.num_attention_heads, num_chunks)
        self.attention = layer.self_attn.to(next(backbone.parameters()).device)
        self.memory = MemoryBank(settings.memory_tokens, settings.chunk_tokens)
        self.window: tuple[Tensor, Tensor] | None = None  # keys and values that are still to be written

    def reset(self, rows: list[int] | None = None) -> None:
        """Begin new texts in some rows, or in all (None)."""
        self.flush()
        self.memory.clear(rows)

    def flush(self) -> None:
        """Write the last window."""
        if self.window is not None:
            self.memory.add(*self.window)
        self.window = None

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of a window [B, T]."""
        self.flush()
        self.attention.memory = self.memory
        caught: dict[str, Any] = {}
        hook = self.attention.register_forward_pre_hook(
            lambda module, args, options: caught.update(options), with_kwargs=True
        )
        try:
            logits = self.model(input_ids, use_cache=False).logits
        finally:
            hook.remove()
        with torch.no_grad():
            turn = caught["position_embeddings"]
            self.window = unrotated(self.attention.inner, caught["hidden_states"], turn)[1:]
        return logits

    @torch.no_grad()
    def memorize(self, input_ids: Tensor) -> None:
        """Read a text [B, T] window by window and write it."""
        for window in input_ids.split(self.settings.segment_tokens, dim=1):
            self(window)
        self.flush()

    def adapt(self, streams: Streams, plan: Plan, progress: Progress = lambda *_: None) -> list[float]:
        """Train all of it, as `recollect.state.adapt.adapt` trains a side network; the loss of each step in nats."""
        segments = iter(streams)

        def loss(step: int) -> Tensor:
            ids, new = next(segments)
            self.flush()
            self.memory.clear(None if len(new) == len(ids) else new)
            ids = ids.to(next(self.parameters()).device)
            return cross_entropy(self(ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())

        losses = train(self, loss, plan, None, progress)
        self.reset()
        return losses
