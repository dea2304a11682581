"""Words: what counts as a term, how a text becomes a safe full-text query, and BM25 as a floor to measure against.

A term is the English stem of a word: the text is brought to Unicode form NFKC, case-folded, stripped of Latin accents,
cut at everything that is neither letter nor digit, freed of common words, and stemmed (Snowball English). A term id is
the CRC-32 of the stem's UTF-8 bytes: the same on every machine, four bytes a term, kept with each episode so that
ranking never has to cut text again.

`fts_query` writes expressions for a table of SQLite's FTS5 with the tokenizer "porter unicode61". Only letters and
digits inside double quotes reach the expression, so no user text can be read as an operator.

BM25: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009), with the always positive
logarithm log(1 + (N - n + 0.5) / (n + 0.5)) as the weight of a term found in n of N documents.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import log
from zlib import crc32

import numpy as np
import Stemmer

_WORD = re.compile(r"[^\W_]+")
_ACCENT = re.compile("[\u0300-\u036f]")
_MAX_WORD_CHARS = 200  # longer runs of letters are no words; they are left out of terms and queries
_MAX_QUERY_CHARS = 20_000  # a query's words are looked for in this much of its text
_stemmer = Stemmer.Stemmer("english")

STOP_WORDS = frozenset(
    """a about above after again against ain all also am an and any are aren as at be because been before being below
    between both but by can cannot could couldn d did didn do does doesn doing don done down during each either else
    ever few for from further get gets getting go goes going gonna gotta had hadn has hasn have haven having he her here
    hers herself hey hi him himself his how however i if in into is isn it its itself just let ll m ma may me might
    mine more most much must my myself neither no nor not now o of off oh ok okay on once only onto or other ought our
    ours ourselves out over own perhaps quite rather re really s same shall shan she should shouldn so some such t than
    that the their theirs them themselves then there these they this those though through thus to too under until up
    upon us ve very wanna was wasn we well were weren what when where whether which while who whom whose why will with
    within without won would wouldn y yeah yep yes yet you your yours yourself yourselves""".split()
)


def _words(text: str) -> list[str]:
    """The words of a text in order: NFKC, case-folded, without Latin accents; punctuation and control characters cut."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFKC", _ACCENT.sub("", unicodedata.normalize("NFKD", folded)))
    return [word for word in _WORD.findall(folded) if len(word) <= _MAX_WORD_CHARS]


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    return _stemmer.stemWord(word)


@lru_cache(maxsize=1 << 16)
def term_id(term: str) -> int:
    """The id of a term that `terms` returned: CRC-32 of its UTF-8 bytes."""
    return crc32(term.encode("utf-8", "replace"))


def terms(text: str) -> list[str]:
    """The stems of a text's words in order, common words left out; empty for a text of common words only."""
    return [_stem(word) for word in _words(text) if word not in STOP_WORDS]


def stems(text: str) -> list[str]:
    """The stems of all of a text's words in order, common words among them."""
    return [_stem(word) for word in _words(text)]


def term_ids(text: str) -> np.ndarray:
    """The ids of `terms(text)` in order, uint32 (T,); `.tobytes()` is what the store keeps (little-endian)."""
    return np.array([term_id(term) for term in terms(text)], dtype="<u4")


def fts_query(text: str, max_terms: int = 32) -> str:
    """Any text as an FTS5 expression: distinct quoted words joined by OR, common words left out.

    The first `max_terms` distinct words are kept. Common words are kept only if there are no others, and the result is
    "" if there is no word at all (FTS5 refuses an empty expression, so do not send it).
    """
    words = [
        word
        for word in dict.fromkeys(_WORD.findall(unicodedata.normalize("NFKC", text[:_MAX_QUERY_CHARS]).lower()))
        if len(word) <= _MAX_WORD_CHARS
    ]
    kept = [word for word in words if word.casefold() not in STOP_WORDS] or words
    return " OR ".join(f'"{word}"' for word in kept[:max_terms])


class BM25:
    """Okapi BM25 over a fixed list of texts; a readable floor for the bench, not the store's search.

    texts: the documents. k1: how soon repeated terms stop counting (1.2). b: how much long documents are held back (0.75).
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self.k1, self.b = k1, b
        counts = [Counter(terms(text)) for text in texts]
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        self.norms = k1 * (1 - b + b * lengths / max(lengths.mean() if len(lengths) else 1.0, 1e-9))  # (N,)
        self.postings: dict[str, list[tuple[int, int]]] = {}  # term -> (document, count in it)
        for document, count in enumerate(counts):
            for term, number in count.items():
                self.postings.setdefault(term, []).append((document, number))

    def scores(self, query: str) -> np.ndarray:
        """The score of every document for a query, float64 (N,); 0 where no term is shared."""
        total = np.zeros(len(self.norms))
        for term in set(terms(query)):
            found = self.postings.get(term, [])
            weight = log(1 + (len(self.norms) - len(found) + 0.5) / (len(found) + 0.5))
            for document, number in found:
                total[document] += weight * number * (self.k1 + 1) / (number + self.norms[document])
        return total
