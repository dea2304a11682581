"""Fitting the ranking weights: `python -m recollect.benchmarks.fit --data PATH_TO_LOCOMO` writes `store/data/fusion.json`.

For each question with evidence (adversarial ones left out) the first stage is run as the store runs it: 200 turns by BM25
in FTS5, 200 by cosine, and two turns on each side. The signals of `recollect.store.fusion` are standardised over these
candidates and their weights fitted listwise: the loss is the cross entropy between the softmax of the scores and the
uniform distribution over the evidence that was found, every question weighing the same, with a small L2 penalty.

Each figure that is printed is held out: a conversation's questions are ranked by weights fitted on the others. The tables
go to `results/fusion.json`: the steps from one signal to all, the categories, and each signal alone and removed.

Needs scipy (extra `scale`) and, for the set with token vectors, the built-in embedder (extra `local`).
Shapes: N candidates of a question, S signals.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from recollect.benchmarks.locomo import ADVERSARIAL, CATEGORIES, Sample, load
from recollect.benchmarks.provenance import provenance, sha256
from recollect.store import late, lexical
from recollect.store.embedders import Embedder, make_embedder
from recollect.store.fusion import (
    Candidates,
    Query,
    second_signals,
    signals,
    standardise,
    without_names,
)
from recollect.store.importers.locomo import turn_text
from recollect.store.timeline import query_window

FIRST_STAGE = 200  # turns from each of BM25 and cosine, as in the store
NEIGHBOURS = 2
PENALTY = 0.003  # L2, on weights of standardised signals
KS = (5, 10)
EITHER_WAY = {"asks", "length", "hardly a word", "the rest of the session"}  # other signals never count against a turn


@dataclass(slots=True)
class Task:
    """A question with its candidates."""

    conversation: str
    category: int
    query: Query
    candidates: Candidates
    relevant: np.ndarray  # float64 (N,), 1 for evidence
    num_evidence: int  # also counts what the first stage missed


@dataclass(slots=True)
class Example:
    """A question as numbers."""

    conversation: str
    category: int
    values: dict[str, np.ndarray]  # standardised signals of the first pass, float64 (N,) each
    asks: np.ndarray
    candidates: Candidates
    relevant: np.ndarray
    num_evidence: int


Weights = dict[str, float]


def tasks(sample: Sample, embedder: Embedder) -> list[Task]:
    """The questions of a conversation, each with the candidates that the store's first stage would give."""
    turns = sample.conversation.turns
    texts = [turn_text(turn.text, turn.caption) for turn in turns]
    place = {turn.id: row for row, turn in enumerate(turns)}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(turn.session for turn in turns))}
    session = np.array([numbers[turn.session] for turn in turns])
    position = np.array([sum(session[:row] == session[row]) for row in range(len(turns))])
    speakers = sorted({turn.speaker for turn in turns})
    embedded = embedder.embed(texts)
    blobs = [late.compress(tokens) for tokens in embedded.tokens] if embedded.tokens else [None] * len(texts)
    terms = [lexical.term_ids(text) for text in texts]
    frequency = Counter(int(term) for ids in terms for term in set(ids.tolist()))
    mean_terms = float(np.mean([len(ids) for ids in terms]))
    at = np.array([turn.at.timestamp() for turn in turns])
    index = sqlite3.connect(":memory:")
    index.execute("CREATE VIRTUAL TABLE turns USING fts5(text, tokenize='porter unicode61')")
    index.executemany("INSERT INTO turns(rowid, text) VALUES (?, ?)", enumerate(texts))
    made = []
    for question in sample.questions:
        if question.category == ADVERSARIAL or not question.evidence:
            continue
        bare, _ = without_names(question.text, speakers)
        asked = embedder.embed([bare], "query")
        query = Query(
            text=question.text,
            at=sample.asked_at.timestamp(),
            vector=asked.vectors[0],
            tokens=asked.tokens[0] if asked.tokens else None,
            token_ids=asked.token_ids[0] if asked.token_ids else None,
            document_frequency=frequency,
            num_documents=len(texts),
            mean_terms=mean_terms,
            speakers=speakers,
            window=_window(question.text, sample.asked_at),
        )
        dense = embedded.vectors @ query.vector
        first = set(np.argsort(-dense, kind="stable")[:FIRST_STAGE].tolist())
        if match := lexical.fts_query(bare):
            found = index.execute(
                "SELECT rowid FROM turns WHERE turns MATCH ? ORDER BY bm25(turns) LIMIT ?", (match, FIRST_STAGE)
            )
            first |= {row[0] for row in found}
        beside = {
            row + step
            for row in first
            for step in range(-NEIGHBOURS, NEIGHBOURS + 1)
            if 0 <= row + step < len(texts) and session[row + step] == session[row]
        }
        rows = np.array(sorted(first | beside))
        evidence = {place[turn] for turn in question.evidence}
        candidates = Candidates(
            seq=rows,
            session=session[rows],
            position=position[rows],
            at=at[rows],
            speaker=[turns[row].speaker for row in rows],
            text=[texts[row] for row in rows],
            dense=dense[rows],
            vectors=embedded.vectors[rows],
            first_stage=np.isin(rows, list(first)),
            tokens=[blobs[row] for row in rows],
            terms=[terms[row] for row in rows],
        )
        relevant = np.isin(rows, list(evidence)).astype(np.float64)
        made.append(Task(sample.conversation.id, question.category, query, candidates, relevant, len(evidence)))
    index.close()
    return made


