"""Embedders: text to unit vectors, by a built-in model, a library's model, an endpoint, or hashing when nothing is installed.

Every embedder has a name that databases record, a dimension, `split` (where to cut a long text so that each piece fits the
encoder) and `embed`. Nothing heavy is imported until an embedder is made: this module needs numpy only. Those of other
libraries and of endpoints are in `adapters.py`.

| spec                           | what answers                                             | needs               |
|--------------------------------|----------------------------------------------------------|---------------------|
| `minilm`, `minilm-float32`     | all-MiniLM-L6-v2 in int8 or float32, `recollect.store.minilm` | extra `local` and the weights |
| `hashing`                      | hashed words and character n-grams                       | nothing             |
| `sentence-transformers:NAME`   | any sentence-transformers model, by name or folder       | sentence-transformers |
| `fastembed:NAME`               | any fastembed text model                                 | fastembed           |
| `openai:MODEL@BASE_URL`        | any OpenAI-compatible endpoint                           | an endpoint, a key  |

The hashing embedder follows feature hashing with signs (Weinberger et al., Feature Hashing for Large Scale Multitask
Learning, arXiv:0902.2206, 2009) over words, pairs of words and character n-grams (as in fastText, arXiv:1607.04606, 2016).

Shapes: N texts, D the embedder's dimension, T_i tokens of text i.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from recollect.errors import InvalidInput

if TYPE_CHECKING:
    from recollect.config import Settings

Kind = Literal["document", "query"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What an embedder returns for N texts, in their order."""

    vectors: np.ndarray  # float32 (N, D), unit length
    tokens: list[np.ndarray] | None = None  # float32 (T_i, D), unit rows, without the encoder's own marks
    token_ids: list[np.ndarray] | None = None  # int32 (T_i,), numbers in the encoder's vocabulary


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns texts into unit vectors."""

    @property
    def name(self) -> str:
        """What databases record: model, variant and version. Equal names mean comparable vectors."""
        ...

    @property
    def dim(self) -> int:
        """Length D of a vector."""
        ...

    @property
    def has_tokens(self) -> bool:
        """Whether `embed` also returns a vector for each token."""
        ...

    def split(self, text: str) -> list[Span]:
        """Character spans of pieces that fit the encoder; they cover the text, and a short text is one piece."""
        ...

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Embed texts; any text will do, also empty or broken ones."""
        ...


def make_embedder(spec: str | Embedder | None = None) -> Embedder:
    """The embedder that `spec` names (see the table above); None is `minilm` where that is installed, else `hashing`.

    The name that a database recorded is a spec too, except that an endpoint's address comes from the environment then.
    Raises InvalidInput for a spec that is not in the table and Unavailable for a package or model that is missing.
    """
    if spec is not None and not isinstance(spec, str):
        return spec
    from recollect.store import minilm

    if spec is None:
        spec = "hashing" if minilm.missing() else "minilm"
    if spec in minilm.NAMES or spec in minilm.NAMES.values():
        return minilm.MiniLM(spec)
    if spec in ("hashing", HashingEmbedder.name):
        return HashingEmbedder()
    kind, _, name = spec.partition(":")
    if name:
        from recollect.store import adapters

        if kind == "sentence-transformers":
            return adapters.SentenceTransformersEmbedder(name)
        if kind == "fastembed":
            return adapters.FastEmbedEmbedder(name)
        if kind == "openai":
            model, _, base_url = name.partition("@")
            return adapters.OpenAIEmbedder(model, base_url or None)
    raise InvalidInput(
        f"embedder: {spec!r:.80} is not known; use minilm, minilm-float32, hashing, sentence-transformers:NAME, "
        "fastembed:NAME or openai:MODEL@BASE_URL."
    )


def embedder_from_settings(settings: Settings) -> Embedder:
    """The embedder of the settings, with their address and key where it is an endpoint. Raises as `make_embedder` does."""
    kind, _, name = (settings.embedder or "").partition(":")
    if kind != "openai" or not name:
        return make_embedder(settings.embedder)
    from recollect.store.adapters import OpenAIEmbedder

    model, _, base_url = name.partition("@")
    return OpenAIEmbedder(model, base_url or settings.embedder_base_url, settings.embedder_api_key)


