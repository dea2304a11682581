"""Fusion: many weak signals about each candidate, standardised and weighed, so that a rank can be explained.

The first stage (BM25, cosine, and the turns beside them) gives some hundred candidates. For each, `signals` measures how
well it answers the query, alone and together with the turns around it: in a conversation the words of a question are
spread over several turns, so a turn borrows, at a discount, the matches of its neighbours. Every signal is standardised
over the candidates of this recall (mean 0, deviation 1), the score is their weighted sum, and a hit's explanation is the
summands. A weight can be negative: what a turn matches by itself is worth less when its surroundings match as well.

Names of speakers are taken out of the query before it is embedded and searched (`without_names`), because in a
conversation the one who says a name is usually the other one; who is asked about is a signal of its own.

Weights: fitted by `recollect.benchmarks.fit` on LoCoMo (arXiv:2402.17753), listwise: the softmax of the scores over a
question's candidates against its evidence. `data/fusion.json` holds the weights of all conversations together and, for
each conversation, those that were fitted without it. Two sets: with token vectors (late interaction) and without.
Cost: O(candidates * dimension); on one core about 10 ms for 250 candidates and 15 ms for 570, a third of it late interaction.

Shapes: N candidates, D dimension of a vector, Tq tokens of the query, W distinct terms of the query.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from recollect.store import late, lexical, shape
from recollect.store.records import Signal

_K1, _B = 1.2, 0.75  # BM25, for the session as a document
_REACH = 4  # turns on each side that lend a turn their matches, as far as they are candidates
_FADE = 0.9  # what is left of a token's match one turn away
_FADE_WORD = 0.8  # the same for a word
_SOON_S = 7 * 86400.0  # what happened is told within a week


@dataclass(slots=True)
class Query:
    """What is asked, and what the corpus knows about its words.

    `vector`, `tokens` and `token_ids` come from `without_names(text, speakers)[0]`, not from the text itself.
    """

    text: str
    at: float  # when it is asked, seconds since 1970 UTC
    vector: np.ndarray  # float32 (D,), unit length
    tokens: np.ndarray | None = None  # float32 (Tq, 384), unit rows
    token_ids: np.ndarray | None = None  # int32 (Tq,)
    document_frequency: Mapping[int, int] = field(default_factory=dict)  # term id -> number of episodes with it
    num_documents: int = 0
    speakers: Sequence[str] = ()  # names known in the scope
    window: tuple[float, float] | None = None  # the time that the text speaks of, in seconds as `at`; may be infinite


@dataclass(slots=True)
class Candidates:
    """N candidates as columns; best sorted by (session, position), though nothing depends on it."""

    seq: np.ndarray  # int64 (N,)
    session: np.ndarray  # int64 (N,)
    position: np.ndarray  # int64 (N,), 0-based turn in its session
    at: np.ndarray  # float64 (N,), seconds since 1970 UTC
    speaker: list[str]  # "" where unknown
    shape: np.ndarray  # uint8 (N,), from shape.flags
    dense: np.ndarray  # float32 (N,), cosine of the best chunk with the query
    vectors: np.ndarray  # float32 (N, D), the best chunk's vector
    first_stage: np.ndarray  # bool (N,), False for one that is there only as a neighbour
    tokens: list[bytes | None]  # the best chunk's token vectors, from late.compress
    terms: list[bytes]  # from lexical.term_ids, 4 bytes a term


def without_names(text: str, speakers: Sequence[str]) -> tuple[str, list[str]]:
    """(the text without the names of speakers, the speakers that it names).

    A speaker is named by any word of the name, whole and in any case, with or without a possessive 's. The text comes
    back unchanged when it names nobody or when nothing else is left of it.
    """
    owners, pattern = _names(tuple(speakers))
    matches = list(pattern.finditer(text)) if pattern else []
    if not matches:
        return text, []
    bare = " ".join(pattern.sub(" ", text).split()) if pattern else text
    named = {match.group(1).casefold() for match in matches}
    return (bare if _LETTER.search(bare) else text), [name for name in speakers if named & owners[name]]


def asked_about(text: str, speakers: Sequence[str]) -> list[str]:
    """The speakers that a query is about: those it names, but only the first of them unless they are joined by "and".

    "What did Ana cook?" is about Ana, "What do Ana and Ben share?" about both, "What did Ana tell Ben?" about Ana.
    """
    owners, pattern = _names(tuple(speakers))
    matches = list(pattern.finditer(text)) if pattern else []
    subject = matches[:1]
    for last, match in itertools.pairwise(matches):
        if not _JOINED.fullmatch(text[last.end() : match.start()]):
            break
        subject.append(match)
    words = {match.group(1).casefold() for match in subject}
    return [name for name in speakers if words & owners[name]]


@lru_cache(maxsize=64)
def _names(speakers: tuple[str, ...]) -> tuple[dict[str, set[str]], re.Pattern[str] | None]:
    """(the words of each speaker's name, case-folded; a pattern that finds any of them as group 1)."""
    owners = {name: {word.casefold() for word in _NAME_WORD.findall(name)} for name in speakers}
    words = sorted(set().union(*owners.values()), key=len, reverse=True)
    if not words:
        return owners, None
    pattern = "|".join(map(re.escape, words))
    return owners, re.compile(rf"(?<![^\W_])({pattern})(?:['\u2019]s)?(?![^\W_])", re.IGNORECASE)


_LEAST_SPREAD = 0.25  # of a flag; that of one that a fifteenth of the candidates carry
FLAGS = frozenset(
    {
        "asks",
        "follows a question",
        "first person",
        "hardly a word",
        "a time, asked when",
        "a number, asked how many",
        "a name, asked who, where or what",
        "said by the one asked about",
        "in the time asked about",
        "soon after that time",
    }
)  # signals that are 0 or 1 (the speaker's also -1)

_LETTER = re.compile(r"[^\W_]")
_NAME_WORD = re.compile(r"[^\W_]{2,}")
_JOINED = re.compile(r"(?:[\s,&]|\band\b|\bor\b)*", re.IGNORECASE)
_WHEN = re.compile(r"\b(?:when|how (?:long|often)|(?:what|which) (?:year|date|day|month|time))\b", re.IGNORECASE)
_HOW_MANY = re.compile(r"\bhow (?:many|much|old|often|long|far|big|tall)\b", re.IGNORECASE)
_WHO = re.compile(r"\b(?:who|whom|whose|where|which|what)\b", re.IGNORECASE)


def signals(query: Query, candidates: Candidates) -> dict[str, np.ndarray]:
    """The raw signals by name, float64 (N,) each; those of token vectors only if there are any."""
    around = _Around(candidates)
    bare, _ = without_names(query.text, query.speakers)
    found = _words(query, bare, candidates, around)
    found |= _meaning(query, candidates, around)
    if query.tokens is not None and len(query.tokens) and any(candidates.tokens):
        found |= _tokens(query.tokens, candidates, around)
    found |= _shape(query.text, candidates, around)
    found["said by the one asked about"] = _speaker(query, candidates.speaker)
    found |= _time(query.window, candidates.at)
    return found


class _Around:
    """Who stands where: rows of the turns beside each candidate, and its session."""

    def __init__(self, candidates: Candidates) -> None:
        _, self.session, sizes = np.unique(candidates.session, return_inverse=True, return_counts=True)
        self._key = self.session.astype(np.int64) * (1 << 44) + candidates.position
        self._order = np.argsort(self._key, kind="stable")
        self._sorted = self._key[self._order]
        self._starts = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.int64)
        self.rows = {step: self._find(step) for step in range(-_REACH, _REACH + 1) if step}

    def _find(self, step: int) -> np.ndarray:
        place = np.minimum(np.searchsorted(self._sorted, self._key + step), len(self._sorted) - 1)
        return np.where(self._sorted[place] == self._key + step, self._order[place], -1)

    def at(self, values: np.ndarray, step: int) -> np.ndarray:
        """values (..., N) of the turn `step` places later; 0 where it is no candidate."""
        return _with_zero(values)[..., self.rows[step]]

    def spread(
        self, values: np.ndarray, fade: float, steps: Sequence[int], best: np.ndarray | None = None
    ) -> np.ndarray:
        """The largest of a turn's own values (..., N) and those at `steps`, times `fade` for each turn of distance.

        best: what an earlier call gave for other steps, to go on from.
        """
        best = values if best is None else best
        padded = _with_zero(values)
        for step in steps:
            best = np.maximum(best, fade ** abs(step) * padded[..., self.rows[step]])
        return best

    def sums(self, values: np.ndarray) -> np.ndarray:
        """values (..., N) summed over sessions, (..., sessions)."""
        return np.add.reduceat(values[..., self._order], self._starts, axis=-1)


