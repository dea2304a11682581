"""StreamingLLM: attend to the first few tokens and to a sliding window, with positions counted inside the cache.

Remembers the first `num_sink_tokens` (attention sinks, where trained models put attention that they have no use for) and
the last `window_tokens` of each layer; what lies between is dropped. Positions are those in the cache, so a sink stands
right before the window however long the stream is, and no distance is larger than the cache.

Paper: Efficient Streaming Language Models with Attention Sinks, arXiv:2309.17453 (2023), section 3.2.
Differs: a chunk gives what its tokens would give one by one, where the authors' code lets a chunk see a shorter past.
Cost: (sinks + window) * layers * key-value heads * head size * 2 values; O(sinks + window) a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from recollect.context.attention import Window, sink_window
from recollect.context.cache import Layer
from recollect.context.policy import ContextMemory


@dataclass
class StreamingLLM(ContextMemory):
    """Attention sinks and a window (the paper's 4 + 1020)."""

    num_sink_tokens: int = 4
    window_tokens: int = 1020

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_sink_tokens=0, window_tokens=1)

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """Up to 4 sinks, the rest window."""
        num_sinks = min(4, attended_tokens // 4)
        return cls(num_sink_tokens=num_sinks, window_tokens=attended_tokens - num_sinks)

    def window(self) -> Window:
        """Sinks keep their positions; the query that has left them behind stands at the end of the cache."""
        last = self.num_sink_tokens + self.window_tokens - 1

        def place_sinks(stream: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor, int]:
            return stream.clamp(max=last), sinks, last + 1

        return Window(self.window_tokens, self.num_sink_tokens, place_sinks)

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to the window."""
        return sink_window(layer, queries, keys, values, self.window())
