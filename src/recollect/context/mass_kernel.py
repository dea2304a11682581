"""Attention that also says what each key got, and the fetching of blocks from host memory, as Triton kernels.

Imported on a GPU only. The specifications: `attention.attend_with_mass` of `part_attention` and `part_mass`, the plain form in
`FarRing.attend` of `step_attention`, and `far.copy_tokens` of `copy_tokens`.

A chunk goes through the parts, one after the other, by one running softmax, which gives an output and the logarithm of the sum
below it; what a key got is worked out from its scores once more, so that weights are never stored. A single token has too few
queries to fill a GPU: its keys are split, and a second kernel joins what the splits found.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recollect.context.attention import Band

LOWEST = tl.constexpr(-1e30)
TYPES = (torch.float32, torch.bfloat16, torch.float16)
SPLIT_KEYS = 512  # of a single token's keys, for one program
NUM_COPIERS = 256  # programs that read host memory: enough for the bus, and few enough to leave room to others


@triton.jit
def _seen(mask, row, column, alive, inside, mask_token, ahead, least, most, MASK: tl.constexpr):
    """[BM, BN]: which of the keys the queries may see.

    MASK 0: all, 1: the same ones for all queries, 2: as `mask` says, 3: those in a band of distances.
    """
    if MASK == 1:
        inside = inside & (tl.load(mask + column, inside, other=0) != 0)
    seen = alive[:, None] & inside[None, :]
    if MASK == 2:
        seen = seen & (tl.load(mask + row[:, None] * mask_token + column[None, :], seen, other=0) != 0)
    if MASK == 3:
        distance = ahead + row[:, None] - column[None, :]
        seen = seen & (distance >= least) & (distance < most)
    return seen


@triton.jit(do_not_specialize=["H", "G", "T", "S", "mask_row", "ahead", "least", "most"])
def _attend(
    queries, keys, values, mask, out, sums, scaling, H, G, T, S, D, query_row, query_head, query_token, key_row, key_head,
    key_token, value_row, value_head, value_token, mask_row, mask_token, ahead, least, most,
    MASK: tl.constexpr, GOES_ON: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    g = h // (H // G)
    row, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BD)
    alive, wide = row < T, (d < D)[None, :]
    query = tl.load(
        queries + b * query_row + h * query_head + row[:, None] * query_token + d[None, :],
        alive[:, None] & wide,
        other=0.0,
    )
    place = tl.program_id(1).to(tl.int64) * T + row
    if GOES_ON:
        top = tl.load(sums + place, alive, other=LOWEST)
        total = tl.where(top > LOWEST, 1.0, 0.0)
        output = tl.load(out + place[:, None] * D + d[None, :], alive[:, None] & wide, other=0.0)
    else:
        top, total = tl.full([BM], LOWEST, tl.float32), tl.zeros([BM], tl.float32)
        output = tl.zeros([BM, BD], tl.float32)
    begin, end = 0, S
    if MASK == 3:
        nearest = ahead + tl.program_id(0) * BM  # where the first query stands
        begin = tl.maximum(nearest - most + 1, 0) // BN * BN
        end = tl.minimum(tl.maximum(nearest + BM - least, 0), S)
    for start in range(begin, end, BN):
        column = start + tl.arange(0, BN)
        inside = column < S
        near = inside[:, None] & wide
        key = tl.load(keys + b * key_row + g * key_head + column[:, None] * key_token + d[None, :], near, other=0.0)
        value = tl.load(
            values + b * value_row + g * value_head + column[:, None] * value_token + d[None, :], near, other=0.0
        )
        seen = _seen(mask + b * mask_row, row, column, alive, inside, mask_token, ahead, least, most, MASK)
        scores = tl.where(seen, tl.dot(query, tl.trans(key), input_precision="ieee") * scaling, LOWEST)
        new = tl.maximum(top, tl.max(scores, 1))
        weights, fade = tl.where(seen, tl.exp(scores - new[:, None]), 0.0), tl.exp(top - new)
        output = output * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        top, total = new, total * fade + tl.sum(weights, 1)
    tl.store(
        out + place[:, None] * D + d[None, :], output / tl.where(total > 0, total, 1.0)[:, None], alive[:, None] & wide
    )
    tl.store(sums + place, tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), LOWEST), alive)


@triton.jit(do_not_specialize=["H", "G", "T", "S", "mask_row", "ahead", "least", "most"])
def _mass(
    queries, keys, mask, sums, out, scaling, H, G, T, S, D, query_row, query_head, query_token, key_row, key_head,
    key_token, mask_row, mask_token, ahead, least, most, MASK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    g = h // (H // G)
    column, d = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BD)
    inside, wide = column < S, (d < D)[None, :]
    key = tl.load(
        keys + b * key_row + g * key_head + column[:, None] * key_token + d[None, :], inside[:, None] & wide, other=0.0
    )
    got = tl.zeros([BN], tl.float32)
    begin, end = 0, T
    if MASK == 3:
        first = tl.program_id(0) * BN - ahead  # the query that stands where the first key does
        begin = tl.maximum(first + least, 0) // BM * BM
        end = tl.minimum(tl.maximum(first + BN - 1 + most, 0), T)
    for start in range(begin, end, BM):
        row = start + tl.arange(0, BM)
        alive = row < T
        query = tl.load(
            queries + b * query_row + h * query_head + row[:, None] * query_token + d[None, :],
            alive[:, None] & wide, other=0.0,
        )  # fmt: skip
        total = tl.load(sums + tl.program_id(1).to(tl.int64) * T + row, alive, other=0.0)
        seen = _seen(mask + b * mask_row, row, column, alive, inside, mask_token, ahead, least, most, MASK)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
        got += tl.sum(tl.where(seen, tl.exp(scores - total[:, None]), 0.0), 0)
    tl.store(out + tl.program_id(1).to(tl.int64) * S + column, got, inside)


def _lying(
    mask: Tensor | Band | None, like: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, tuple[int, ...], int]:
    """A mask [.., T, S] of all heads alike as (bytes, (strides of rows and tokens, its band), its kind in `_seen`); shape B, T, S."""
    if mask is None:
        return like, (0, 0, 0, 0, 0), 0
    if isinstance(mask, Band):
        return like, (0, 0, mask.ahead, mask.least, mask.most), 3
    B, T, S = shape
    mask = mask[:, 0] if mask.ndim == 4 else mask
    mask = mask.expand(B, T, S).view(torch.uint8)
    mask = mask if mask.stride(-1) == 1 else mask.contiguous()
    return mask, (mask.stride(0), mask.stride(1), 0, 0, 0), 2 if mask.stride(1) else 1


def _tile(T: int, dtype: torch.dtype) -> dict[str, int]:
    """How many queries a program takes, and with how many warps."""
    size = min(64 if dtype == torch.float32 else 128, max(16, triton.next_power_of_2(T)))
    return {"BM": size, "BN": 64, "num_warps": 8 if size == 128 else 4}


def part_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | Band | None,
    scaling: float,
    so_far: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(output [B, H, T, D], logarithm of the sum of the exponents [B, H, T]) of a part, both in float32.

    queries [B, H, T, D], keys and values [B, G, S, D]; mask [.., T, S], the same for all heads. `so_far` is what the parts before
    it gave; it is overwritten, and the result is that of all of them together.
    """
    (B, H, T, D), (G, S) = queries.shape, keys.shape[1:3]
    queries, keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (queries, keys, values))
    mask, about, kind = _lying(mask, queries, (B, T, S))
    if so_far is None:
        out = torch.empty(B, H, T, D, dtype=torch.float32, device=queries.device)
        sums = torch.empty(B, H, T, dtype=torch.float32, device=queries.device)
    else:
        out, sums = so_far
    tile = _tile(T, queries.dtype)
    _attend[(triton.cdiv(T, tile["BM"]), B * H)](
        queries, keys, values, mask, out, sums, scaling, H, G, T, S, D, *queries.stride()[:3], *keys.stride()[:3],
        *values.stride()[:3], *about,
        MASK=kind, GOES_ON=so_far is not None, BD=max(16, triton.next_power_of_2(D)), **tile,
    )  # fmt: skip
    return out, sums


