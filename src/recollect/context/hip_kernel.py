"""The two steps of HiP as Triton kernels: rating key blocks, and attention to chosen ones. hip.py is the specification.

Imported on a GPU only. Shapes are those of hip.py; a program of `block_attention` has up to BM queries of one query block and
one key-value head, and goes over their keys BN at a time with a running softmax.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOWEST = tl.constexpr(-1e30)


@triton.jit(do_not_specialize=["G", "N", "Q", "C"])  # sizes change from chunk to chunk; compile once
def _rate(
    queries, keys, blocks, out, G, N, Q, C, D, key_row, key_token, key_head,
    BLOCK: tl.constexpr, BQ: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # of B * G * N
    group = row // N
    place = tl.program_id(1) * BC + tl.arange(0, BC)
    inside, d = place < C * BLOCK, tl.arange(0, BD)
    token = tl.load(blocks + row * C + place // BLOCK, inside, other=0).to(tl.int64) * BLOCK + place % BLOCK
    at = keys + (group // G) * key_row + (group % G) * key_head + token * key_token
    key = tl.load(at[:, None] + d[None, :], inside[:, None] & (d < D)[None, :], other=0.0)
    best = tl.full([BC], LOWEST, tl.float32)
    for start in range(0, Q, BQ):
        number = start + tl.arange(0, BQ)
        query = tl.load(
            queries + (row * Q + number[:, None]) * D + d[None, :], (number < Q)[:, None] & (d < D)[None, :], other=0.0
        )
        product = tl.dot(query, tl.trans(key), input_precision="ieee")
        best = tl.maximum(best, tl.max(tl.where((number < Q)[:, None], product, LOWEST), 0))
    tl.store(out + row * C * BLOCK + place, best, inside)


def rate(queries: Tensor, keys: Tensor, blocks: Tensor, block: int) -> Tensor:
    """See `hip.rate`."""
    B, G, N, Q, D = queries.shape
    C = blocks.shape[-1]
    queries, blocks = queries.contiguous(), blocks.clamp(max=keys.shape[1] // block - 1).to(torch.int32).contiguous()
    keys = keys if keys.stride(-1) == 1 else keys.contiguous()
    out = torch.empty(B, G, N, C * block, dtype=torch.float32, device=keys.device)
    tile = 64
    _rate[(B * G * N, triton.cdiv(C * block, tile))](
        queries, keys, blocks, out, G, N, Q, C, D, keys.stride(0), keys.stride(1), keys.stride(2),
        BLOCK=block, BQ=64 if Q > 16 else 16, BC=tile, BD=max(16, triton.next_power_of_2(D)),
    )  # fmt: skip
    return out.unflatten(-1, (C, block)).amax(dim=-1)


@triton.jit
def _step(query, key, value, seen, scaling, top, total, sums):
    """One step of the running softmax: keys [BN, BD] that `seen` [BM, BN] lets the queries see."""
    scores = tl.where(seen, tl.dot(query, tl.trans(key), input_precision="ieee") * scaling, LOWEST)
    new = tl.maximum(top, tl.max(scores, 1))
    weights = tl.where(seen, tl.exp(scores - new[:, None]), 0.0)
    fade = tl.exp(top - new)
    sums = sums * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    return new, total * fade + tl.sum(weights, 1), sums


@triton.jit(do_not_specialize=["G", "T", "S", "R", "F", "query_block"])
def _attend(
    far_queries, near_queries, keys, near_keys, values, chosen, ends, out, scaling, G, T, S, R, F, D, query_block,
    query_row, query_head, query_token, key_row, key_token, key_head, near_row, near_head, near_token,
    value_row, value_token, value_head, chosen_row, chosen_head, chosen_number, out_row, out_head, out_token,
    BLOCK: tl.constexpr, GROUP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    b, g = (tl.program_id(1) // G).to(tl.int64), (tl.program_id(1) % G).to(tl.int64)
    each = tl.program_id(2) * BM + tl.arange(0, BM)
    token = number * query_block + each % query_block
    alive = (each < GROUP * query_block) & (token < T)
    head = g * GROUP + each // query_block
    d = tl.arange(0, BD)
    wide = (d < D)[None, :]
    at = b * query_row + head * query_head + token * query_token
    far_query = tl.load(far_queries + at[:, None] + d[None, :], alive[:, None] & wide, other=0.0)
    top, total = tl.full([BM], LOWEST, tl.float32), tl.zeros([BM], tl.float32)
    sums = tl.zeros([BM, BD], tl.float32)

    blocks = chosen + b * chosen_row + g * chosen_head + number * chosen_number
    for start in range(0, F * BLOCK, BN):
        place = start + tl.arange(0, BN)
        block = tl.load(blocks + place // BLOCK, place < F * BLOCK, other=-1).to(tl.int64)
        seen = block >= 0
        there = block * BLOCK + place % BLOCK
        key = tl.load(
            keys + b * key_row + g * key_head + there[:, None] * key_token + d[None, :], seen[:, None] & wide, other=0.0
        )
        value = tl.load(
            values + b * value_row + g * value_head + there[:, None] * value_token + d[None, :],
            seen[:, None] & wide,
            other=0.0,
        )
        top, total, sums = _step(far_query, key, value, alive[:, None] & seen[None, :], scaling, top, total, sums)

    near_query = tl.load(near_queries + at[:, None] + d[None, :], alive[:, None] & wide, other=0.0)
    begin = tl.load(ends + number) * BLOCK
    stop = S - T + tl.minimum((number + 1) * query_block, T)
    for start in range(begin, stop, BN):
        there = (start + tl.arange(0, BN)).to(tl.int64)
        inside = there < stop
        key = tl.load(
            near_keys + b * near_row + g * near_head + (there - S + R)[:, None] * near_token + d[None, :],
            inside[:, None] & wide,
            other=0.0,
        )
        value = tl.load(
            values + b * value_row + g * value_head + there[:, None] * value_token + d[None, :],
            inside[:, None] & wide,
            other=0.0,
        )
        seen = alive[:, None] & inside[None, :] & (there[None, :] <= (S - T + token)[:, None])
        top, total, sums = _step(near_query, key, value, seen, scaling, top, total, sums)

    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    place = b * out_row + head * out_head + token * out_token
    tl.store(out + place[:, None] + d[None, :], result.to(out.dtype.element_ty), alive[:, None] & wide)


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
    """See `hip.block_attention`; scores are not soft-capped here."""
    assert softcap is None
    B, H, T, D = far_queries.shape
    S, G = keys.shape[1], keys.shape[2]
    far_queries, near_queries, near_keys = far_queries.contiguous(), near_queries.contiguous(), near_keys.contiguous()
    keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (keys, values))
    chosen = chosen.to(torch.int32).contiguous()
    size, group = min(query_block, T), H // G
    tile = min(64, max(16, triton.next_power_of_2(size * group)))
    out = torch.empty_like(far_queries)
    _attend[(len(ends), B * G, triton.cdiv(size * group, tile))](
        far_queries, near_queries, keys, near_keys, values, chosen, ends.to(torch.int32).to(keys.device), out, scaling,
        G, T, S, near_keys.shape[2], chosen.shape[-1], D, size, *far_queries.stride()[:3], *keys.stride()[:3],
        *near_keys.stride()[:3], *values.stride()[:3], *chosen.stride()[:3], *out.stride()[:3],
        BLOCK=block, GROUP=group, BM=tile, BN=64, BD=max(16, triton.next_power_of_2(D)),
    )  # fmt: skip
    return out
