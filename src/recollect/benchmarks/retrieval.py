"""Score rankings of many questions at turn and at session level, with chance level, BM25 floor and intervals.

A benchmark hands in one `Ranking` for each question: what was evidence, what was retrieved (best first), and how many
turns and sessions there were to choose from. A session's rank is that of its best turn. Sums up to plain JSON:

    {"turn": LEVEL, "session": LEVEL, "chance": {"turn": MEASURES, "session": ...}, "bm25": {same},
     "intervals": {same, each number a pair [low, high]}}
    MEASURES = {"recall": {"1": ..}, "recall_any": {..}, "recall_all": {..}, "ndcg": {..}, "hit_at_1": .., "mrr": ..}
    LEVEL = MEASURES + {"num_questions": .., "by_category": {name: MEASURES + {"num_questions": ..}}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.benchmarks.metrics import KS, bootstrap_intervals, chance_levels, score_ranking
from recollect.store.lexical import BM25
from recollect.store.records import EPISODE, Hit

if TYPE_CHECKING:
    from recollect.store.memory import Memory

DEPTH = 50  # how many turns are asked for; sessions beyond those of the first 50 turns count as not retrieved
LEVELS = ("turn", "session")


@dataclass(frozen=True, slots=True)
class Ranking:
    """One question's evidence and results; `gold[level]` may be empty, which leaves the question out of that level."""

    question_id: str
    category: str
    gold: Mapping[str, tuple[str, ...]]  # by level
    ranked: Mapping[str, tuple[str, ...]]  # by level, best first
    floor: Mapping[str, tuple[str, ...]]  # BM25's ranking, by level
    num_units: Mapping[str, int]  # by level
    details: Mapping[str, Any] = field(default_factory=dict)  # for the per-question output


def by_session(turns: Iterable[str], session_of: Mapping[str, str]) -> tuple[str, ...]:
    """The distinct sessions of a ranking of turns, each at the place of its best turn."""
    return tuple(dict.fromkeys(session_of[turn] for turn in turns))


def retrieved(memory: Memory, hits: Iterable[Hit], prefix: str = "") -> tuple[str, ...]:
    """The turn ids behind hits, best first, each once, without the prefix; a note stands for its source episodes."""
    ids: dict[str, None] = {}
    for hit in hits:
        if hit.kind == EPISODE:
            names = [hit.source_id]
        else:
            names = [getattr(memory.get(source), "source_id", None) for source in hit.sources]
        ids.update((name.removeprefix(prefix), None) for name in names if name)
    return tuple(ids)


class Floor:
    """BM25 over turns, the floor that any memory should pass; turns that share no word are not retrieved."""

    def __init__(self, ids: Sequence[str], texts: Sequence[str]):
        self.ids = list(ids)
        self.index = BM25(list(texts))

    def rank(self, question: str, depth: int = DEPTH) -> tuple[str, ...]:
        """The ids of the best `depth` turns, best first; equal scores in the order of the conversation."""
        scores = np.asarray(self.index.scores(question))
        order = np.argsort(-scores, kind="stable")[:depth]
        return tuple(self.ids[position] for position in order if scores[position] > 0)


def summarise(
    rankings: Sequence[Ranking], categories: Sequence[str], ks: Sequence[int] = KS, official_ndcg: bool = False
) -> dict[str, Any]:
    """The scores of all questions as plain JSON values (see the top of this file), categories in the given order."""
    result: dict[str, Any] = {"turn": {}, "session": {}, "chance": {}, "bm25": {}, "intervals": {}}
    for level in LEVELS:
        scored = [ranking for ranking in rankings if ranking.gold[level]]
        ours, intervals = _means(scored, lambda r, lv=level: scores_of(r, lv, ks, official_ndcg))
        by_category = {}
        for name in categories:
            part = [ranking for ranking in scored if ranking.category == name]
            if part:
                means, _ = _means(part, lambda r, lv=level: scores_of(r, lv, ks, official_ndcg))
                by_category[name] = {"num_questions": len(part)} | means
        result[level] = {"num_questions": len(scored)} | ours | {"by_category": by_category}
        result["intervals"][level] = intervals
        result["bm25"][level], _ = _means(
            scored, lambda r, lv=level: score_ranking(r.floor[lv], r.gold[lv], ks, official_ndcg)
        )
        result["chance"][level], _ = _means(
            scored, lambda r, lv=level: chance_levels(r.num_units[lv], len(r.gold[lv]), tuple(ks))
        )
    return result


def scores_of(ranking: Ranking, level: str, ks: Sequence[int] = KS, official_ndcg: bool = False) -> dict[str, float]:
    """Every measure of one question at one level."""
    return score_ranking(ranking.ranked[level], ranking.gold[level], ks, official_ndcg)


def per_question(ranking: Ranking, ks: Sequence[int] = KS, official_ndcg: bool = False) -> dict[str, Any]:
    """One line of the per-question output: ids of evidence and results, and every measure."""
    line: dict[str, Any] = {"question_id": ranking.question_id, "category": ranking.category, **ranking.details}
    for level in LEVELS:
        if ranking.gold[level]:
            line[level] = {
                "gold": list(ranking.gold[level]),
                "ranked": list(ranking.ranked[level]),
                "scores": nest(scores_of(ranking, level, ks, official_ndcg)),
            }
    return line


def nest(scores: Mapping[str, Any]) -> dict[str, Any]:
    """{"recall@5": x, "mrr": y} as {"recall": {"5": x}, "mrr": y}."""
    nested: dict[str, Any] = {}
    for name, value in scores.items():
        measure, _, k = name.partition("@")
        if k:
            nested.setdefault(measure, {})[k] = value
        else:
            nested[measure] = value
    return nested


def _means(
    rankings: Sequence[Ranking], score: Callable[[Ranking], Mapping[str, float]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Means over questions, and their 95% intervals, both nested by measure and k; empty without questions."""
    if not rankings:
        return {}, {}
    rows = [score(ranking) for ranking in rankings]
    names = list(rows[0])
    values = np.array([[row[name] for name in names] for row in rows])  # (Q, M)
    means = dict(zip(names, values.mean(axis=0).tolist(), strict=True))
    intervals = dict(zip(names, map(list, bootstrap_intervals(values)), strict=True))
    return nest(means), nest(intervals)
