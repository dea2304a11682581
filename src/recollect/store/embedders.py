"""Embedders: text to unit vectors, by a built-in model, a library's model, an endpoint, or hashing when nothing is installed.

Every embedder has a name that databases record, a dimension, `split` (where to cut a long text so that each piece fits the
encoder) and `embed`. Nothing heavy is imported until an embedder is made: this module needs numpy only.

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

import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from recollect.errors import InvalidInput, Unavailable

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
    kind, _, name = spec.partition(":")
    if spec in minilm.NAMES or spec in minilm.NAMES.values():
        return minilm.MiniLM(spec)
    if spec in ("hashing", HashingEmbedder.name):
        return HashingEmbedder()
    if kind == "sentence-transformers" and name:
        return SentenceTransformersEmbedder(name)
    if kind == "fastembed" and name:
        return FastEmbedEmbedder(name)
    if kind == "openai" and name:
        model, _, base_url = name.partition("@")
        return OpenAIEmbedder(model, base_url or None)
    raise InvalidInput(
        f"embedder: {spec!r:.80} is not known; use minilm, minilm-float32, hashing, sentence-transformers:NAME, "
        "fastembed:NAME or openai:MODEL@BASE_URL."
    )


def embedder_from_settings(settings: Settings) -> Embedder:
    """The embedder of the settings, with their address and key where it is an endpoint. Raises as `make_embedder` does."""
    kind, _, name = (settings.embedder or "").partition(":")
    if kind != "openai" or not name:
        return make_embedder(settings.embedder)
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


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, as float32; a row of zeros or without finite values becomes the first unit vector."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))
    if bad.any():
        vectors, lengths = vectors.copy(), np.where(bad[:, None], 1.0, lengths)
        vectors[bad] = np.eye(1, vectors.shape[1])
    return (vectors / lengths).astype(np.float32)


def _char_ends(window: str) -> np.ndarray:
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
        return split_text(text, self._max_chars, _char_ends, 16 * self._max_chars)

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Unit vectors, float32 (N, 1024)."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            words = _WORD.findall(encodable(text).lower())
            features = [_word_features(word) for word in words]
            features += [_pair_features(pair) for pair in pairwise(words)]
            if features:
                buckets = np.concatenate([item[0] for item in features])
                row += np.bincount(buckets, np.concatenate([item[1] for item in features]), self.dim)
        return Embeddings(_unit_rows(np.sign(vectors) * np.sqrt(np.abs(vectors))))


def _hashed(features: list[tuple[str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """(buckets, signed weights) of named features, by CRC-32."""
    codes = [zlib.crc32(feature.encode()) for feature, _ in features]
    signs = [1.0 if code & 0x80000000 else -1.0 for code in codes]
    buckets = np.array([code % HashingEmbedder.dim for code in codes], np.intp)
    return buckets, np.array([sign * weight for sign, (_, weight) in zip(signs, features, strict=True)])


@lru_cache(maxsize=65536)
def _word_features(word: str) -> tuple[np.ndarray, np.ndarray]:
    """A word as itself and as its 3- to 5-grams; together the n-grams weigh as much as the word."""
    word = word[:64]
    weight = 0.1 if word in _COMMON else 1.0
    marked = f"<{word}>"
    grams = [marked[i : i + size] for size in (3, 4, 5) for i in range(len(marked) - size + 1)]
    return _hashed([(f"w{word}", weight)] + [(f"g{gram}", weight / len(grams) ** 0.5) for gram in grams])


@lru_cache(maxsize=65536)
def _pair_features(pair: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    common = sum(word in _COMMON for word in pair)
    return _hashed([(f"p{pair[0][:64]} {pair[1][:64]}", (0.5, 0.2, 0.05)[common])])


class SentenceTransformersEmbedder:
    """Any sentence-transformers model, by name on the hub or by folder; its prompts for queries and documents are used."""

    has_tokens = False

    def __init__(self, model: str | Any):
        """`model` is a name, a folder, or a loaded SentenceTransformer. Raises Unavailable when it cannot be loaded."""
        if isinstance(model, str):
            self.name = f"sentence-transformers:{model}"
            self._model = _load_sentence_transformer(model)
        else:
            card = getattr(model, "model_card_data", None)
            self.name = f"sentence-transformers:{getattr(card, 'base_model', None) or type(model).__name__}"
            self._model = model
        get_dim = getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        self.dim = int(get_dim() or self._model.encode(["a"]).shape[1])
        # Byte-pair tokens near a cut may differ from those of the whole text, hence the margin of 16.
        self._max_tokens = max(16, int(self._model.max_seq_length or 512) - 16)

    def split(self, text: str) -> list[Span]:
        """Pieces that fit the model's `max_seq_length`, counted with its own tokenizer."""
        if len(text) <= self._max_tokens // 4:
            return [(0, len(text))]
        tokenizer = self._model.tokenizer

        def ends(window: str) -> list[int]:
            found = tokenizer(
                window, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
            )
            return [end for _, end in found["offset_mapping"]]

        return split_text(encodable(text), self._max_tokens, ends, self._max_tokens * 40)

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Unit vectors, float32 (N, D)."""
        if not texts:
            return Embeddings(np.zeros((0, self.dim), np.float32))
        encode = getattr(self._model, f"encode_{kind}", self._model.encode)
        return Embeddings(_unit_rows(encode([encodable(text) for text in texts], show_progress_bar=False)))


def _load_sentence_transformer(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Unavailable(
            "embedder: sentence-transformers is not installed; run `pip install sentence-transformers`."
        ) from None
    try:
        return SentenceTransformer(name)
    except Exception as error:
        raise Unavailable(
            f"embedder: sentence-transformers cannot load {name!r}; check the name or folder ({error})."
        ) from error


class FastEmbedEmbedder:
    """Any text model of fastembed, by its name there."""

    has_tokens = False
    _max_chars = 1000  # most of its models read 512 tokens; half of that in letters is safe in any script

    def __init__(self, model: str):
        """Raises Unavailable when fastembed is not installed or does not have the model."""
        try:
            from fastembed import TextEmbedding  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise Unavailable("embedder: fastembed is not installed; run `pip install fastembed`.") from None
        try:
            self._model = TextEmbedding(model_name=model)
            self.dim = len(next(iter(self._model.embed(["a"]))))
        except Exception as error:
            raise Unavailable(f"embedder: fastembed cannot load {model!r}; check the name ({error}).") from error
        self.name = f"fastembed:{model}"

    def split(self, text: str) -> list[Span]:
        """Pieces of at most 1000 characters."""
        if len(text) <= self._max_chars:
            return [(0, len(text))]
        return split_text(text, self._max_chars, _char_ends, 16 * self._max_chars)

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Unit vectors, float32 (N, D)."""
        if not texts:
            return Embeddings(np.zeros((0, self.dim), np.float32))
        encode = self._model.query_embed if kind == "query" else self._model.embed
        return Embeddings(_unit_rows(np.stack(list(encode([encodable(text) for text in texts])))))


