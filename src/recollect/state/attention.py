"""Causal softmax attention in the interface of a state layer: the baseline whose state grows with every token.

Remembers the rotated keys and the values of all tokens, or of the last `window_tokens`.

Papers: Attention Is All You Need, arXiv:1706.03762 (2017); RoFormer, arXiv:2104.09864 (2021), for the rotation.
Differs: a convolution of `conv_tokens` may come before queries, keys and values, as in the recurrent layers it is
compared with. A row that was reset keeps the columns of what it forgot, hidden.
Cost: 2 T D values a row, O(T) a token; with a window 2 W D values and O(W).

Shapes: B rows, T new tokens, S kept tokens, H heads, K head size, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.convolution import ShortConvolution
from recollect.state.layer import State, StateLayer


class Attention(StateLayer):
    """Multi-head causal attention with rotary positions."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 2,
        window_tokens: int | None = None,
        num_persistent: int = 0,  # learned vectors that every token sees, as in Titans
        conv_tokens: int = 0,
        rope_base: float = 10000.0,
    ):
        super().__init__(dim)
        if dim % (2 * num_heads):
            raise InvalidInput(f"num_heads: {num_heads} heads of even size do not make {dim}; use another number.")
        self.num_heads, self.window_tokens, self.rope_base = num_heads, window_tokens, rope_base
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.persistent = nn.Parameter(torch.randn(num_persistent, dim) * dim**-0.5) if num_persistent else None
        self.conv = ShortConvolution(3 * dim, conv_tokens) if conv_tokens else None
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, num_rows: int = 1) -> State:
        """No keys [B, 0, H, K] and no values; `read` [B] tokens read, `start` [B] the first that is not forgotten."""
        empty = self.zeros(num_rows, 0, self.num_heads, self.dim // self.num_heads, dtype=None)
        count = self.zeros(num_rows, dtype=torch.int64)
        state = {"keys": empty, "values": empty, "read": count, "start": count}
        return state | ({"tail": self.conv.initial_tail(num_rows)} if self.conv else {})

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        T, new = x.shape[1], {}
        projected = self.project(x)
        if self.conv:
            projected, new["tail"] = self.conv(projected, state["tail"])
        q, k, v = projected.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        places = state["read"][:, None] + torch.arange(T, device=x.device)  # [B, T]
        plain = q
        q, k = rotate(q, places, self.rope_base), rotate(k, places, self.rope_base)
        keys, values = torch.cat([state["keys"], k], 1), torch.cat([state["values"], v], 1)
        S, size = keys.shape[1], q.shape[-1]
        alone = S == T and self.window_tokens is None and self.persistent is None
        seen_keys, seen_values, mask = keys, values, None
        if self.window_tokens is not None and self.window_tokens < T:
            q, plain, seen_keys, seen_values, mask = self._in_blocks(q, plain, keys, values, state)
        elif not alone:
            mask = self._mask(T, S, state, x.device)
        if self.persistent is not None:  # before all others, and met without rotation, in dimensions of their own
            fixed = self.project(self.persistent).unflatten(-1, (3, self.num_heads, -1)).expand(len(q), -1, -1, -1, -1)
            q, seen_values = torch.cat([q, plain], -1), torch.cat([fixed[:, :, 2], seen_values], 1)
            seen_keys = torch.cat([F.pad(fixed[:, :, 1], (size, 0)), F.pad(seen_keys, (0, size))], 1)
            mask = F.pad(mask, (fixed.shape[1], 0), value=True) if mask is not None else None
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            seen_keys.transpose(1, 2),
            seen_values.transpose(1, 2),
            mask,
            is_causal=alone,
            scale=size**-0.5,
        )
        y = y.transpose(1, 2).reshape(len(x), -1, self.dim)[:, :T]
        kept = 0 if self.window_tokens is None else max(0, S - self.window_tokens)
        new |= {"keys": keys[:, kept:], "values": values[:, kept:], "read": state["read"] + T, "start": state["start"]}
        return self.out(y), new

    def _mask(self, T: int, S: int, state: State, device: torch.device) -> Tensor:
        """[B, 1, T, S]: whether a new token sees a kept or new one."""
        column = torch.arange(S, device=device)
        own = torch.arange(S - T, S, device=device)[:, None]
        near = own >= column if self.window_tokens is None else (own >= column) & (own - column < self.window_tokens)
        first = state["start"] - state["read"] + S - T  # the column that a row remembers from
        return near & (column >= first[:, None, None, None])

    def _in_blocks(
        self, q: Tensor, plain: Tensor, keys: Tensor, values: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All in blocks of W new tokens, rows of a larger batch: queries [B N, W, H, K], keys and values of the block and of
        the one before it [B N, 2 W, H, K], and who sees whom [B N, 1, W, 2 W]. Linear in T, where `_mask` is T times S."""
        W, T, kept = self.window_tokens or 0, q.shape[1], keys.shape[1] - q.shape[1]
        N, after = -(-T // W), -T % W

        def own(x: Tensor) -> Tensor:
            return F.pad(x, (0, 0, 0, 0, 0, after)).reshape(-1, W, *x.shape[2:])

        def near(x: Tensor) -> Tensor:
            x = F.pad(x, (0, 0, 0, 0, W - kept, after)).unflatten(1, (N + 1, W))
            return torch.cat([x[:, :-1], x[:, 1:]], 2).flatten(0, 1)

        row, column = torch.arange(W, device=q.device)[:, None], torch.arange(2 * W, device=q.device)
        first = (W + (state["start"] - state["read"]).clamp(min=-kept))[
            :, None, None, None
        ]  # a row remembers from here
        place = W * torch.arange(N, device=q.device)[:, None, None] + column
        seen = (column > row) & (column <= row + W) & (place >= first)  # [B, N, W, 2 W]
        return own(q), own(plain), near(keys), near(values), seen.flatten(0, 1)[:, None]

    def reset(self, state: State, rows: Tensor) -> State:
        """See `StateLayer.reset`; the columns of what a row forgot stay, hidden."""
        state = state | {"start": torch.where(rows.to(state["read"].device), state["read"], state["start"])}
        if self.conv:
            tail = state["tail"]
            state["tail"] = torch.where(rows.to(tail.device)[:, None, None], self.conv.initial_tail(len(rows)), tail)
        return state

    def state_bytes(self, num_tokens: int = 0) -> int:
        """See `StateLayer.state_bytes`: grows by a key and a value of each head a token, up to the window."""
        kept = num_tokens if self.window_tokens is None else min(num_tokens, self.window_tokens)
        return super().state_bytes() + 2 * kept * self.dim * self.out.weight.element_size()


def rotate(x: Tensor, places: Tensor, base: float = 10000.0) -> Tensor:
    """x [B, T, H, K] turned by its place in `places` [B, T], or [T] for all rows."""
    one, two = x.float().chunk(2, -1)
    half = one.shape[-1]
    angle = places[..., None, None] * base ** (-torch.arange(half, device=x.device) / half)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([one * cos - two * sin, two * cos + one * sin], -1).to(x.dtype)
