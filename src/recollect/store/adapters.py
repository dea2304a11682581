"""Embedders of others: sentence-transformers, fastembed, and any OpenAI-compatible endpoint.

Each is imported when it is made, and what is missing or does not answer is said with the way out. `embedders.py` says how
they are named.

Shapes: N texts, D the embedder's dimension.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from recollect.errors import Unavailable
from recollect.store.embedders import Embeddings, Kind, Span, char_ends, encodable, split_text, unit_rows


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
        return Embeddings(unit_rows(encode([encodable(text) for text in texts], show_progress_bar=False)))


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
        return split_text(text, self._max_chars, char_ends, 16 * self._max_chars)

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Unit vectors, float32 (N, D)."""
        if not texts:
            return Embeddings(np.zeros((0, self.dim), np.float32))
        encode = self._model.query_embed if kind == "query" else self._model.embed
        return Embeddings(unit_rows(np.stack(list(encode([encodable(text) for text in texts])))))


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
        return split_text(text, self._max_chars, char_ends, 16 * self._max_chars)

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
        return Embeddings(unit_rows(np.array(vectors, np.float32)))

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
