"""Fitting the ranking weights: `python -m recollect.benchmarks.fit --data PATH_TO_LOCOMO` writes `store/data/fusion.json`.

For each question with evidence (adversarial ones left out) the first stage is run as the store runs it: 200 turns by BM25
in FTS5 and 200 by cosine (and as many of the time that the question speaks of), the best 100 of their reciprocal-rank
fusion, and two turns on each side of these. The signals of `recollect.store.fusion` are standardised over these
candidates and their weights fitted listwise: the loss is the cross entropy between the softmax of the scores and the
uniform distribution over the evidence that was found, every question weighing the same, with a small L2 penalty.

Each figure that is printed is held out: a conversation's questions are ranked by weights fitted on the others. The tables
go to `results/fusion.json`: recall of all signals together, by category and conversation, and each signal alone and removed.

With `--text` the projection of `recollect.store.late` is fitted first: the 192 directions in which the token vectors of
paragraphs vary most, mixed by a random rotation. What ships was made from 1,200 paragraphs of novels in the public
domain; refitting it makes stored token vectors unreadable, so it comes with a new version of their format.

Needs scipy (extra `scale`) and, for the set with token vectors, the built-in embedder (extra `local`).
Shapes: N candidates of a question, S signals.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from recollect.benchmarks.locomo import ADVERSARIAL, CATEGORIES, Sample, load
from recollect.benchmarks.provenance import provenance, sha256
from recollect.store import late, lexical, shape
from recollect.store.embedders import Embedder, make_embedder
from recollect.store.first_stage import FIRST_STAGE, NEIGHBOURS, RANK_OFFSET, RERANKED
from recollect.store.fusion import Candidates, Query, signals, standardise, without_names
from recollect.store.importers.locomo import turn_text
from recollect.store.windows import query_window

PENALTY = 0.003  # L2, on weights of standardised signals
KS = (5, 10)


@dataclass(slots=True)
class Task:
    """A question with its candidates."""

    conversation: str
    category: int
    query: Query
    candidates: Candidates
    texts: list[str]  # of the candidates
    relevant: np.ndarray  # float64 (N,), 1 for evidence
    num_evidence: int  # also counts what the first stage missed


@dataclass(slots=True)
class Example:
    """A question as numbers."""

    conversation: str
    category: int
    values: dict[str, np.ndarray]  # standardised signals, float64 (N,) each
    relevant: np.ndarray  # float64 (N,)
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
    shapes = np.array([shape.flags(text) for text in texts], np.uint8)
    frequency = Counter(int(term) for ids in terms for term in set(ids.tolist()))
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
            speakers=speakers,
            window=_window(question.text, sample.asked_at),
        )
        dense = embedded.vectors @ query.vector
        by_cosine = np.argsort(-dense, kind="stable")
        rankings = [by_cosine[:FIRST_STAGE].tolist()]
        if match := lexical.fts_query(bare):
            found = index.execute(
                "SELECT rowid FROM turns WHERE turns MATCH ? ORDER BY bm25(turns) LIMIT ?", (match, FIRST_STAGE)
            )
            rankings.insert(0, [row[0] for row in found])
        if query.window is not None:
            inside = (at >= query.window[0]) & (at < query.window[1])
            rankings.append(by_cosine[inside[by_cosine]][:FIRST_STAGE].tolist())
        first = set(fused(rankings)[:RERANKED])
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
            shape=shapes[rows],
            dense=dense[rows],
            vectors=embedded.vectors[rows],
            first_stage=np.isin(rows, list(first)),
            tokens=[blobs[row] for row in rows],
            terms=[terms[row].tobytes() for row in rows],
        )
        relevant = np.isin(rows, list(evidence)).astype(np.float64)
        passages = [texts[row] for row in rows]
        made.append(
            Task(sample.conversation.id, question.category, query, candidates, passages, relevant, len(evidence))
        )
    index.close()
    return made


def fused(rankings: Iterable[Sequence[int]]) -> list[int]:
    """Rows by reciprocal-rank fusion, best first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for place, row in enumerate(ranking):
            scores[row] = scores.get(row, 0.0) + 1 / (RANK_OFFSET + place)
    return sorted(scores, key=lambda row: (-scores[row], row))


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
    """A task's signals, standardised."""
    values = {name: standardise(name, column) for name, column in signals(task.query, task.candidates).items()}
    return Example(task.conversation, task.category, values, task.relevant, task.num_evidence)


