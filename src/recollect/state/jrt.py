"""JRT-RNN: linear attention that reads the beginning of a stream as a whole before it goes on token by token.

Remembers what linear attention remembers; and of the first `prefix_tokens`, the prompt, a second sum with keys and values of
its own, which every token of the prompt sees in full. So what is kept need not be decided before the rest was seen.

Paper: Just read twice: closing the recall gap for recurrent language models, arXiv:2407.05483 (2024), section 4. Its other
half, JRT-Prompt, is `recollect.context.jrt`.
Differs: a prompt shorter than the prefix is taken as it is, without padding; it must come in one call. Where the paper's
network has layers of short convolutions between, ours has one before the keys and values of either sum.
Cost: as linear attention; no more state.

Tokens of the prefix see what comes after them within it: no loss of next tokens may be taken there.

Shapes: B rows, T tokens, H heads, F features, V value size, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recollect.state.convolution import ShortConvolution
from recollect.state.layer import State, StateLayer, grouped
from recollect.state.linear_attention import FeatureMap, LinearAttention, features


class PrefixLinearAttention(StateLayer):
    """y_i = phi(q_i) (sum_{j <= i} phi(k_j) v_j + sum_{j <= prefix} phi(k'_j) v'_j), normalised by the same without v."""

    def __init__(
        self,
        dim: int,
        prefix_tokens: int = 1024,
        num_heads: int = 2,
        key_size: int | None = 16,
        feature_map: FeatureMap = "taylor",
        conv_tokens: int = 4,
        chunk_tokens: int = 64,
    ):
        super().__init__(dim)
        self.prefix_tokens = prefix_tokens
        self.causal_part = LinearAttention(dim, num_heads, key_size, feature_map, conv_tokens, chunk_tokens)
        size = self.causal_part.key_size
        self.sizes = [num_heads * size, dim]
        self.prefix = nn.Linear(dim, sum(self.sizes), bias=False) if prefix_tokens else None
        self.prefix_conv = ShortConvolution(sum(self.sizes), conv_tokens) if prefix_tokens and conv_tokens else None

    def initial_state(self, num_rows: int = 1) -> State:
        """That of `LinearAttention`, and whether anything was `read` [B]."""
        begun = torch.zeros(num_rows, dtype=torch.int64, device="cpu")
        return self.causal_part.initial_state(num_rows) | {"read": begun}

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        return grouped(self._mix, x, state, state["read"])

    def _mix(self, x: Tensor, state: State, read: int) -> tuple[Tensor, State]:
        """All rows at their beginning (`read` 0), or none."""
        inner = {name: each for name, each in state.items() if name != "read"}
        if not read and self.prefix:
            part = self.causal_part
            projected = self.prefix(x[:, : self.prefix_tokens])
            if self.prefix_conv:
                projected, _ = self.prefix_conv(projected, self.prefix_conv.initial_tail(len(x)))
            k, v = (each.unflatten(-1, (part.num_heads, -1)) for each in projected.split(self.sizes, -1))
            v = torch.cat([v.float(), torch.ones_like(v[..., :1], dtype=torch.float32)], -1)
            seen = torch.einsum("bthf,bthv->bhfv", features(k, part.feature_map), v)
            inner = inner | {"memory": inner["memory"] + seen}
        y, inner = self.causal_part.mix(x, inner)
        return y, inner | {"read": torch.ones_like(state["read"])}
