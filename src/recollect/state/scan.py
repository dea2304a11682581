"""Recurrences in parallel over time, each beside the loop that defines it.

`linear_scan` runs h_t = a_t * h_{t-1} + b_t for tensors of any trailing shape in logarithmic depth; `associative_scan`
does it for any associative operation. `recurrence` runs a matrix memory that is written by outer products, with decay and
the delta rule as wanted, in chunks: within a chunk by matrix products, from chunk to chunk by carrying the memory.

Papers: Blelloch, Prefix Sums and Their Applications (1990); Yang et al., Parallelizing Linear Transformers with the Delta
Rule over Sequence Length, arXiv:2406.06484 (2024), and Gated Delta Networks, arXiv:2412.06464 (2024), section 3.
Cost: the scan O(T) operations and memory; the recurrence O(T (C + K) V) for chunks of C tokens and memories of K x V values.

Shapes: B rows, T tokens, H heads, K key size, V value size, C tokens a chunk, N chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from recollect.state import kernels

Elements = tuple[Tensor, ...]


def associative_scan(combine: Callable[[Elements, Elements], Elements], elements: Sequence[Tensor]) -> Elements:
    """Prefixes e_1, e_1 . e_2, ... along dimension 1, where `combine(earlier, later)` is the operation, vectorised.

    Each tensor is [B, T, ...]; what `combine` returns has the shapes of its arguments, broadcast.
    """
    elements = tuple(elements)
    T = elements[0].shape[1]
    if T == 1:
        return elements
    paired = combine(
        tuple(each[:, : T - T % 2 : 2] for each in elements), tuple(each[:, 1::2] for each in elements)
    )  # element of each two neighbours
    odd = associative_scan(combine, paired)
    first = tuple(each[:, :1] for each in elements)
    if T > 2:
        inner = combine(tuple(each[:, : (T - 1) // 2] for each in odd), tuple(each[:, 2::2] for each in elements))
        even = tuple(torch.cat([one.expand_as(many[:, :1]), many], 1) for one, many in zip(first, inner, strict=True))
    else:
        even = first
    return tuple(_interleave(one, two) for one, two in zip(even, odd, strict=True))


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """[B, T, ...] with the even places from the first and the odd ones from the second."""
    num = odd.shape[1]
    joined = torch.stack([even[:, :num], odd], 2).flatten(1, 2)
    return joined if even.shape[1] == num else torch.cat([joined, even[:, num:]], 1)


def running_sum(x: Tensor, chunk_tokens: int = 256) -> Tensor:
    """`x.cumsum(1)` of [B, T, ...] in two levels: a GPU goes over a single long sum one token after the other."""
    if x.shape[1] <= chunk_tokens:
        return x.cumsum(1)

    def filled(x: Tensor, before: int, behind: int) -> Tensor:
        return F.pad(x, [0, 0] * (x.ndim - 2) + [before, behind])

    within = filled(x, 0, -x.shape[1] % chunk_tokens).unflatten(1, (-1, chunk_tokens)).cumsum(2)  # [B, N, C, ...]
    earlier = filled(within[:, :-1, -1].cumsum(1), 1, 0)
    return (within + earlier[:, :, None]).flatten(1, 2)[:, : x.shape[1]]


def linear_scan(decay: Tensor, value: Tensor, initial: Tensor | None = None) -> Tensor:
    """h_t = decay_t * h_{t-1} + value_t, element by element: all h [B, T, ...].

    `decay` [B or 1, T or 1, ...] broadcasts against `value` [B, T, ...], real or complex; `initial` [B, ...] is h before
    the first token, None for zero. Gradients pass.
    """
    if initial is not None:
        first = decay[:, 0] * initial + value[:, 0]
        value = torch.cat([first[:, None], value[:, 1:]], 1)
    decay = decay.expand(decay.shape[0], value.shape[1], *decay.shape[2:])

    def combine(earlier: Elements, later: Elements) -> Elements:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    return associative_scan(combine, (decay, value))[1]


def linear_loop(decay: Tensor, value: Tensor, initial: Tensor | None = None) -> Tensor:
    """What `linear_scan` gives, token by token: its specification."""
    decay = decay.expand(decay.shape[0], value.shape[1], *decay.shape[2:])
    h = torch.zeros_like(value[:, 0]) if initial is None else initial
    found = []
    for t in range(value.shape[1]):
        h = decay[:, t] * h + value[:, t]
        found.append(h)
    return torch.stack(found, 1)


def recurrence(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Tensor,
    log_decay: Tensor | None = None,
    rate: Tensor | None = None,
    chunk_tokens: int = 64,
) -> tuple[Tensor, Tensor]:
    """Read q_t M_t from a memory that is written at each token, in chunks: ([B, T, H, V], memory after the last token).

    Without `rate`:  M_t = a_t M_{t-1} + k_t^T v_t               (linear attention; with decay: retention, Mamba-2)
    With `rate`:     M_t = a_t M_{t-1} + r_t k_t^T (v_t - k_t a_t M_{t-1})   (delta rule; with decay: gated delta rule)

    queries, keys [B, T, H, K]; values [B, T, H, V]; memory [B, H, K, V], kept in float32; log_decay [B, T, H]: log a_t, at
    most 0, None for a_t = 1; rate [B, T, H] in 0..1. The delta rule wants keys of length 1. Computed in float32, returned
    as the values' type; on a GPU by the fused kernels of `kernels.recurrence` where they fit.
    """
    if (fused := kernels.recurrence(queries, keys, values, memory, log_decay, rate)) is not None:
        return fused
    (B, T, H, _), kind = queries.shape, values.dtype
    C = min(chunk_tokens, T)
    pad = -T % C

    def chunks(x: Tensor) -> Tensor:  # [B, T, H, ...] -> [N, B, H, C, ...]; padding writes nothing and decays nothing
        x = F.pad(x.float(), (0, 0) * (x.ndim - 2) + (0, pad))
        return x.unflatten(1, (-1, C)).movedim((1, 3), (0, 2))

    q, k, v = chunks(queries), chunks(keys), chunks(values)
    later = torch.ones(C, C, dtype=torch.bool, device=q.device).triu(1)  # [t, s]: s comes after t
    if log_decay is None:
        total, between = q.new_ones(1, 1, 1, C), None
    else:
        passed = chunks(log_decay).cumsum(-1)  # from the start of the chunk through t
        total = passed.exp()
        between = (passed[..., :, None] - passed[..., None, :]).masked_fill(later, -torch.inf).exp()
    rest = total.new_ones(1) if between is None else between[..., -1, :]  # decay from s to the end of the chunk

    def decayed(products: Tensor) -> Tensor:  # [..., t, s] for s <= t
        return products.masked_fill(later, 0.0) if between is None else products * between

    scores = decayed(q @ k.mT)
    if rate is not None:
        r = chunks(rate)[..., None]
        eye = torch.eye(C, device=q.device)
        inner = (r * decayed(k @ k.mT)).tril(-1) + eye
        # written values: inner W = r (v - decayed k M), solved for both parts at once
        solved = torch.linalg.solve_triangular(
            inner, r * torch.cat([v, total[..., None] * k], -1), upper=False, unitriangular=True
        )
        v, against = solved.split([v.shape[-1], k.shape[-1]], -1)
    reading, writing = total[..., None] * q, (rest[..., None] * k).mT
    whole, memory, outputs = total[..., -1, None, None].expand(len(q), -1, -1, -1, -1), memory.float(), []
    for n in range(len(q)):
        written = v[n] if rate is None else v[n] - against[n] @ memory
        outputs.append(reading[n] @ memory + scores[n] @ written)
        memory = whole[n] * memory + writing[n] @ written
    y = torch.stack(outputs, 1).movedim(2, 3).reshape(B, T + pad, H, -1)
    return y[:, :T].to(kind), memory


def recurrence_loop(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Tensor,
    log_decay: Tensor | None = None,
    rate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `recurrence` gives, token by token: its specification."""
    q, k, v, found = queries.float(), keys.float(), values.float(), []
    memory = memory.float()
    for t in range(q.shape[1]):
        if log_decay is not None:
            memory = log_decay[:, t].float().exp()[..., None, None] * memory
        written = v[:, t]
        if rate is not None:
            written = rate[:, t, :, None].float() * (written - torch.einsum("bhk,bhkv->bhv", k[:, t], memory))
        memory = memory + torch.einsum("bhk,bhv->bhkv", k[:, t], written)
        found.append(torch.einsum("bhk,bhkv->bhv", q[:, t], memory))
    return torch.stack(found, 1).to(values.dtype), memory