class OpenAIEmbedder:
    """An OpenAI-compatible endpoint (`POST BASE_URL/embeddings`): OpenAI, vLLM, Ollama, llama.cpp and others."""

    has_tokens = False
    _max_chars = 4000  # 8191 tokens is the usual limit, and no script has more than two tokens a character

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        batch_size: int = 128,
        max_retries: int = 4,
        timeout_s: float = 60.0,
    ):
        """`base_url` and `api_key` default to OPENAI_BASE_URL and OPENAI_API_KEY; a server named by URL may need no key.

        A request that fails for a passing reason (connection, 429, 5xx) is tried `max_retries` times more, waiting longer
        each time. Raises Unavailable when neither a key nor an address is given.
        """
        import openai

        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        api_key = api_key or os.environ.get("OPENAI_API_KEY")
        if not api_key and not base_url:
            raise Unavailable(
                "embedder: openai needs a key in OPENAI_API_KEY, or a server's address, as in openai:MODEL@URL."
            )
        self._openai = openai
        self._client = openai.OpenAI(
            api_key=api_key or "none", base_url=base_url, max_retries=max_retries, timeout=timeout_s
        )
        self._model = model
        self._batch_size = batch_size
        self._dim: int | None = None
        self.name = f"openai:{model}"

    @property
    def dim(self) -> int:
        """Length D of a vector; the first use asks the endpoint."""
        if self._dim is None:
            self._dim = len(self._request(["dimension"])[0])
        return self._dim

    def split(self, text: str) -> list[Span]:
        """Pieces of at most 4000 characters."""
        if len(text) <= self._max_chars:
            return [(0, len(text))]
        return split_text(text, self._max_chars, _char_ends, 16 * self._max_chars)

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Unit vectors, float32 (N, D), asked for in batches. Raises Unavailable when the endpoint does not serve them."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), self._batch_size):
            # Endpoints refuse empty texts.
            vectors += self._request([encodable(text) or " " for text in texts[start : start + self._batch_size]])
        if not vectors:
            return Embeddings(np.zeros((0, self.dim), np.float32))
        if {len(vector) for vector in vectors} != {self.dim}:
            raise Unavailable(f"embedder: {self._where()} returned vectors of different lengths; check the model.")
        return Embeddings(_unit_rows(np.array(vectors, np.float32)))

    def _request(self, texts: list[str]) -> list[list[float]]:
        try:
            reply = self._client.embeddings.create(model=self._model, input=texts, encoding_format="float")
        except self._openai.AuthenticationError:
            raise Unavailable(f"embedder: {self._where()} refused the key; set OPENAI_API_KEY.") from None
        except self._openai.APIConnectionError as error:
            raise Unavailable(f"embedder: {self._where()} does not answer; is the server running? ({error})") from error
        except self._openai.OpenAIError as error:
            raise Unavailable(f"embedder: {self._where()} answered with an error: {error}") from error
        vectors = [item.embedding for item in sorted(reply.data or [], key=lambda item: item.index)]
        if len(vectors) != len(texts) or not all(vectors):
            raise Unavailable(f"embedder: {self._where()} returned {len(vectors)} vectors for {len(texts)} texts.")
        return vectors

    def _where(self) -> str:
        return f"{self._model!r} at {self._client.base_url}"
