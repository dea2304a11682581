"""TF-IDF as an embedder: the retrieval of many small-scale checks, where the words are made up and no model knows them.

Shapes: N texts, D terms of the corpus that it was fitted on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from recollect.store.embedders import Embeddings, Kind, Span
from recollect.store.lexical import terms


class TfIdf:
    """Unit vectors of term counts, damped by a logarithm, times log(N / n) of a term in n of the N texts fitted on.

    Terms that are in no text count nothing. Only for corpora of some thousand terms, as vectors are dense.
    """

    has_tokens = False

    def __init__(self, texts: Sequence[str]):
        counts = Counter(term for text in texts for term in set(terms(text)))
        self._places = {term: place for place, term in enumerate(sorted(counts))}
        weights = [np.log((1 + len(texts)) / (1 + counts[term])) + 1 for term in self._places]
        self._weights = np.array(weights, np.float32)
        self.dim = max(len(self._places), 1)
        self.name = f"tfidf:{hashlib.sha256(' '.join(self._places).encode()).hexdigest()[:16]}"

    def split(self, text: str) -> list[Span]:
        """One piece, whatever its length."""
        return [(0, len(text))]

    def embed(self, texts: Sequence[str], kind: Kind = "document") -> Embeddings:
        """Vectors float32 (N, D); zeros for a text without a known term."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for term, count in Counter(terms(text)).items():
                if term in self._places:
                    vectors[row, self._places[term]] = (1 + np.log(count)) * self._weights[self._places[term]]
        return Embeddings(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))
