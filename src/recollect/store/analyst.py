"""The built-in analyst: what a language model would be asked about a text, by rules and counts instead.

Keywords, named things, triples, tags, a gist and summaries, used where no language model is configured. It finds what
is plainly in the words and infers nothing; where a method asks for judgement, a language model does better.

Summaries: TextRank (Mihalcea and Tarau, TextRank: Bringing Order into Texts, 2004) says how central a sentence is,
maximal marginal relevance (Carbonell and Goldstein, 1998) keeps the chosen ones different.

Cost: linear in the text, of which the first 20,000 characters are read; `summary` is quadratic in the sentences, of
which the first 400 are read. Nothing is downloaded, nothing is random.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import log

import numpy as np

from recollect.store import analyst_rules
from recollect.store.english import MAX_CHARS, expand, sentences
from recollect.store.evidence import stems
from recollect.store.facts import facts
from recollect.store.lexical import STOP_WORDS, terms
from recollect.store.names import entities, mentions
from recollect.store.retelling import third_person_of, with_dates
from recollect.store.timeline import find_times
from recollect.store.triples import triples

__all__ = ["entities", "gist", "keywords", "summary", "tags", "triples"]

MAX_SENTENCES = 400  # of those that a summary chooses from
SIMILARITY_WEIGHT = 0.3  # lost by a sentence that says what a chosen one says, in units of centrality
LEAST_CENTRALITY = 0.3  # of a sentence that joins others in a summary; 1 for the most central
GIST_WORDS = 40

_DULL = frozenset(
    terms(
        "thing things stuff lot lots way really good great nice cool awesome amazing wow hey thanks sure maybe kind today"
        " yesterday tomorrow know think want make made take say said tell told see look like love feel come came back"
        " new time day week month year people something anything everything everyone much many"
    )
)
_DOMAINS = {
    stem: domain.strip()
    for domain, words in re.findall(
        r"^(\w+):((?:[^\n]*\n)(?:\s+[^\n]*\n)*)", analyst_rules.DOMAINS.lstrip(), re.MULTILINE
    )
    for stem in stems(words)
}
_FORMS = [(form, re.compile(pattern, re.IGNORECASE)) for form, pattern in analyst_rules.FORMS]


def keywords(
    text: str,
    k: int = 5,
    *,
    frequency: Callable[[list[str]], dict[str, int]] | None = None,
    num_documents: int = 0,
) -> list[str]:
    """The `k` most telling words and phrases of a text, the best first.

    frequency: says in how many of `num_documents` texts each of some stems (`lexical.terms`) occurs, so that rare ones
    count more. Without it capitals, length, place and repetition decide.
    """
    text = text[:MAX_CHARS].replace("\0", " ")
    phrases = _phrases(text)
    if not phrases or k < 1:
        return []
    counts = Counter(terms(text))
    rarity = dict.fromkeys(counts, 1.0)
    if frequency is not None and num_documents:
        held = frequency(list(counts))
        top = log(1 + num_documents)
        rarity = {stem: log((1 + num_documents) / (1 + held.get(stem, 0))) / top + 0.1 for stem in counts}
    scores: dict[str, tuple[float, str]] = {}
    for place, (phrase, named) in enumerate(phrases):
        found = terms(phrase)
        weights = [
            rarity.get(stem, 1.0) * (1 + log(max(counts[stem], 1))) * (0.3 if stem in _DULL else 1.0)
            * min(1.0, 0.4 + len(stem) / 10)
            for stem in found
        ]  # fmt: skip
        score = sum(weights) / len(weights) ** 0.6 * (1.4 if named else 1.0) * (1 + 0.5 / (1 + place / 4))
        key = " ".join(found)
        if key not in scores or scores[key][0] < score:
            scores[key] = (score, phrase)
    chosen: list[str] = []
    covered: list[set[str]] = []
    for _, (_, phrase) in sorted(scores.items(), key=lambda item: -item[1][0]):
        own = set(terms(phrase))
        if all(len(own & other) < max(1, len(own)) for other in covered):
            chosen.append(phrase)
            covered.append(own)
        if len(chosen) == k:
            break
    return chosen


def _phrases(text: str) -> list[tuple[str, bool]]:
    """Names and runs of up to three content words in order, with whether each is a name; names called out left out."""
    named = mentions(text)
    out: list[tuple[int, str, bool]] = []
    called = {
        item.first
        for item in named
        if _CALLED.match(text, max(0, item.first - 12), item.last + 1) or _calls(text, item.first, item.last)
    }
    inside = [(item.first, item.last) for item in named]
    out += [
        (item.first, item.text, True)
        for item in named
        if item.first not in called and item.kind != "date" and terms(item.text)
    ]
    run: list[re.Match[str]] = []
    names = iter(inside)
    span = next(names, None)

    def close() -> None:
        if run:
            out.append((run[0].start(), text[run[0].start() : run[-1].end()], False))
            run.clear()

    for match in re.finditer(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[^\w\s]", text):
        while span and span[1] <= match.start():
            span = next(names, None)
        word = match[0].lower()
        stem = terms(word.replace("\u2019", "'"))
        common = not stem or not word[0].isalpha() or word in STOP_WORDS or expand(word) != word or stem[0] in _DULL
        if (span and span[0] <= match.start() < span[1]) or common:
            close()
            continue
        run.append(match)
        if len(run) == 3:
            close()
    close()
    return [(phrase, is_name) for _, phrase, is_name in sorted(out, key=lambda item: item[0])]


_CALLED = re.compile(r"(?:hey|hi|hello|thanks|wow|oh),?\s", re.IGNORECASE)


def _calls(text: str, first: int, last: int) -> bool:
    """Whether a name only calls somebody: "Hey Mel!", "Thanks, Ana." """
    before = text[max(0, first - 12) : first]
    return bool(
        re.search(r"(?:^|\b(?:hey|hi|hello|thanks|wow|oh|congrats|yeah|you),?\s)$|,\s$", before, re.IGNORECASE)
    ) and bool(re.match(r"\s*[,!.?]|\s*$", text[last : last + 2]))


def tags(text: str, k: int = 3) -> list[str]:
    """Up to `k` broad categories: what the text is about (family, work, travel ...) and its form (plan, question ...)."""
    text = text[:MAX_CHARS]
    counts = Counter(_DOMAINS[stem] for stem in stems(text) if stem in _DOMAINS)
    domains = [domain for domain, _ in counts.most_common()]
    forms = [form for form, pattern in _FORMS if pattern.search(text)]
    num_domains = max(k - len(forms[:1]), 0) if domains else 0
    return list(dict.fromkeys([*domains[:num_domains], *forms[: k - len(domains[:num_domains])]]))[: max(k, 0)]


def gist(text: str, *, speaker: str | None = None, at: datetime | None = None) -> str:
    """One sentence that stands alone, at most 40 words: the most telling of the text, told in the third person."""
    text = text[:MAX_CHARS].replace("\0", " ")
    who = " ".join((speaker or "").replace("\0", " ").split())
    spans = find_times(text, at) if at else []
    pieces = sentences(text)
    if not pieces:
        return " ".join(text.split())[:200]
    counts = Counter(terms(text))
    stated = facts(text, speaker=speaker, at=at or datetime(2000, 1, 1, tzinfo=UTC)) if len(text) < 2_000 else []

    def worth(place: int) -> float:
        first, last = pieces[place]
        found = {stem for stem in terms(text[first:last]) if stem not in _DULL}
        score = sum(1 + log(counts[stem]) for stem in found) / (3 + len(found)) ** 0.5
        score *= 1.5 if any(fact.first == first for fact in stated) else 1.0
        return (
            score * (0.5 if text[first:last].endswith("?") else 1.0) * (1.2 if place == 0 and len(pieces) > 3 else 1.0)
        )

    best = max(range(len(pieces)), key=worth)
    first, last = pieces[best]
    inside = [span for span in spans if first <= span.start_char and span.end_char <= last]
    told = text[first:last]
    if at:
        told = with_dates(told, inside, at, first)
    if who:
        told = third_person_of(expand(told), who)
        if who.casefold() not in told.casefold():
            told = f"{who}: {told}"
    words = " ".join(told.split()).split(" ")
    return " ".join(words) if len(words) <= GIST_WORDS else " ".join(words[:GIST_WORDS]) + " ..."


def summary(texts: Sequence[str], max_words: int, *, vectors: np.ndarray | None = None) -> str:
    """The most central and mutually different sentences of some texts, in their order, at most `max_words` words.

    vectors: float (N, D), a row of length 1 for each text; similarities are then those of the texts that sentences
    stand in, added to those of their words.
    """
    pieces = [
        (number, " ".join(text[first:last].split()))
        for number, text in enumerate(item.replace("\0", " ") for item in texts)
        for first, last in sentences(text)
    ][:MAX_SENTENCES]
    pieces = [(number, piece) for number, piece in pieces if terms(piece)]
    if not pieces or max_words < 1:
        return ""
    near = _similarities([piece for _, piece in pieces])
    if vectors is not None:
        rows = np.asarray(vectors, dtype=np.float64)[[number for number, _ in pieces]]
        near = (near + np.clip(rows @ rows.T, 0.0, None)) / 2
    centrality = _text_rank(near)
    chosen: list[int] = []
    room = max_words
    lengths = [len(piece.split()) for _, piece in pieces]
    left = set(range(len(pieces)))
    while left:
        fitting = [place for place in sorted(left) if lengths[place] <= room]
        if not fitting or (chosen and max(centrality[place] for place in fitting) < LEAST_CENTRALITY):
            break
        best = max(
            fitting,
            key=lambda place: (
                centrality[place] - SIMILARITY_WEIGHT * max((near[place, other] for other in chosen), default=0.0)
            ),
        )
        left.discard(best)
        if all(near[best, other] < 0.9 for other in chosen):
            chosen.append(best)
            room -= lengths[best]
    if not chosen:
        return " ".join(pieces[int(np.argmax(centrality))][1].split()[:max_words])
    return " ".join(pieces[place][1] for place in sorted(chosen))


def _similarities(pieces: Sequence[str]) -> np.ndarray:
    """Cosines of the tf-idf of sentences, float64 (S, S)."""
    counts = [Counter(terms(piece)) for piece in pieces]
    holding = Counter(stem for count in counts for stem in count)
    places = {stem: place for place, stem in enumerate(holding)}
    matrix = np.zeros((len(pieces), len(places)))
    for row, count in enumerate(counts):
        for stem, number in count.items():
            matrix[row, places[stem]] = number * (log((1 + len(pieces)) / (1 + holding[stem])) + 1)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    return matrix @ matrix.T


def _text_rank(near: np.ndarray, damping: float = 0.85, num_steps: int = 30) -> np.ndarray:
    """How central each sentence is, float64 (S,), 1 for the most central."""
    links = near * (1 - np.eye(len(near)))
    out = links.sum(axis=1, keepdims=True)
    steps = np.divide(links, out, out=np.full_like(links, 1 / len(links)), where=out > 1e-9)
    rank = np.full(len(near), 1 / len(near))
    for _ in range(num_steps):
        rank = (1 - damping) / len(near) + damping * rank @ steps
    return rank / rank.max()
