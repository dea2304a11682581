"""One softmax over several parts of a memory, each of which may see the queries at a different angle.

A recent key and a far one are seldom placed alike: the recent one stands at its true distance, the far one at a capped or
constant distance. Each such group of keys is a `Part` with queries turned for it; `attend` joins them under one softmax.
`attend_fused` does the same in one call of PyTorch's fused attention: the heads of the parts are laid side by side
(queries [q1 q2], keys [k1 0] and [0 k2]), so that each key meets only the queries that were turned for it.
`attend_with_mass` says beside the output what each key got; on a GPU, mass_kernel.py does it.

`sink_window` is the attention of all that keep the first and the last tokens, a `Window`.

Shapes: B batch, H query heads, G key-value heads, T new tokens, S keys of a part, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, pad, scaled_dot_product_attention

if TYPE_CHECKING:
    from recollect.context.cache import Layer


@dataclass
class Part:
    """Keys that stand in one frame of positions, and the queries turned for that frame.

    queries [B, H, T, D] and keys [B, G, S, D] are rotated; values [B, G, S, D]; mask [.., T, S], broadcast to
    [B, H, T, S], is True where a query may look (None: everywhere), or a `Band`.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | Band | None = None

    def mask_tensor(self) -> Tensor | None:
        """The mask, written out."""
        if isinstance(self.mask, Band):
            return self.mask.tensor(self.queries.shape[2], self.keys.shape[2], self.keys.device)
        return self.mask


FARTHEST = 1 << 30  # no two tokens are so far apart


@dataclass(frozen=True)
class Band:
    """The mask of queries that see by distance: query t sees key s if `least` <= `ahead` + t - s < `most`."""

    ahead: int  # how far the first query stands behind the first key
    least: int = 0
    most: int = FARTHEST

    def tensor(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
        """[T, S], True where a query may look."""
        row = torch.arange(self.ahead, self.ahead + num_queries, device=device)[:, None]
        distance = row - torch.arange(num_keys, device=device)
        seen = distance >= self.least
        return seen if self.most == FARTHEST else seen & (distance < self.most)

    def count(self, query: int, num_keys: int) -> int:
        """How many of the keys a query sees."""
        at = self.ahead + query
        return max(0, min(num_keys, at - self.least + 1) - max(0, at - self.most + 1))


@dataclass(frozen=True)
class Window:
    """What a token attends to that keeps the last `tokens` tokens, each at its true distance, and the first of the stream.

    `place_sinks(queries [T], sinks [S])` is given positions in the stream and returns those at which the queries and the
    sinks that left the window are to stand, and a bound above them; what it returns is the same for all later queries.
    """

    tokens: int
    num_sinks: int = 0
    place_sinks: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, int]] | None = None


