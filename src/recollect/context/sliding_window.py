"""SlidingWindow: attend to the last tokens only; the plainest bounded memory, kept as a baseline.

Remembers the last `window_tokens` keys and values of each layer at their true distances. Models that were trained with
full attention lose their fluency when the first token leaves the window; StreamingLLM and LM-Infinite mend that.

No paper of its own; the window of Longformer (arXiv:2004.05150) and Mistral 7B (arXiv:2310.06825), put on any model.
Cost: window * layers * key-value heads * head size * 2 values; O(window) a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from recollect.context.attention import Window, sink_window
from recollect.context.cache import Layer
from recollect.context.policy import ContextMemory


@dataclass
class SlidingWindow(ContextMemory):
    """A window of the last tokens."""

    window_tokens: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(window_tokens=1)

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """All of it window."""
        return cls(window_tokens=attended_tokens)

    def window(self) -> Window:
        """The last tokens."""
        return Window(self.window_tokens)

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to the window."""
        return sink_window(layer, queries, keys, values, self.window())