def _with_zero(values: np.ndarray) -> np.ndarray:
    """values (..., N) with a 0 behind them, which row -1 finds; (..., N + 1)."""
    return np.concatenate([values, np.zeros((*values.shape[:-1], 1))], axis=-1)


def _words(query: Query, bare: str, candidates: Candidates, around: _Around) -> dict[str, np.ndarray]:
    ids = np.unique(lexical.term_ids(bare))  # (W,)
    lengths = np.array([len(terms) / 4 for terms in candidates.terms])
    flat = np.frombuffer(b"".join(candidates.terms), "<u4")
    counts = np.zeros((len(ids), len(lengths)))  # (W, N)
    if len(ids) and len(flat):
        place = np.minimum(np.searchsorted(ids, flat), len(ids) - 1)
        hit = ids[place] == flat
        rows = np.repeat(np.arange(len(lengths)), lengths.astype(np.int64))
        np.add.at(counts, (place[hit], rows[hit]), 1)
    frequency = np.array([query.document_frequency.get(int(id_), 0) for id_ in ids], np.float64)
    total = max(query.num_documents, int(frequency.max(initial=0)))
    weights = np.log1p((total - frequency + 0.5) / (frequency + 0.5))  # (W,)
    share = weights / max(weights.sum(), 1e-9)
    has = (counts > 0).astype(np.float64)

    before = around.spread(has, _FADE_WORD, (-1, -2))
    in_session = around.sums(counts)
    size = around.sums(lengths)
    norm = _K1 * (1 - _B + _B * size / max(float(size.mean()), 1e-9))
    return {
        "words with the turns before": share @ before,
        "words with the turns around": share @ around.spread(has, _FADE_WORD, (1, 2), before),
        "words of the session": (weights @ (in_session * (_K1 + 1) / (in_session + norm)))[around.session],
        "length": np.log1p(lengths),
        "hardly a word": (lengths < 3).astype(np.float64),
    }