class Problem:
    """Questions as one matrix, to fit weights on; those whose evidence the first stage missed are left out."""

    def __init__(self, examples: Sequence[Example], names: Sequence[str]) -> None:
        kept = [one for one in examples if one.relevant.any()]
        self.names = list(names)
        self.x = np.concatenate([np.stack([one.values[name] for name in names], 1) for one in kept]).astype(np.float32)
        self.target = np.concatenate([one.relevant / one.relevant.sum() for one in kept]) / len(kept)
        self.sizes = np.array([len(one.relevant) for one in kept])
        self.starts = np.r_[0, np.cumsum(self.sizes)[:-1]]

    def fit(self, without: str | None = None, start: Weights | None = None) -> Weights:
        """Weights that minimise the listwise loss; `without` holds one signal at 0, `start` is where to begin."""
        free = np.array([name != without for name in self.names], np.float64)
        begin = np.array([(start or {}).get(name, 0.0) for name in self.names]) * free

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            scores = (self.x @ weights.astype(np.float32)).astype(np.float64)
            scores -= np.repeat(np.maximum.reduceat(scores, self.starts), self.sizes)
            odds = np.exp(scores)
            sums = np.add.reduceat(odds, self.starts)
            value = np.log(sums).mean() - self.target @ scores
            slope = self.x.T @ (odds / np.repeat(sums * len(sums), self.sizes) - self.target).astype(np.float32)
            return value + PENALTY * weights @ weights, (slope + 2 * PENALTY * weights) * free

        found = minimize(loss, begin, jac=True, method="L-BFGS-B")
        return {name: float(weight) for name, weight in zip(self.names, found.x, strict=True) if name != without}

    def direction(self, name: str) -> float:
        """1 if evidence is above the mean of this signal, else -1."""
        return 1.0 if self.x[:, self.names.index(name)] @ self.target > 0 else -1.0


def score(values: Mapping[str, np.ndarray], weights: Weights) -> np.ndarray:
    """The weighted sum of a question's signals, float64 (N,)."""
    return sum((weight * values[name] for name, weight in weights.items()), np.zeros(1))


def recall(scores: np.ndarray, one: Example, ks: Iterable[int] = KS) -> list[float]:
    """The fraction of the evidence among the k best, for each k."""
    order = np.argsort(-scores, kind="stable")
    return [float(one.relevant[order[:k]].sum()) / one.num_evidence for k in ks]


def table(examples: Sequence[Example], weights: Mapping[str, Weights]) -> np.ndarray:
    """Recall of each question, float64 (questions, len(KS)), by the weights fitted without its conversation."""
    return np.array([recall(score(one.values, weights[one.conversation]), one) for one in examples])


def study(examples: Sequence[Example], say: Callable[[str], None]) -> tuple[dict[str, Weights], dict[str, Any]]:
    """(weights by the conversation left out, and "all"; the held-out tables as JSON values).

    The tables: `recall` and `by_category` and `by_conversation` of all signals; `signals`, for each signal its weight,
    the recall of it alone (the turns sorted by it, upwards or downwards as evidence has it) and of all others without it.
    """
    names = list(examples[0].values)
    conversations = list(dict.fromkeys(one.conversation for one in examples))
    problems = {left: Problem([one for one in examples if one.conversation != left], names) for left in conversations}
    fitted = {left: problem.fit() for left, problem in problems.items()}
    found = table(examples, fitted)
    category = np.array([one.category for one in examples])
    spoken = np.array([one.conversation for one in examples])
    every = Problem(examples, names).fit()
    result: dict[str, Any] = {
        "num_questions": len(examples),
        "recall": _means(found),
        "by_category": {
            name: _means(found[category == number]) for number, name in CATEGORIES.items() if number in category
        },
        "by_conversation": {left: _means(found[spoken == left]) for left in conversations},
        "signals": {},
    }
    say(f"all signals: {_row(found)}")
    for name, row in result["by_category"].items():
        say(f"  {name:12s} {row}")
    for name in names:
        alone = table(examples, {left: {name: problem.direction(name)} for left, problem in problems.items()})
        removed = table(
            examples, {left: problem.fit(without=name, start=fitted[left]) for left, problem in problems.items()}
        )
        result["signals"][name] = {"weight": round(every[name], 4), "alone": _means(alone), "removed": _means(removed)}
        say(f"  {name:34s} weight {every[name]:+.2f}   alone {_row(alone)}   without it {_row(removed)}")
    return {**fitted, "all": every}, result


