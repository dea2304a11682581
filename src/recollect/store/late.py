"""Late interaction over token vectors that were squeezed to their signs.

A text's token vectors (T, 384) are turned by a fixed projection (`data/late.npy`, fitted to novels in the public domain by
`recollect.benchmarks.fit`) onto the 192 directions in which English tokens vary most, mixed by a random rotation so that
all directions carry alike, and only the sign of each coordinate is kept: 24 bytes a
token, 0.7 kB for a turn of 30 tokens where float32 takes 46 kB. The query keeps its precision. A query token's match with
a text is its best product with any of the text's tokens.

What squeezing costs on five LoCoMo conversations (mean fraction of the evidence found at 5 and 10; 763 questions, so
differences below 0.01 are noise), late interaction alone and in the fusion of all signals, held out:
384 float32 0.623, 0.718 and 0.783, 0.853; 192 float32 0.630, 0.718 and 0.787, 0.855; 192 signs 0.624, 0.703 and 0.790,
0.854. With float32 coordinates, 128 directions cost nothing yet, 96 cost 0.01 and 64 cost 0.03 to 0.05 alone.

Papers: ColBERT, arXiv:2004.12832 (2020), for late interaction; ColBERTv2, arXiv:2112.01488 (2021), for storing it small.
Differs: there is no trained index and no centroid; the encoder was not trained for late interaction.
Cost: 24 bytes a token; one product (Tq, 192) x (192, tokens of all candidates) a query.

Shapes: T tokens of a text, Tq tokens of the query, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from recollect.errors import InvalidInput
from recollect.store import threads

TOKEN_DIM = 384
PROJECTION = Path(__file__).parent / "data" / "late.npy"  # float16 (384, 192), orthonormal columns
_BITS = 192
_BYTES = _BITS // 8
_HEADER = b"\x01"  # version of the format
_SLICE_TOKENS = 4096  # candidates' tokens that are unpacked at a time, so that they stay in the processor's cache
# Multiplications of one product: so few that BLAS works in the calling thread. Threads of its own would keep turning for
# some 20 ms afterwards, each on a core, and slow down all that follows.
_PRODUCT = 2**18
_COLUMNS = 16  # of the projection in one product


@cache
def projection() -> np.ndarray:
    """The fixed projection, float32 (384, 192)."""
    return np.load(PROJECTION, allow_pickle=False).astype(np.float32)


@cache
def _blocks() -> np.ndarray:
    """The projection in blocks of columns, float32 (12, 384, 16)."""
    blocks = projection().reshape(TOKEN_DIM, _BITS // _COLUMNS, _COLUMNS).transpose(1, 0, 2)
    return np.ascontiguousarray(blocks)


def _project(tokens: np.ndarray) -> np.ndarray:
    tokens = np.asarray(tokens, np.float32)
    turned = np.empty((len(tokens), _BITS), np.float32)
    step = _PRODUCT // (TOKEN_DIM * _COLUMNS)
    for first in range(0, len(tokens), step):
        part = tokens[first : first + step]
        turned[first : first + step] = (part @ _blocks()).transpose(1, 0, 2).reshape(len(part), _BITS)
    return turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9)


def compress(tokens: np.ndarray) -> bytes:
    """Token vectors float32 (T, 384) as 1 + 24 T bytes. Raises InvalidInput for another shape."""
    if tokens.ndim != 2 or tokens.shape[1] != TOKEN_DIM:
        raise InvalidInput(f"tokens: expected shape (T, {TOKEN_DIM}), got {tokens.shape}.")
    return _HEADER + np.packbits(_project(tokens) > 0, axis=1).tobytes()


def num_tokens(blob: bytes) -> int:
    """How many tokens `compress` put into a blob."""
    return len(blob) // _BYTES


def decompress(blob: bytes) -> np.ndarray:
    """The signs of a blob as unit rows, float32 (T, 192), in the projected space. Raises InvalidInput for a foreign blob."""
    if blob[:1] != _HEADER or len(blob) % _BYTES != 1:
        raise InvalidInput("tokens: not made by this version of recollect; run `recollect reindex`.")
    bits = np.unpackbits(np.frombuffer(blob, np.uint8, offset=1).reshape(-1, _BYTES), axis=1)
    return (2 * bits.astype(np.float32) - 1) / np.float32(np.sqrt(_BITS))


def best_matches(query: np.ndarray, blobs: Sequence[bytes | None]) -> np.ndarray:
    """For each query token its best match in each text, float32 (Tq, N); 0 for a text without token vectors.

    query: token vectors float32 (Tq, 384). blobs: what `compress` returned for each candidate, or None.
    Raises InvalidInput for a blob of another version.
    """
    scores = np.zeros((len(query), len(blobs)), np.float32)
    kept = [number for number, blob in enumerate(blobs) if blob is not None and len(blob) > 1]
    if not kept or not len(query):
        return scores
    joined = np.frombuffer(b"".join([blob for number in kept if (blob := blobs[number])]), np.uint8)
    sizes = np.array([len(blobs[number] or b"") for number in kept])
    heads = np.cumsum(sizes) - sizes
    if (joined[heads] != _HEADER[0]).any() or (sizes % _BYTES != 1).any():
        raise InvalidInput("tokens: not made by this version of recollect; run `recollect reindex`.")
    packed = np.delete(joined, heads).reshape(-1, _BYTES)
    lengths = sizes // _BYTES
    ends = np.cumsum(lengths)
    turned = _project(query)
    columns = np.ascontiguousarray(turned.T)
    step = max(_PRODUCT // columns.size, 1)
    best = np.empty((len(kept), len(query)), np.float32)

    def work(texts: tuple[int, int]) -> None:
        first, last = texts
        base, num = ends[first] - lengths[first], ends[last - 1] - ends[first] + lengths[first]
        bits = np.empty((-(-num // step) * step, _BYTES), "V32")
        np.take(_unpacked(), packed[base : base + num], out=bits[:num], mode="clip")
        bits[num:] = bits[:1]
        products = (bits.view(np.float32).reshape(-1, step, _BITS) @ columns).reshape(-1, len(query))
        best[first:last] = np.maximum.reduceat(products[:num], ends[first:last] - lengths[first:last] - base, axis=0)

    slices, first = [], 0
    while first < len(kept):
        last = int(np.searchsorted(ends, ends[first] - lengths[first] + _SLICE_TOKENS, side="right"))
        slices.append((first, max(last, first + 1)))
        first = slices[-1][1]
    threads.side_by_side(work, slices)
    scores[:, kept] = (2 * best.T - turned.sum(axis=1, keepdims=True)) / np.float32(
        np.sqrt(_BITS)
    )  # signs: 2 * bits - 1
    return scores


@cache
def _unpacked() -> np.ndarray:
    """The eight bits of every byte as float32, each eight as one item of 32 bytes, so that one look-up copies them."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return bits.astype(np.float32).view("V32")[:, 0]