def logits(part: Part, scaling: float, softcap: float | None = None) -> Tensor:
    """Scores before the softmax, [B, H, T, S] in float32; what the mask hides is the least number."""
    B, H, T, D = part.queries.shape
    G = part.keys.shape[1]
    grouped = part.queries.reshape(B, G, H // G * T, D)
    scores = (grouped @ part.keys.transpose(-1, -2)).view(B, H, T, -1) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores, mask = scores.float(), part.mask_tensor()
    return scores if mask is None else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


def joint_softmax(
    scores: Sequence[Tensor], values: Sequence[Tensor], dropout_p: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """(output [B, H, T, D], weights of each part [B, H, T, S] in float32) of scores [B, H, T, S], values [B, G, S, D]."""
    weights = torch.softmax(torch.cat(list(scores), dim=-1), dim=-1)
    B, H, T, _ = weights.shape
    parts = weights.split([part.shape[-1] for part in scores], dim=-1)
    dropped = dropout(weights, dropout_p).to(values[0].dtype).split([part.shape[-1] for part in scores], dim=-1)
    output = sum(
        part.reshape(B, value.shape[1], -1, value.shape[2]) @ value for part, value in zip(dropped, values, strict=True)
    )
    assert isinstance(output, Tensor)
    return output.view(B, H, T, -1), list(parts)


def attend(parts: Sequence[Part], layer: Layer) -> tuple[Tensor, list[Tensor]]:
    """The readable form: (output [B, H, T, D], weights of each part [B, H, T, S] in float32)."""
    layer.count(parts)
    scores = [logits(part, layer.scaling, layer.softcap) for part in parts]
    return joint_softmax(scores, [part.values for part in parts], layer.dropout)


def attend_with_mass(parts: Iterable[Part], layer: Layer) -> tuple[Tensor, Callable[[int], Tensor]]:
    """(output [B, H, T, D], a function of n that says what each key of the n-th part got from all queries, [B, H, S]).

    Masks are the same for all heads. Parts may be made while they are asked for: on a GPU each is launched as it comes, so
    that what the next one waits for may overlap with it.
    """
    given: list[Part] = []
    kernel: Any = None
    so_far: tuple[Tensor, Tensor] | None = None
    for part in parts:
        if not given:
            kernel = mass_kernel(part.queries, layer)
        given.append(part)
        if kernel:
            so_far = kernel.part_attention(part.queries, part.keys, part.values, part.mask, layer.scaling, so_far)
    if so_far is None:
        output, weights = attend(given, layer)
        return output, lambda n: weights[n].detach().sum(dim=2)
    layer.count(given)
    output, sums = so_far

    def mass(n: int) -> Tensor:
        return kernel.part_mass(given[n].queries, given[n].keys, given[n].mask, sums, layer.scaling)

    return output.to(given[0].values.dtype), mass


def mass_kernel(queries: Tensor, layer: Layer) -> Any:
    """The module of kernels that do `attend_with_mass`; None where they do not apply."""
    module = kernels("mass_kernel", queries.device) if layer.softcap is None and not layer.dropout else None
    able = module is not None and queries.dtype in module.TYPES and queries.shape[-1] <= 256
    return module if able and not torch.is_grad_enabled() else None


def kernels(name: str, device: torch.device) -> Any:
    """The module of this name with Triton kernels, for a GPU; None on a CPU, and where Triton is not installed."""
    if device.type != "cuda":
        return None
    try:
        return import_module(f"recollect.context.{name}")
    except ImportError:
        return None


def attend_in_pieces(parts: Sequence[Part], layer: Layer, piece_tokens: int = 8192) -> Tensor:
    """The output of `attend` [B, H, T, D], with scores of at most `piece_tokens` keys at a time: a running softmax."""
    layer.count(parts)
    B, H, T, _ = parts[0].queries.shape
    top = parts[0].queries.new_full((B, H, T, 1), -torch.inf, dtype=torch.float32)
    total, output = torch.zeros_like(top), torch.zeros_like(top)
    for part in parts:
        whole = part.mask_tensor()
        for start in range(0, part.keys.shape[2], piece_tokens):
            cut = slice(start, start + piece_tokens)
            mask = None if whole is None else whole[..., cut]
            scores = logits(Part(part.queries, part.keys[:, :, cut], part.values, mask), layer.scaling, layer.softcap)
            highest = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
            weights, fade = (scores - highest).exp(), (top - highest).exp()
            value = part.values[:, :, cut]
            grouped = dropout(weights, layer.dropout).to(value.dtype).reshape(B, value.shape[1], -1, value.shape[2])
            output = output * fade + (grouped @ value).view(B, H, T, -1).float()
            top, total = highest, total * fade + weights.sum(dim=-1, keepdim=True)
    return (output / total).to(parts[0].values.dtype)


def attend_fused(parts: Sequence[Part], layer: Layer) -> Tensor:
    """The output of `attend` [B, H, T, D] in one fused call; soft-capped scores take the readable form."""
    if layer.softcap is not None:
        return attend(parts, layer)[0]
    layer.count(parts)
    D, sizes = parts[0].keys.shape[-1], [part.keys.shape[2] for part in parts]
    queries = torch.cat([part.queries for part in parts], dim=-1)
    keys = torch.cat(
        [pad(part.keys, (number * D, (len(parts) - 1 - number) * D)) for number, part in enumerate(parts)], dim=2
    )
    mask = None
    if any(part.mask is not None for part in parts):
        T, device = queries.shape[2], queries.device
        masks = [
            torch.ones(T, size, dtype=torch.bool, device=device) if mask is None else mask
            for mask, size in zip([part.mask_tensor() for part in parts], sizes, strict=True)
        ]
        shape = torch.broadcast_shapes(*(each.shape[:-1] for each in masks))
        mask = torch.cat([each.expand(*shape, size) for each, size in zip(masks, sizes, strict=True)], dim=-1)
    return scaled_dot_product_attention(
        queries,
        keys,
        torch.cat([part.values for part in parts], dim=2),
        attn_mask=mask,
        dropout_p=layer.dropout,
        scale=layer.scaling,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def tail(x: Tensor, length: int) -> Tensor:
    """The last `length` tokens of `x` [B, G, S, D], in memory of their own when some are dropped."""
    return x if x.shape[2] <= length else x[:, :, x.shape[2] - length :].clone()


def sink_window(layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, window: Window) -> Tensor:
    """Attention to a window and to the sinks that have left it.

    Keeps `window_keys`, `window_values`, `sink_keys`, `sink_values` in the layer's state; what a query sees does not
    depend on how the input is cut into chunks. Queries [B, H, T, D], keys and values [B, G, T, D], all unrotated; returns
    [B, H, T, D].
    """
    num_sinks, length = window.num_sinks, window.tokens
    state, T, seen, device = layer.state, keys.shape[2], layer.num_read, keys.device
    if num_sinks and seen < num_sinks:
        for name, new in (("sink_keys", keys), ("sink_values", values)):
            first = new[:, :, : num_sinks - seen].clone()
            state[name] = torch.cat([state[name], first], dim=2) if name in state else first
    if "window_keys" in state:
        known = (state[name].to(keys) for name in ("window_keys", "window_values"))  # the model may have been moved
        keys, values = (
            torch.cat([old, new], dim=2)[:, :, -(length + T - 1) :]  # what the first query sees
            for old, new in zip(known, (keys, values), strict=True)
        )
    S = keys.shape[2]
    turned = layer.rotate(queries, slice(S - T, S), S)
    near = Band(S - T, most=length) if T > 1 else None
    parts = [Part(turned, layer.rotate(keys, slice(S), S), values, near)]
    if window.place_sinks is not None and num_sinks and seen + T > length:
        stream = torch.arange(seen, seen + T, device=device)
        sinks = torch.arange(state["sink_keys"].shape[2], device=device)
        at_query, at_sink, bound = window.place_sinks(stream, sinks)
        parts.append(
            Part(
                layer.rotate(queries, at_query, bound),
                layer.rotate(state["sink_keys"].to(keys), at_sink, bound),
                state["sink_values"].to(keys),
                stream[:, None] - sinks >= length if seen - len(sinks) < length - 1 else None,
            )
        )
    state["window_keys"], state["window_values"] = tail(keys, length), tail(values, length)
    return attend_fused(parts, layer)