def fit_projection(texts: Sequence[str], embedder: Embedder, dim: int = 192) -> np.ndarray:
    """The main directions of the texts' token vectors, rotated at random: float16 (384, dim), orthonormal columns."""
    tokens = np.concatenate(embedder.embed(texts).tokens or [])
    directions = np.linalg.eigh(tokens.T @ tokens)[1][:, ::-1][:, :dim]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    return (directions @ rotation).astype(np.float16)


def paragraphs(path: Path, count: int = 300, seed: int = 0) -> list[str]:
    """Up to `count` paragraphs of 30 to 400 characters from each record's `text` in a .jsonl or .jsonl.xz file."""
    draw = random.Random(seed)
    chosen: list[str] = []
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", json.loads(line)["text"])]
            parts = [part for part in parts if 30 < len(part) < 400]
            chosen += draw.sample(parts, min(count, len(parts)))
    return chosen


def floors(made: Sequence[Task], examples: Sequence[Example]) -> dict[str, Any]:
    """What simple rankings of the same candidates give: cosine, BM25, and their reciprocal-rank fusion."""
    rows: dict[str, list[list[float]]] = {"cosine": [], "bm25": [], "reciprocal-rank fusion": []}
    for task, one in zip(made, examples, strict=True):
        bare, _ = without_names(task.query.text, task.query.speakers)
        raw = {"cosine": one.values["meaning"], "bm25": lexical.BM25(task.texts).scores(bare)}
        ranks = {name: np.argsort(np.argsort(-values, kind="stable")) for name, values in raw.items()}
        raw["reciprocal-rank fusion"] = sum((1 / (60 + rank) for rank in ranks.values()), np.zeros(len(task.relevant)))
        for name, values in raw.items():
            rows[name].append(recall(values, one))
    return {name: _means(np.array(row)) for name, row in rows.items()}


def _means(found: np.ndarray) -> dict[str, float]:
    return {str(k): round(float(mean), 4) for k, mean in zip(KS, found.mean(axis=0), strict=True)}


def _row(found: np.ndarray) -> str:
    return ", ".join(f"{mean:.4f} at {k}" for k, mean in zip(KS, found.mean(axis=0), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, print the tables, and write the weights and the results."""
    package = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="LoCoMo: a file or a folder of conversations")
    parser.add_argument(
        "--weights", type=Path, default=package / "store" / "data" / "fusion.json", help="file to write"
    )
    parser.add_argument(
        "--results", type=Path, default=package.parents[1] / "results" / "fusion.json", help="file to write"
    )
    parser.add_argument(
        "--text", type=Path, help="fit the projection of token vectors to this .jsonl or .jsonl.xz first"
    )
    given = parser.parse_args(arguments)
    if given.text is not None:
        np.save(late.PROJECTION, fit_projection(paragraphs(given.text), make_embedder("minilm")))
        late.projection.cache_clear()
    start = time.perf_counter()
    loaded = load(given.data)
    weights: dict[str, dict[str, Weights]] = {}
    results: dict[str, Any] = {"benchmark": "fusion", "measure": "mean fraction of the evidence found, held out"}
    for kind, spec in (("with_tokens", "minilm"), ("without_tokens", "hashing")):
        embedder = make_embedder(spec)
        made = [task for sample in loaded for task in tasks(sample, embedder)]
        examples = [example(task) for task in made]
        print(f"{kind} ({embedder.name}), {len(made)} questions")
        fitted, results[kind] = study(examples, print)
        results[kind] |= {"embedder": embedder.name, "floors": floors(made, examples)}
        for name, row in results[kind]["floors"].items():
            print(f"  {name:34s} {row}")
        for name, chosen in fitted.items():
            weights.setdefault(name, {})[kind] = {signal: round(weight, 4) for signal, weight in chosen.items()}
    results |= {
        "data_sha256": sha256(given.data),
        "penalty": PENALTY,
        "seconds": round(time.perf_counter() - start, 1),
        **provenance(),
    }
    names = [name for name in weights if name != "all"]
    _write(given.weights, {"fitted_on": names, "weights": weights})
    _write(given.results, results)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
