"""HiP: each block of queries finds its best key blocks by a search in a tree, and attends to those.

Remembers every key and value. Keys that are neighbours tend to have like scores, so a block of queries cuts what lies before
its window into `num_far_tokens / key_block_tokens` ranges, halves each, looks at the key block in the middle of every half,
and goes on with the better half of the halves until a range is one block. Attention goes to those blocks, to the first tokens
and to the window. On a GPU, hip_kernel.py does both steps; what stands here is its specification.

Paper: A Training-Free Sub-quadratic Cost Transformer Model Serving Framework with Hierarchically Pruned Attention,
arXiv:2406.09827 (2024), section 3.
Differs: the query heads of a group share one search. Ranges end where the window begins, so each token is seen once. With
`far_distance_tokens`, all far keys stand at one distance, so that a stream may outgrow the trained length (InfiniteHiP,
arXiv:2502.08910, has this aim by other positions). Keys stay on the model's device.
Cost: every key and value. A query block: 2 * far * log2(length / far) products for the search of each sampled query;
O(first + far + window) products a token. No tensor grows with the square of the length.

Shapes: B rows, H query heads, G key-value heads, T new tokens, S tokens so far, N query blocks of q tokens, Q sampled
queries of a group, F chosen key blocks of b tokens, C candidates, R recent tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from recollect.context.attention import Band, Part, attend_fused, joint_softmax, kernels, logits, tail
from recollect.context.cache import Layer, append, note_attended
from recollect.context.far import place_keys, place_queries
from recollect.context.policy import ContextMemory
from recollect.errors import InvalidInput


@dataclass
class HiP(ContextMemory):
    """Hierarchically pruned attention (the paper's settings)."""

    bounded: ClassVar[bool] = False

    chunk_tokens: int = 4096  # many query blocks at once keep a GPU busy
    num_sink_tokens: int = 16  # first tokens, always attended to
    num_far_tokens: int = 512  # found by the search; 1024 or more for hard retrieval
    window_tokens: int = 256
    query_block_tokens: int = 64  # share one search
    query_stride_tokens: int = 2  # every such query of a block takes part in the search
    key_block_tokens: int = 2
    refresh_tokens: int = 8  # that many tokens are decoded with one search
    num_dense_layers: int = 3  # the first ones attend to everything
    far_distance_tokens: int | None = None  # far keys stand this far from every query; None: at their true distance

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(num_sink_tokens=0, window_tokens=1, query_block_tokens=1, query_stride_tokens=1, key_block_tokens=1)
        self.check(num_far_tokens=self.key_block_tokens, refresh_tokens=1, num_dense_layers=0)
        for name in ("num_sink_tokens", "num_far_tokens"):
            if getattr(self, name) % self.key_block_tokens:
                raise InvalidInput(f"{name}: {getattr(self, name)} is no multiple of key_block_tokens; use one.")
        if self.far_distance_tokens is not None:
            self.check(far_distance_tokens=1)
            if self.num_dense_layers:
                raise InvalidInput(
                    "num_dense_layers: dense layers keep true distances; use 0 with far_distance_tokens."
                )

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Self:
        """A third window, the rest far; no dense layers, and far keys stand where the window ends."""
        query_block, sinks = max(1, attended_tokens // 16), 2 * (attended_tokens // 32)
        refresh = max(1, attended_tokens // 32)
        window = max(1, attended_tokens // 3)
        near = window + query_block + refresh + 2
        far = max(2, 2 * ((attended_tokens - sinks - near) // 2))
        return cls(
            chunk_tokens=8 * query_block if query_block > 1 else 1,
            num_sink_tokens=sinks,
            num_far_tokens=far,
            window_tokens=window,
            query_block_tokens=query_block,
            refresh_tokens=refresh,
            num_dense_layers=0,
            far_distance_tokens=sinks + near,
        )

    def attend(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Store the chunk, search unless a decoded token may use the last search, and attend to what was found."""
        state, T, start = layer.state, queries.shape[2], layer.num_read
        placed = place_keys(layer, keys, start, self.far_distance_tokens)
        append(state, "keys", placed.detach().transpose(1, 2).contiguous())
        append(state, "values", values.detach().transpose(1, 2).contiguous())
        far_queries = place_queries(layer, queries, start, self.far_distance_tokens)
        if layer.index < self.num_dense_layers:
            return _dense(layer, far_queries)
        recent = torch.cat([state["recent"], keys], dim=2) if "recent" in state else keys
        R = recent.shape[2]
        near_queries, near_keys = layer.rotate(queries, slice(R - T, R), R), layer.rotate(recent, slice(R), R)
        reach = self.window_tokens + self.num_sink_tokens + self.key_block_tokens + self.refresh_tokens
        state["recent"] = tail(recent, reach).detach()
        if T == 1 and "chosen" in state and start % self.refresh_tokens:
            chosen, ends = state["chosen"], state["host_end"][:1]
        else:
            ends = self._ends(start, T)
            chosen = self._choose(layer, far_queries, ends)
            state.pop("chosen", None)
            if T == 1:
                state["chosen"], state["host_end"] = chosen, ends.expand(len(queries)).clone()
        near = start + T - int(ends[-1]) * self.key_block_tokens
        note_attended(layer.counts, (chosen[:, :, -1] >= 0).sum(-1).max() * self.key_block_tokens + near)
        kernel = kernels("hip_kernel", keys.device) if layer.softcap is None and not layer.dropout else None
        run = kernel.block_attention if kernel else block_attention
        return run(
            far_queries,
            near_queries,
            state["keys"].tensor,
            near_keys,
            state["values"].tensor,
            chosen,
            ends,
            self.query_block_tokens,
            self.key_block_tokens,
            layer.scaling,
            layer.softcap,
        )

    def _ends(self, start: int, num_tokens: int) -> Tensor:
        """The key block [N] at which the near tokens of each query block begin: all before it is far.

        That is where the window of its first query begins, or 0 as long as only first tokens lie before that.
        """
        first = torch.arange(start, start + num_tokens, self.query_block_tokens)
        left = first - self.window_tokens + 1 - self.num_sink_tokens
        ends = (self.num_sink_tokens + left) // self.key_block_tokens
        return torch.where(left > 0, ends, 0)

    def _choose(self, layer: Layer, queries: Tensor, ends: Tensor) -> Tensor:
        """The far key blocks [B, G, N, F] of each query block: first tokens, and those that the search found; -1: none."""
        keys = layer.state["keys"].tensor
        B, _, T, D = queries.shape
        G, N, device = keys.shape[2], len(ends), keys.device
        first, block = self.num_sink_tokens // self.key_block_tokens, self.key_block_tokens
        size = min(self.query_block_tokens, T)
        sampled = torch.arange(size - 1, -1, -self.query_stride_tokens, device=device)
        at = (torch.arange(N, device=device)[:, None] * size + sampled).clamp(max=T - 1)  # [N, sampled]
        some = queries[:, :, at].unflatten(1, (G, -1)).transpose(2, 3).reshape(B, G, N, -1, D)
        kernel = kernels("hip_kernel", device)
        found, products = search(
            some, keys, ends, first, self.num_far_tokens // block, block, kernel.rate if kernel else rate
        )
        layer.counts["search_products"] = layer.counts.get("search_products", 0) + products
        sinks = torch.arange(first, device=device).expand(B, G, N, -1)
        known = (ends > 0).to(device)[:, None]
        return torch.cat([sinks.where(known, -1), found], dim=-1)


Rate = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def search(
    queries: Tensor, keys: Tensor, ends: Tensor, first: int, num: int, block: int, rate: Rate
) -> tuple[Tensor, int]:
    """(key blocks [B, G, N, num] with the greatest scores, ascending, -1: none; number of products of queries and keys).

    queries [B, G, N, Q, D], keys [B, S, G, D]; query block n looks among the key blocks of `block` tokens from `first` to
    `ends[n]` - 1 (ends [N] in host memory). Where these are no more than `num`, all are found.
    """
    B, G, N, Q, _ = queries.shape
    device, most = keys.device, max(0, int(ends.max()) - first)
    lengths = (ends - first).clamp(min=0).to(device, non_blocking=True)
    edges = torch.arange(num + 1, device=device) * lengths[:, None] // num
    left = (edges[:, :-1] + first).expand(B, G, -1, -1)
    size = edges.diff().expand(B, G, -1, -1)
    rounds = (-(-most // num) - 1).bit_length() if most > num else 0
    for _ in range(rounds):
        half = size // 2
        left, size = torch.cat([left, left + half], dim=-1), torch.cat([half, size - half], dim=-1)
        middle = left + size // 2
        scores = rate(queries, keys, middle, block).masked_fill(size == 0, -torch.inf)
        best = scores.topk(num, dim=-1, sorted=False).indices
        left, size = left.gather(-1, best), size.gather(-1, best)
    return left.where(size > 0, -1).sort(dim=-1).values, B * G * N * Q * rounds * 2 * num * block


def rate(queries: Tensor, keys: Tensor, blocks: Tensor, block: int) -> Tensor:
    """The greatest product of a query with a key of each block, [B, G, N, C] in float32.

    queries [B, G, N, Q, D], keys [B, S, G, D], blocks [B, G, N, C] of `block` tokens.
    """
    tokens = (blocks[..., None] * block + torch.arange(block, device=blocks.device)).clamp(max=keys.shape[1] - 1)
    picked = _pick(keys, tokens.flatten(2)).unflatten(2, (blocks.shape[2], -1))  # [B, G, N, C * b, D]
    products = (queries @ picked.transpose(-1, -2)).float()
    return products.amax(dim=3).unflatten(-1, (-1, block)).amax(dim=-1)


def block_attention(
    far_queries: Tensor,
    near_queries: Tensor,
    keys: Tensor,
    near_keys: Tensor,
    values: Tensor,
    chosen: Tensor,
    ends: Tensor,
    query_block: int,
    block: int,
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """Attention [B, H, T, D] of each query block to its chosen far key blocks and, causally, to all from `ends` on.

    far_queries, near_queries [B, H, T, D], of the last T tokens; keys, values [B, S, G, D]; near_keys [B, G, R, D], the last
    R of them, as near queries meet them; chosen [B, G, N, F], -1: none; ends [N] in host memory, in key blocks.
    """
    (_, H, T, _), S, R = far_queries.shape, keys.shape[1], near_keys.shape[2]
    outputs = []
    for number, end in enumerate(ends.tolist()):
        rows = slice(number * query_block, min((number + 1) * query_block, T))
        blocks = chosen[:, :, number]
        tokens = (blocks[..., None] * block + torch.arange(block, device=blocks.device)).flatten(2).clamp(0, S - 1)
        known = (blocks >= 0).repeat_interleave(block, dim=-1).repeat_interleave(H // keys.shape[2], dim=1)
        far = Part(far_queries[:, :, rows], _pick(keys, tokens), _pick(values, tokens), known[:, :, None])
        begin, stop = end * block, S - T + rows.stop
        near = Part(
            near_queries[:, :, rows],
            near_keys[:, :, begin - S + R : stop - S + R],
            values[:, begin:stop].transpose(1, 2),
            Band(stop - begin - (rows.stop - rows.start)),
        )
        parts = (far, near)
        scores = [logits(part, scaling, softcap) for part in parts]
        outputs.append(joint_softmax(scores, [part.values for part in parts])[0])
    return torch.cat(outputs, dim=2)


def _pick(x: Tensor, tokens: Tensor) -> Tensor:
    """Tokens [B, G, n] of `x` [B, S, G, D], as [B, G, n, D]."""
    return x.transpose(1, 2).gather(2, tokens[..., None].expand(-1, -1, -1, x.shape[-1]))


def _dense(layer: Layer, queries: Tensor) -> Tensor:
    """Attention of the last T tokens to everything; no mask is made on a GPU."""
    keys, values = (layer.state[name].tensor.transpose(1, 2) for name in ("keys", "values"))
    T, S = queries.shape[2], keys.shape[2]
    note_attended(layer.counts, S)
    if layer.softcap is not None:
        return attend_fused([Part(queries, keys, values, Band(S - T))], layer)
    return scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=causal_lower_right(T, S),
        dropout_p=layer.dropout,
        scale=layer.scaling,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
