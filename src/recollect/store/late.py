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

TOKEN_DIM = 384
PROJECTION = Path(__file__).parent / "data" / "late.npy"  # float16 (384, 192), orthonormal columns
_BITS = 192
_BYTES = _BITS // 8
_HEADER = b"\x01"  # version of the format
_SLICE_TOKENS = 4096  # candidates' tokens that are unpacked at a time, so that they stay in the processor's cache


@cache
def projection() -> np.ndarray:
    """The fixed projection, float32 (384, 192)."""
    return np.load(PROJECTION, allow_pickle=False).astype(np.float32)


def _project(tokens: np.ndarray) -> np.ndarray:
    turned = np.asarray(tokens, np.float32) @ projection()
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
    parts = [blobs[number] for number in kept]
    if any(part[:1] != _HEADER or len(part) % _BYTES != 1 for part in parts):  # type: ignore[index]
        raise InvalidInput("tokens: not made by this version of recollect; run `recollect reindex`.")
    packed = np.frombuffer(b"".join(part[1:] for part in parts), np.uint8).reshape(-1, _BYTES)  # type: ignore[index]
    lengths = np.array([num_tokens(part) for part in parts])  # type: ignore[arg-type]
    ends = np.cumsum(lengths)
    turned = _project(query)
    sums = turned.sum(axis=1, keepdims=True)
    room = np.empty((max(_SLICE_TOKENS, int(lengths.max())), _BITS), np.float32)
    first = 0
    while first < len(kept):
        base = ends[first] - lengths[first]
        last = max(int(np.searchsorted(ends, base + _SLICE_TOKENS, side="right")), first + 1)
        bits = room[: ends[last - 1] - base]
        bits[:] = np.unpackbits(packed[base : ends[last - 1]], axis=1)
        starts = ends[first:last] - lengths[first:last] - base
        best = np.maximum.reduceat(turned @ bits.T, starts, axis=1)
        scores[:, kept[first:last]] = (2 * best - sums) / np.float32(np.sqrt(_BITS))  # signs are 2 * bits - 1
        first = last
    return scores
