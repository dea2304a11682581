"""How good a ranking or an answer is: recall in three senses, rank measures, chance levels, intervals, LoCoMo's F1.

"Recall" alone says nothing: with g pieces of evidence, of which f are among the first k results,
    recall_fraction = f / g        recall_any = [f > 0]        recall_all = [f = g].
NDCG divides by the gain of a ranking that has ALL evidence first, not only the evidence that was retrieved.

LoCoMo's scoring: Evaluating Very Long-Term Conversational Memory of LLM Agents, arXiv:2402.17753 (2024).
LongMemEval's gain: LongMemEval, arXiv:2410.10813 (2024), official evaluation.
Differs: Porter's original stemmer (PyStemmer "porter"); LoCoMo's script uses NLTK's, which adds a few exceptions.

Shapes: Q questions, M measures, n units that could be retrieved, g of them evidence, k results looked at.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from math import comb, log2

import numpy as np
import Stemmer

KS = (1, 5, 10, 25, 50)
SEED = 0
NUM_RESAMPLES = 1000


def recall_fraction(ranked: Sequence[str], gold: Collection[str], k: int) -> float:
    """The share of the evidence among the first k results; gold must not be empty."""
    return len(set(ranked[:k]) & set(gold)) / len(set(gold))


def recall_any(ranked: Sequence[str], gold: Collection[str], k: int) -> float:
    """1.0 if any evidence is among the first k results, else 0.0."""
    return float(bool(set(ranked[:k]) & set(gold)))


def recall_all(ranked: Sequence[str], gold: Collection[str], k: int) -> float:
    """1.0 if all evidence is among the first k results, else 0.0; never 1.0 for more evidence than k."""
    return float(set(gold) <= set(ranked[:k]))


def hit_at_1(ranked: Sequence[str], gold: Collection[str]) -> float:
    """1.0 if the first result is evidence, else 0.0."""
    return recall_any(ranked, gold, 1)


def mrr(ranked: Sequence[str], gold: Collection[str]) -> float:
    """One over the rank of the first evidence, 0.0 if none was retrieved; its mean over questions is the MRR."""
    return next((1.0 / rank for rank, item in enumerate(ranked, 1) if item in gold), 0.0)


def ndcg(ranked: Sequence[str], gold: Collection[str], k: int) -> float:
    """Discounted gain with 1 / log2(rank + 1) over that of all evidence ranked first; results must be distinct."""
    gain = sum(1 / log2(rank + 1) for rank, item in enumerate(ranked[:k], 1) if item in gold)
    return gain / sum(1 / log2(rank + 1) for rank in range(1, min(k, len(set(gold))) + 1))


def ndcg_longmemeval(ranked: Sequence[str], gold: Collection[str], k: int) -> float:
    """LongMemEval's form: the discount is 1 at ranks 1 and 2 and 1 / log2(rank) after; 0.0 without evidence.

    Not comparable with `ndcg`.
    """
    ideal = sum(_official_discount(rank) for rank in range(1, min(k, len(set(gold))) + 1))
    gain = sum(_official_discount(rank) for rank, item in enumerate(ranked[:k], 1) if item in gold)
    return gain / ideal if ideal else 0.0


def _official_discount(rank: int) -> float:
    return 1.0 if rank == 1 else 1 / log2(rank)


def score_ranking(
    ranked: Sequence[str], gold: Collection[str], ks: Sequence[int] = KS, official_ndcg: bool = False
) -> dict[str, float]:
    """Every measure of one ranking: "recall@5", "recall_any@5", ..., "hit_at_1", "mrr"; gold must not be empty."""
    scores: dict[str, float] = {}
    for k in ks:
        scores[f"recall@{k}"] = recall_fraction(ranked, gold, k)
        scores[f"recall_any@{k}"] = recall_any(ranked, gold, k)
        scores[f"recall_all@{k}"] = recall_all(ranked, gold, k)
        scores[f"ndcg@{k}"] = ndcg(ranked, gold, k)
        if official_ndcg:
            scores[f"ndcg_longmemeval@{k}"] = ndcg_longmemeval(ranked, gold, k)
    return scores | {"hit_at_1": hit_at_1(ranked, gold), "mrr": mrr(ranked, gold)}


@lru_cache(maxsize=1 << 14)
def chance_levels(num_units: int, num_gold: int, ks: tuple[int, ...] = KS) -> Mapping[str, float]:
    """The exact expectation of every measure of `score_ranking` for a random order of n units, g of them evidence.

    recall = k / n;  recall_any = 1 - C(n - g, k) / C(n, k);  recall_all = C(n - g, k - g) / C(n, k);
    P(first evidence at rank r) = C(n - r, g - 1) / C(n, g), which gives the MRR.
    """
    n, g = num_units, num_gold
    levels: dict[str, float] = {}
    for k in ks:
        seen = min(k, n)
        levels[f"recall@{k}"] = seen / n
        levels[f"recall_any@{k}"] = 1 - comb(n - g, seen) / comb(n, seen)
        levels[f"recall_all@{k}"] = comb(n - g, seen - g) / comb(n, seen) if seen >= g else 0.0
        ideal = sum(1 / log2(rank + 1) for rank in range(1, min(k, g) + 1))
        levels[f"ndcg@{k}"] = g / n * sum(1 / log2(rank + 1) for rank in range(1, seen + 1)) / ideal
    levels["hit_at_1"] = g / n
    levels["mrr"] = sum(comb(n - rank, g - 1) / rank for rank in range(1, n - g + 2)) / comb(n, g)
    return levels


def bootstrap_intervals(
    values: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> list[tuple[float, float]]:
    """95% percentile intervals of the column means of `values` (Q, M), questions drawn with replacement.

    Questions count as independent, which those about one conversation are not quite: the intervals say how much the
    figure would move with other questions about the same conversations, not with other conversations.
    """
    num_questions = len(values)
    if not num_questions:
        return [(float("nan"), float("nan"))] * values.shape[1]
    draws = np.random.default_rng(seed).multinomial(
        num_questions, np.full(num_questions, 1 / num_questions), num_resamples
    )
    low, high = np.percentile(draws @ values / num_questions, [2.5, 97.5], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the|and)\b")
_stemmer = Stemmer.Stemmer("porter")


def normalise_answer(text: str) -> str:
    """LoCoMo's form of an answer: no commas, lower case, no punctuation, no a/an/the/and, single spaces."""
    text = text.replace(",", "").lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def token_f1(prediction: str, gold: str) -> float:
    """F1 of the two bags of stemmed tokens; 0.0 when they share none."""
    predicted, wanted = (_stemmer.stemWords(normalise_answer(text).split()) for text in (prediction, gold))
    common = (Counter(predicted) & Counter(wanted)).total()
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def multi_answer_f1(prediction: str, gold: str) -> float:
    """F1 for lists: both are split at commas; the mean over gold parts of the best F1 among the predicted parts."""
    predicted = [part.strip() for part in prediction.split(",")]
    best = [max(token_f1(part, wanted.strip()) for part in predicted) for wanted in gold.split(",")]
    return sum(best) / len(best)


def exact_match(prediction: str, gold: str) -> float:
    """1.0 if the normalised answers have the same SET of tokens, as LoCoMo's script has it, else 0.0."""
    return float(set(normalise_answer(prediction).split()) == set(normalise_answer(gold).split()))


def refuses(prediction: str) -> bool:
    """Whether an answer says that the conversation does not hold it, in one of the two forms that LoCoMo accepts."""
    lowered = prediction.lower()
    return "no information available" in lowered or "not mentioned" in lowered


def locomo_f1(prediction: str, gold: str, category: int) -> float:
    """LoCoMo's score of one answer, 0 to 1, by its category's number.

    1 (multi-hop): `multi_answer_f1`. 2 (temporal) and 4 (single-hop): `token_f1`. 3 (open-domain): `token_f1` with the
    gold answer's part before ";". 5 (adversarial): 1.0 if the prediction refuses; the gold answer does not matter.
    """
    if category == 5:
        return float(refuses(prediction))
    if category == 1:
        return multi_answer_f1(prediction, gold)
    return token_f1(prediction, gold.split(";")[0].strip() if category == 3 else gold)