def _window(text: str, asked_at: datetime) -> tuple[float, float] | None:
    """The time that a question speaks of in seconds since 1970; None without one or when it is named by an event."""
    window = query_window(text, asked_at)
    if window.anchor or (window.start is None and window.end is None):
        return None
    return (
        window.start.timestamp() if window.start else -np.inf,
        window.end.timestamp() if window.end else np.inf,
    )


def example(task: Task) -> Example:
    """A task's first-pass signals, standardised."""
    raw = signals(task.query, task.candidates)
    values = {name: standardise(column) for name, column in raw.items()}
    return Example(
        task.conversation,
        task.category,
        values,
        raw["asks"],
        task.candidates,
        task.relevant,
        task.num_evidence,
    )


def score(values: Mapping[str, np.ndarray], weights: Weights) -> np.ndarray:
    """The weighted sum, float64 (N,)."""
    total = np.zeros(len(next(iter(values.values()))))
    for name, weight in weights.items():
        total += weight * values[name]
    return total


def fit(columns: Sequence[Mapping[str, np.ndarray]], relevant: Sequence[np.ndarray], names: Sequence[str]) -> Weights:
    """Weights of `names` that minimise the listwise loss over questions; those without found evidence are left out."""
    kept = [number for number, column in enumerate(relevant) if column.any()]
    x = np.concatenate([np.stack([columns[number][name] for name in names], 1) for number in kept]).astype(np.float32)
    target = np.concatenate([relevant[number] / relevant[number].sum() for number in kept])
    sizes = np.array([len(relevant[number]) for number in kept])
    starts = np.r_[0, np.cumsum(sizes)[:-1]]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = (x @ weights.astype(np.float32)).astype(np.float64)
        scores -= np.repeat(np.maximum.reduceat(scores, starts), sizes)
        odds = np.exp(scores)
        sums = np.add.reduceat(odds, starts)
        value = (np.log(sums).sum() - target @ scores) / len(kept)
        slope = x.T @ (odds / np.repeat(sums, sizes) - target).astype(np.float32) / len(kept)
        return value + PENALTY * weights @ weights, slope.astype(np.float64) + 2 * PENALTY * weights

    bounds = [(None, None) if name in EITHER_WAY else (0, None) for name in names]
    found = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B", bounds=bounds)
    return dict(zip(names, found.x.tolist(), strict=True))


def fit_passes(
    examples: Sequence[Example], names: Sequence[str], second: Sequence[str] | None = None
) -> tuple[Weights, Weights]:
    """Weights of the first pass over `names`, and of the second over `names` and `second` (None: all of them)."""
    relevant = [one.relevant for one in examples]
    first = fit([one.values for one in examples], relevant, names)
    columns = [{**one.values, **_second(one, first)} for one in examples]
    added = [name for name in columns[0] if name not in examples[0].values and (second is None or name in second)]
    return first, fit(columns, relevant, [*names, *added])


def _second(one: Example, first: Weights) -> dict[str, np.ndarray]:
    raw = second_signals(score(one.values, first), one.asks, one.candidates)
    return {name: standardise(column) for name, column in raw.items()}


def rank(one: Example, first: Weights, second: Weights) -> np.ndarray:
    """Scores of both passes, float64 (N,)."""
    return score({**one.values, **_second(one, first)}, second)


def recall(scores: np.ndarray, one: Example, ks: Iterable[int] = KS) -> list[float]:
    """The fraction of the evidence among the k best, for each k."""
    order = np.argsort(-scores, kind="stable")
    return [float(one.relevant[order[:k]].sum()) / one.num_evidence for k in ks]


def held_out(
    examples: Sequence[Example], names: Sequence[str], second: Sequence[str] | None = None
) -> tuple[np.ndarray, dict[str, tuple[Weights, Weights]]]:
    """(recall (questions, len(KS)) of each question by weights fitted on the other conversations, those weights)."""
    table = np.zeros((len(examples), len(KS)))
    fitted = {}
    for name in dict.fromkeys(one.conversation for one in examples):
        fitted[name] = fit_passes([one for one in examples if one.conversation != name], names, second)
        for number, one in enumerate(examples):
            if one.conversation == name:
                table[number] = recall(rank(one, *fitted[name]), one)
    return table, fitted