def encodable(text: str) -> str:
    """The text with lone surrogates, which no encoding can carry, replaced by U+FFFD; positions stay the same."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


_SENTENCE_END = re.compile("[.!?][\"')\\]]*\\s+|[\u3002\uff01\uff1f]+\\s*|\n\\s*")
_WORD_END = re.compile(r"\s+")


def split_text(
    text: str, max_units: int, ends: Callable[[str], Sequence[int] | np.ndarray], window_chars: int
) -> list[Span]:
    """Cut a text into pieces of at most `max_units` units (an encoder's tokens), at sentence ends where possible.

    `ends(window)` gives the character positions where the units of a piece of text end; the units of a text cut at a word
    must be those of the whole. `window_chars` is how much text is counted at a time. A piece begins with the last sentence
    of the one before it when that is short (a sixth of a piece), or, after a cut inside a sentence, with its last words.
    The pieces cover the text. Cost: little more than `ends(text)`.
    """
    spans: list[Span] = []
    start = base = 0  # of the piece, of the window
    window, positions, width = "", np.empty(0, np.int64), window_chars
    while True:
        first = int(np.searchsorted(positions, start - base, "right"))  # the piece's first unit
        if first + max_units >= len(positions):
            base, first, width = start, 0, window_chars
            while True:
                window = text[base : base + width]
                positions = np.asarray(ends(window), np.int64)
                if len(positions) > max_units or base + width >= len(text):
                    break
                width *= 4
            if len(positions) <= max_units:
                spans.append((start, len(text)))
                return spans
        here = start - base
        limit = max(int(positions[first + max_units - 1]), here + 1)
        middle = (here + limit) // 2
        borders = [match.end() for match in _SENTENCE_END.finditer(window, here, limit)]
        if not borders or borders[-1] <= middle:
            borders = [match.end() for match in _WORD_END.finditer(window, middle, limit)]
            again = [border for border in borders[:-1] if border >= borders[-1] - (limit - here) // 6][:1]
        else:
            again = [border for border in borders[:-1] if border >= borders[-1] - (limit - here) // 6][-1:]
        cut = borders[-1] if borders else limit
        spans.append((start, base + cut))
        start = base + (again[0] if again else cut)
        if not borders:  # inside a word, whose rest may have other units
            positions = positions[:0]


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, as float32; a row of zeros or without finite values becomes the first unit vector."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))
    if bad.any():
        vectors, lengths = vectors.copy(), np.where(bad[:, None], 1.0, lengths)
        vectors[bad] = np.eye(1, vectors.shape[1])
    return (vectors / lengths).astype(np.float32)


def char_ends(window: str) -> np.ndarray:
    """Ends of units that are single characters, for `split_text`."""
    return np.arange(1, len(window) + 1)


_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    "a about all am an and any are as at be been but by can could did do does for from had has have he her hi him his how i "
    "if in is it its just like me my no not of on or our she so some that the their them there they this to up us was we "
    "were what when where which who why will with would you your".split()
)


class HashingEmbedder:
    """Words, pairs of words and character n-grams hashed into buckets with signs: no model, no download, weak but honest.

    Deterministic across processes and machines. It matches words and their forms, never meanings. Cost: about 0.1 ms a text.
    """

    name = "hashing-1"
    dim = 1024
    has_tokens = False
    _max_chars = 2000

    def split(self, text: str) -> list[Span]:
        """Pieces of at most 2000 characters, so that a long text is not one blur."""
        if len(text) <= self._max_chars:
            return [(0, len(text))]
        return split_text(text, self._max_chars, char_ends, 16 * self._max_chars)

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Unit vectors, float32 (N, 1024)."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            words = [_hashed(word[:64]) for word in _WORD.findall(encodable(text).lower())]
            if not words:
                continue
            codes, begins, ends, commons = zip(*words, strict=True)
            pairs = np.fromiter(map(zlib.crc32, ends[1:], begins[:-1]), np.uint32, len(words) - 1)
            features = np.concatenate([np.frombuffer(b"".join(codes), np.uint32), pairs])
            common = np.array(commons)
            sizes = np.array([len(code) // 4 for code in codes])
            scale = np.where(common, 0.1, 1.0)
            weights = np.concatenate(
                [np.repeat(scale / np.sqrt(sizes - 1), sizes), _PAIR_WEIGHTS[common[1:] + common[:-1]]]
            )
            weights[np.cumsum(sizes) - sizes] = scale
            row += np.bincount(features % self.dim, np.where(features >> 31, weights, -weights), self.dim)
        return Embeddings(unit_rows(np.sign(vectors) * np.sqrt(np.abs(vectors))))


_GRAM = zlib.crc32(b"g")  # how an n-gram's code begins
_PAIR_WEIGHTS = np.array([0.5, 0.2, 0.05])  # by how many of the two words are common


@lru_cache(maxsize=65536)
def _hashed(word: str) -> tuple[bytes, int, bytes, int]:
    """A word as itself and as its 3- to 5-grams, which together weigh as much, and what its pairs are made of.

    (the features' CRC-32, uint32, the word's own first; the CRC-32 of how a pair begins with it; how a pair ends with it; 1
    for a common word).
    """
    marked = f"<{word}>"
    grams = [marked[i : i + size].encode() for size in (3, 4, 5) for i in range(len(marked) - size + 1)]
    codes = array("I", [zlib.crc32(f"w{word}".encode())])
    codes.extend(zlib.crc32(gram, _GRAM) for gram in grams)
    return codes.tobytes(), zlib.crc32(f"p{word} ".encode()), word.encode(), int(word in _COMMON)