def _meaning(query: Query, candidates: Candidates, around: _Around) -> dict[str, np.ndarray]:
    own = candidates.vectors
    wide = own.copy()
    for step, weight in ((-2, 0.3), (-1, 0.5), (1, 0.5), (2, 0.3)):
        rows = around.rows[step]
        wide += own[rows] * (weight * (rows >= 0))[:, None].astype(np.float32)
    scale = np.maximum(np.linalg.norm(wide, axis=1), 1e-9)
    return {
        "meaning": np.asarray(candidates.dense, np.float64),
        "meaning with the turns around": (wide @ query.vector / scale).astype(np.float64),
    }


def _tokens(tokens: np.ndarray, candidates: Candidates, around: _Around) -> dict[str, np.ndarray]:
    matches = late.best_matches(tokens, candidates.tokens).astype(np.float64)  # (Tq, N)

    def weighed(matches: np.ndarray) -> np.ndarray:
        weights = matches.max(axis=1) - matches.mean(axis=1)  # a token that all texts match alike tells nothing
        return weights @ matches / max(weights.sum(), 1e-9)

    before = around.spread(matches, _FADE, range(-_REACH, 0))
    return {
        "tokens": matches.mean(axis=0),
        "tokens with the turns before": weighed(before),
        "tokens with the turns around": weighed(around.spread(matches, _FADE, range(1, _REACH + 1), before)),
    }


