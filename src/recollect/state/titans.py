"""Titans: attention for what is near, a neural memory that learns while it reads for what is far, and fixed vectors.

Remembers what `NeuralMemory` remembers, and a segment or window of keys and values; `num_persistent` learned vectors hold what
does not depend on the input. Three ways to join them: memory as context (`Titans`: a segment attends to itself and to what
the memory says about it), as gate (`TitansMAG`: side by side, multiplied), as layer (`TitansMAL`: memory first, then
attention). The memory alone, LMM, is `NeuralMemory`.

Paper: Titans: Learning to Memorize at Test Time, arXiv:2501.00663 (2025), section 4.
Differs: the paper leaves sizes, chunks and wiring open. In memory as context a segment is one chunk of the memory, and a
token sees what the memory said to itself and to earlier tokens of the segment only, so that nothing leaks from later ones.
Its product of attention and memory is taken once: the memory's normalised answer, gated by a linear map of what attention gave.
A second gate behind the memory's own hides what it says for long. What attention gave stands beside its input, as a residual.
Cost: that of `NeuralMemory`, and 4 C D values for a segment of C tokens (2 W D for a window of W); O(P + C D) a token.

Shapes: B rows, T tokens, C tokens a segment, N persistent vectors, H heads, K head size, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.attention import Attention, rotate
from recollect.state.layer import State, StateLayer, grouped, map_state, where
from recollect.state.neural_memory import NeuralMemory, look


class Titans(StateLayer):
    """Memory as context: h = M(S); y = norm(S + attention over [P | h | S]); the memory learns y; o = norm(M(y)) * silu(W y)."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 2,
        segment_tokens: int = 32,
        num_persistent: int = 4,
        depth: int = 2,
        expansion: int = 2,
        **memory: Any,  # further settings of NeuralMemory
    ):
        super().__init__(dim)
        if segment_tokens < 2 or num_persistent < 0 or dim % (2 * num_heads):
            raise InvalidInput(
                f"segment_tokens: {segment_tokens} with {num_persistent} persistent vectors and {num_heads} heads does not "
                f"fit; use 2 or more, 0 or more, and heads of even size that make {dim}."
            )
        self.num_heads, self.segment_tokens = num_heads, segment_tokens
        self.memory = NeuralMemory(dim, num_heads, depth, expansion, chunk_tokens=segment_tokens, **memory)
        self.persistent = nn.Parameter(torch.randn(num_persistent, dim) * dim**-0.5) if num_persistent else None
        self.ask = nn.Linear(dim, dim, bias=False)
        self.told = nn.Linear(dim, dim, bias=False)
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.attended = nn.Linear(dim, dim, bias=False)
        self.norm = nn.RMSNorm(dim)

    def initial_state(self, num_rows: int = 1) -> State:
        """`memory`, and of the segment so far `keys` and `values` [B, C, 2, H, K]: of what was told and of the tokens."""
        empty = self.zeros(num_rows, self.segment_tokens, 2, self.num_heads, self.dim // self.num_heads, dtype=None)
        return {"memory": self.memory.initial_state(num_rows), "keys": empty, "values": empty}

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        return grouped(self._mix, x, state, state["memory"]["place"])

    def _mix(self, x: Tensor, state: State, place: int) -> tuple[Tensor, State]:
        """All rows at the same place of their segment."""
        outputs, at = [], 0
        while at < x.shape[1]:
            piece = x[:, at : at + self.segment_tokens - place]
            y, state = self._segment(piece, state, place)
            outputs.append(y)
            place, at = (place + piece.shape[1]) % self.segment_tokens, at + piece.shape[1]
        return torch.cat(outputs, 1), state

    def _segment(self, x: Tensor, state: State, place: int) -> tuple[Tensor, State]:
        """Some tokens [B, L, D] of one segment, the first of them at `place` in it."""
        heads = (self.num_heads, -1)
        asked = F.normalize(F.silu(self.ask(x).float()).unflatten(-1, heads).transpose(1, 2), dim=-1)
        first = state["memory"]["first" if "first" in state["memory"] else "weights"]
        told = self.memory.norm(look(list(first.values()), asked).transpose(1, 2).to(x.dtype))
        h = self.told(told.flatten(2))

        spot = torch.arange(place, place + x.shape[1], device=x.device)
        q, k, v = self.project(x).unflatten(-1, (3, *heads)).unbind(2)
        _, k_told, v_told = self.project(h).unflatten(-1, (3, *heads)).unbind(2)
        new_keys = torch.stack([rotate(k_told, spot), rotate(k, spot)], 2)
        keys = torch.cat([state["keys"][:, :place], new_keys], 1)
        values = torch.cat([state["values"][:, :place], torch.stack([v_told, v], 2)], 1)
        seen = (spot[:, None] >= torch.arange(keys.shape[1], device=x.device)).repeat_interleave(2, 1)
        seen_keys, seen_values = keys.flatten(1, 2), values.flatten(1, 2)
        if self.persistent is not None:
            fixed = self.project(self.persistent).unflatten(-1, (3, *heads)).expand(len(x), -1, -1, -1, -1)
            seen_keys, seen_values = (
                torch.cat([fixed[:, :, 1], seen_keys], 1),
                torch.cat([fixed[:, :, 2], seen_values], 1),
            )
            seen = F.pad(seen, (fixed.shape[1], 0), value=True)
        turned = rotate(q, spot).transpose(1, 2)
        y = F.scaled_dot_product_attention(turned, seen_keys.transpose(1, 2), seen_values.transpose(1, 2), seen)
        y = self.norm(x + self.attended(y.transpose(1, 2).flatten(2)))
        y, memory = self.memory.mix(y, state["memory"])
        left = self.segment_tokens - keys.shape[1]
        over = left == 0  # of the segment: the next begins empty

        def kept(each: Tensor) -> Tensor:
            return torch.zeros_like(each) if over else F.pad(each, (0, 0) * (each.ndim - 2) + (0, left))

        after = {"memory": memory, "keys": kept(keys), "values": kept(values)}
        return y, after


class _WithWindow(StateLayer):
    """What the two others share: attention over a window and the persistent vectors, which the memory reads first."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 2,
        window_tokens: int = 32,
        num_persistent: int = 4,
        depth: int = 2,
        expansion: int = 2,
        chunk_tokens: int = 16,
        **memory: Any,  # further settings of NeuralMemory
    ):
        super().__init__(dim)
        self.memory = NeuralMemory(dim, num_heads, depth, expansion, chunk_tokens, **memory)
        self.attention = Attention(dim, num_heads, window_tokens, num_persistent)
        self.norm = nn.RMSNorm(dim)

    def initial_state(self, num_rows: int = 1) -> State:
        """`memory`, which has read the persistent vectors, and `attention`."""
        memory = self.memory.initial_state(1)
        if self.attention.persistent is not None:
            _, memory = self.memory.mix(self.attention.persistent[None], memory)
        memory = map_state(lambda each: each.expand(num_rows, *each.shape[1:]), memory)
        return {"memory": memory, "attention": self.attention.initial_state(num_rows)}

    def reset(self, state: State, rows: Tensor) -> State:
        """See `StateLayer.reset`."""
        memory = where(rows, self.initial_state(len(rows))["memory"], state["memory"])
        return {"memory": memory, "attention": self.attention.reset(state["attention"], rows)}

    def state_bytes(self, num_tokens: int = 0) -> int:
        """See `StateLayer.state_bytes`."""
        return super().state_bytes() + self.attention.state_bytes(num_tokens) - self.attention.state_bytes()


class TitansMAG(_WithWindow):
    """Memory as gate: y = norm(x + attention(x)); o = norm(M(x)) * silu(W y), projected."""

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        near, attention = self.attention.mix(x, state["attention"])
        far, memory = self.memory.answer(x, state["memory"])
        y = self.memory.gated(far, self.norm(x + near))
        return y, {"memory": memory, "attention": attention}


class TitansMAL(_WithWindow):
    """Memory as layer: h = x + M(x); o = attention(norm(h)) beside h."""

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        far, memory = self.memory.mix(x, state["memory"])
        near, attention = self.attention.mix(self.norm(x + far), state["attention"])
        return far + near, {"memory": memory, "attention": attention}