def part_mass(queries: Tensor, keys: Tensor, mask: Tensor | Band | None, sums: Tensor, scaling: float) -> Tensor:
    """What each key of a part got from all queries, [B, H, S]; `sums` [B, H, T] of all parts together, as above."""
    (B, H, T, D), (G, S) = queries.shape, keys.shape[1:3]
    queries, keys = (x if x.stride(-1) == 1 else x.contiguous() for x in (queries, keys))
    mask, about, kind = _lying(mask, queries, (B, T, S))
    out = torch.empty(B, H, S, dtype=torch.float32, device=queries.device)
    _mass[(triton.cdiv(S, 64), B * H)](
        queries, keys, mask, sums, out, scaling, H, G, T, S, D, *queries.stride()[:3], *keys.stride()[:3],
        *about, MASK=kind, BD=max(16, triton.next_power_of_2(D)), **_tile(T, queries.dtype),
    )  # fmt: skip
    return out


@triton.jit
def _split(
    far_queries, near_queries, keys, values, seen, scores, tops, totals, outputs, scaling, H, G, S, cut, num_far, D,
    query_row, query_head, key_row, key_head, key_token, value_row, value_head, value_token, seen_row,
    GROUP: tl.constexpr, BH: tl.constexpr, BN: tl.constexpr, STEPS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    b, g = (tl.program_id(0) // G).to(tl.int64), tl.program_id(0) % G
    number, num_splits = tl.program_id(1), tl.num_programs(1)
    is_far = number < num_far
    begin = tl.where(is_far, number * STEPS * BN, cut + (number - num_far) * STEPS * BN)
    end = tl.minimum(begin + STEPS * BN, tl.where(is_far, cut, S))
    each, d = tl.arange(0, BH), tl.arange(0, BD)
    alive, wide, head = each < GROUP, (d < D)[None, :], g * GROUP + each
    at = b * query_row + head[:, None] * query_head + d[None, :]
    if is_far:
        query = tl.load(far_queries + at, alive[:, None] & wide, other=0.0)
    else:
        query = tl.load(near_queries + at, alive[:, None] & wide, other=0.0)
    top, total = tl.full([BH], LOWEST, tl.float32), tl.zeros([BH], tl.float32)
    output = tl.zeros([BH, BD], tl.float32)
    for step in range(STEPS):
        column = begin + step * BN + tl.arange(0, BN)
        visible = tl.load(seen + b * seen_row + column, column < end, other=0) != 0
        there = visible[:, None] & wide
        key = tl.load(keys + b * key_row + g * key_head + column[:, None] * key_token + d[None, :], there, other=0.0)
        value = tl.load(
            values + b * value_row + g * value_head + column[:, None] * value_token + d[None, :], there, other=0.0
        )
        score = tl.where(visible[None, :], tl.dot(query, tl.trans(key), input_precision="ieee") * scaling, LOWEST)
        new = tl.maximum(top, tl.max(score, 1))
        weights, fade = tl.where(visible[None, :], tl.exp(score - new[:, None]), 0.0), tl.exp(top - new)
        output = output * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        top, total = new, total * fade + tl.sum(weights, 1)
        tl.store(
            scores + (b * H + head)[:, None] * S + column[None, :], score, alive[:, None] & (column < end)[None, :]
        )
    place = (b * H + head) * num_splits + number
    tl.store(tops + place, top, alive)
    tl.store(totals + place, total, alive)
    tl.store(outputs + place[:, None] * D + d[None, :], output, alive[:, None] & wide)


@triton.jit
def _join(
    scores, tops, totals, outputs, weights, out, S, num_splits, D, BP: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr
):
    row, number = tl.program_id(0).to(tl.int64), tl.arange(0, BP)
    real = number < num_splits
    top = tl.load(tops + row * num_splits + number, real, other=LOWEST)
    highest = tl.max(top, 0)
    share = tl.exp(top - highest)
    total = tl.sum(tl.load(totals + row * num_splits + number, real, other=0.0) * share, 0)
    column = tl.program_id(1) * BS + tl.arange(0, BS)
    score = tl.load(scores + row * S + column, column < S, other=LOWEST)
    tl.store(weights + row * S + column, tl.exp(score - highest) / total, column < S)
    if tl.program_id(1) == 0:
        d = tl.arange(0, BD)
        each = tl.load(
            outputs + (row * num_splits + number)[:, None] * D + d[None, :], real[:, None] & (d < D)[None, :], other=0.0
        )
        result = tl.sum(each * share[:, None], 0) / total
        tl.store(out + row * D + d, result.to(out.dtype.element_ty), d < D)


def step_attention(
    far_queries: Tensor,
    near_queries: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    cut: int,
    scaling: float,
    weights: Tensor,
) -> Tensor:
    """Output [B, H, 1, D] of one token, whose first `cut` keys meet `far_queries` and whose others `near_queries`.

    Queries [B, H, 1, D], keys and values [B, G, S, D], seen [B, S]; what each key got is written to `weights` [B, H, S],
    float32 and contiguous.
    """
    (B, H, _, D), (G, S) = near_queries.shape, keys.shape[1:3]
    far_queries, near_queries = far_queries.contiguous(), near_queries.contiguous()
    steps, device = SPLIT_KEYS // 64, keys.device
    num_far = triton.cdiv(cut, SPLIT_KEYS)
    num_splits = num_far + triton.cdiv(S - cut, SPLIT_KEYS)
    scores = torch.empty(B, H, S, dtype=torch.float32, device=device)
    tops, totals = torch.empty(2, B, H, num_splits, dtype=torch.float32, device=device)
    outputs = torch.empty(B, H, num_splits, D, dtype=torch.float32, device=device)
    out, wide = torch.empty_like(near_queries), max(16, triton.next_power_of_2(D))
    _split[(B * G, num_splits)](
        far_queries, near_queries, keys, values, seen, scores, tops, totals, outputs, scaling, H, G, S, cut, num_far, D,
        *near_queries.stride()[:2], *keys.stride()[:3], *values.stride()[:3], seen.stride(0),
        GROUP=H // G, BH=max(16, triton.next_power_of_2(H // G)), BN=64, STEPS=steps, BD=wide,
    )  # fmt: skip
    _join[(B * H, triton.cdiv(S, 2048))](
        scores, tops, totals, outputs, weights, out, S, num_splits, D,
        BP=triton.next_power_of_2(num_splits), BS=2048, BD=wide,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_tasks", "F", "S"])
def _copy(
    stored, tokens, keys, values, stretch, num_tasks, F, S, GD, D, stored_row, key_row, key_head, value_row, value_head,
    BE: tl.constexpr,
):  # fmt: skip
    for task in range(tl.program_id(0), num_tasks, tl.num_programs(0)):
        token = tl.load(tokens + task)
        if (token >= 0) & (token < S):
            b, f = (task // F).to(tl.int64), task % F
            source = stored + b * stored_row + token.to(tl.int64) * (2 * GD)
            for start in range(0, GD, BE):
                place = start + tl.arange(0, BE)
                real, g, d = place < GD, place // D, place % D
                key, value = tl.load(source + place, real), tl.load(source + GD + place, real)
                key = (key * tl.load(stretch + d, real)).to(keys.dtype.element_ty)
                tl.store(keys + b * key_row + g * key_head + f * D + d, key, real)
                value = value.to(values.dtype.element_ty)
                tl.store(values + b * value_row + g * value_head + f * D + d, value, real)


def copy_tokens(stored: Tensor, tokens: Tensor, keys: Tensor, values: Tensor, stretch: Tensor) -> None:
    """See `far.copy_tokens`; `stored` [B, S, 2, G, D] is pinned. Tokens that it does not hold are left out."""
    (B, F), (S, _, G, D) = tokens.shape, stored.shape[1:]
    assert all(each.is_contiguous() for each in (stored[0], keys[0, 0], values[0, 0]))
    _copy[(min(B * F, NUM_COPIERS),)](
        stored, tokens.contiguous(), keys, values, stretch, B * F, F, S, G * D, D, stored.stride(0), *keys.stride()[:2],
        *values.stride()[:2], BE=min(4096, triton.next_power_of_2(G * D)),
    )  # fmt: skip