def _speaker(query: Query, said_by: Sequence[str]) -> np.ndarray:
    """1 for turns of the speakers that are asked about, -1 for those of others, 0 where nothing can be said."""
    about = asked_about(query.text, query.speakers)
    if not about or len(about) >= len(query.speakers):
        return np.zeros(len(said_by))
    return np.array([0.0 if not name else 1.0 if name in about else -1.0 for name in said_by])


def _time(window: tuple[float, float] | None, at: np.ndarray) -> dict[str, np.ndarray]:
    first, last = window or (np.inf, np.inf)
    return {
        "in the time asked about": ((at >= first) & (at < last)).astype(np.float64),
        "soon after that time": ((at >= last) & (at < last + _SOON_S)).astype(np.float64),
    }


def _shape(text: str, candidates: Candidates, around: _Around) -> dict[str, np.ndarray]:
    def flag(bit: int) -> np.ndarray:
        return (candidates.shape & bit > 0).astype(np.float64)

    nothing = np.zeros(len(candidates.shape))
    asks = flag(shape.ASKS)
    return {
        "asks": asks,
        "follows a question": around.at(asks, -1),
        "first person": flag(shape.FIRST_PERSON),
        "a time, asked when": flag(shape.TIME) if _WHEN.search(text) else nothing,
        "a number, asked how many": flag(shape.NUMBER) if _HOW_MANY.search(text) else nothing,
        "a name, asked who, where or what": flag(shape.NAME) if _WHO.search(text) else nothing,
    }


def standardise(name: str, values: np.ndarray) -> np.ndarray:
    """The signal `name` (N,) with mean 0 and deviation 1 over the candidates; zeros where all are alike.

    A flag is divided by 0.25 at least, so that one that few candidates carry cannot outvote everything else.
    """
    spread = values.std()
    if spread < 1e-9:
        return np.zeros(len(values))
    return (values - values.mean()) / (max(spread, _LEAST_SPREAD) if name in FLAGS else spread)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The scores of one recall and what they are made of."""

    scores: np.ndarray  # float64 (N,), higher is better
    values: dict[str, np.ndarray]  # standardised signals by name, float64 (N,) each
    weights: Mapping[str, float]

    @property
    def contributions(self) -> dict[str, np.ndarray]:
        """What each signal added to the scores, float64 (N,) each."""
        return {name: self.weights[name] * values for name, values in self.values.items()}

    def explain(self, row: int) -> tuple[Signal, ...]:
        """The signals behind one candidate's score, largest share first; shares sum to 1 unless all are 0."""
        parts = [(name, float(values[row]), float(self.weights[name])) for name, values in self.values.items()]
        total = sum(abs(value * weight) for _, value, weight in parts) or 1.0
        why = [Signal(name, value, weight, abs(value * weight) / total) for name, value, weight in parts if weight]
        return tuple(sorted(why, key=lambda signal: -signal.share))


@dataclass(frozen=True, slots=True)
class Fusion:
    """The weight of each signal, for candidates with token vectors and for those without."""

    with_tokens: Mapping[str, float]
    without_tokens: Mapping[str, float]

    @classmethod
    def load(cls, without: str | None = None) -> Fusion:
        """The weights that ship with the package.

        without: a benchmark conversation's id ("conv-26"); the weights are then those fitted without it. A name that
        the weights were not fitted on gives the weights of all.
        """
        sets = _weight_file()["weights"]
        return cls(**sets.get(without or "all", sets["all"]))

    def rank(self, query: Query, candidates: Candidates) -> Ranking:
        """Score the candidates; the order of the result's arrays is that of the candidates."""
        if not len(candidates.seq):
            return Ranking(np.zeros(0), {}, {})
        raw = signals(query, candidates)
        weights = self.with_tokens if "tokens" in raw else self.without_tokens
        values = {name: standardise(name, raw[name]) for name in weights}
        scores = np.zeros(len(candidates.seq))
        for name, weight in weights.items():
            scores += weight * values[name]
        return Ranking(scores, values, weights)


def fitted_on() -> list[str]:
    """Ids of the benchmark conversations that the shipped weights were fitted on."""
    return list(_weight_file()["fitted_on"])


@cache
def _weight_file() -> dict:
    return json.loads((Path(__file__).parent / "data" / "fusion.json").read_text(encoding="utf-8"))
