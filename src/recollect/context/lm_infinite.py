"""LM-Infinite: attend to the first tokens and to a sliding window, never further away than training went.

Remembers the first `num_sink_tokens` and the last `window_tokens` keys and values of each layer; what lies between is
dropped. A first token that has left the window stands at the window's far end whatever its true distance is, so no
rotation angle is larger than any that was seen in training, and no token attends to more keys than in training.

Paper: LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models, arXiv:2308.16137 (2023), section 3.
Differs: the cache is bounded, where the authors' code keeps every key and masks. Distances are capped at the window minus
one, the largest that training saw, where theirs are capped one further. The top-k tokens from the middle that their
appendix adds for retrieval tasks need every key and are left out: that is what InfLLM does.
Cost: (sinks + window) * layers * key-value heads * head size * 2 values; O(sinks + window) a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from recollect.context.attention import Window, sink_window
from recollect.context.cache import Layer
from recollect.context.policy import ContextMemory


@dataclass
class LMInfinite(ContextMemory):
    """A Lambda-shaped mask and a cap on distances."""

    num_sink_tokens: int = 10
    window_tokens: int = 4096  # the trained length of the model

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_sink_tokens=0, window_tokens=1)

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """Up to 10 sinks, the rest window."""
        num_sinks = min(10, attended_tokens // 4)
        return cls(num_sink_tokens=num_sinks, window_tokens=attended_tokens - num_sinks)

    def window(self) -> Window:
        """Sinks stand at 0 and every query that has left them behind at the largest distance."""
        cap = self.window_tokens - 1

        def place_sinks(stream: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor, int]:
            return torch.full_like(stream, cap), torch.zeros_like(sinks), cap + 1

        return Window(self.window_tokens, self.num_sink_tokens, place_sinks)

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to the window."""
        return sink_window(layer, queries, keys, values, self.window())
