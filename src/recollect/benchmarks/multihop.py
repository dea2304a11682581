"""Multi-hop retrieval: questions whose answer lies in two to four passages of a corpus, in the files of HippoRAG's form.

Each passage ("title, newline, text") goes into a memory as an episode of its own session; each question is asked, and the
passages that come back are scored against those that hold the answer, beside BM25 and plain cosine with the same embedder.
`multihop_sets.py` loads the sets, or makes one.

Papers: the corpora are those of HippoRAG 2, arXiv:2502.14802 (2025); MuSiQue, arXiv:2108.00573 (2022); 2WikiMultihopQA,
arXiv:2011.01060 (2020); HotpotQA, arXiv:1809.09600 (2018). None of their data is part of this package.
Differs: shares of the gold passages are not rounded; intervals are added.
Cost: for 1,890 passages about a minute a method on two cores, mostly the embedder's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import recollect
from recollect.benchmarks.cost import ingest_cost, mean_cost, percentiles_ms
from recollect.benchmarks.metrics import bootstrap_intervals, score_ranking
from recollect.benchmarks.multihop_sets import MultihopSet, Question
from recollect.benchmarks.provenance import provenance
from recollect.benchmarks.retrieval import Floor, nest, retrieved
from recollect.store.hipporag2 import HippoRAG2
from recollect.store.openie import OpenIECache
from recollect.store.views import Filter

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.memory import Memory

KS = (1, 2, 5, 10)
GIVEN = "hipporag2, given triples"
Progress = Callable[[str, int, int], None]  # set and method, questions done, questions in all


def run(
    sets: Sequence[MultihopSet],
    names: Sequence[str] = ("episodic",),
    *,
    openie: OpenIECache | None = None,
    embedder: str | None = None,
    lm: LanguageModel | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask every question of every set, of each method by name, and return the scores as one plain JSON object.

    openie: triples for HippoRAG 2 that were extracted elsewhere; another row of it uses them on the sets whose passages it
    holds. lm: for the methods' own steps. limit: at most so many questions a set.
    """
    start = time.perf_counter()
    results = []
    name_of_embedder = None
    for data in sets:
        questions = data.questions[:limit]
        floor = Floor(list(data.passages), list(data.passages.values()))
        rankings = {"BM25": [floor.rank(question.text, max(KS)) for question in questions]}
        costs: dict[str, dict[str, Any]] = {}
        methods: list[tuple[str, Any]] = [(name, name) for name in names]
        if openie is not None and all(openie.get(text) is not None for text in data.passages.values()):
            methods.append((GIVEN, HippoRAG2(triples=openie)))
        for label, method in methods:
            with (
                tempfile.TemporaryDirectory(prefix="recollect-bench-") as folder,
                recollect.open(Path(folder) / "memory.db", embedder=embedder, method=method, lm=lm) as memory,
            ):
                seconds = fill(memory, data)
                name_of_embedder = memory.engine.embedder.name
                if "cosine" not in rankings:
                    rankings["cosine"] = [nearest(memory, question.text) for question in questions]
                costs[label] = {"ingest": mean_cost([ingest_cost(memory, seconds)])}
                rankings[label], latencies = ask(memory, questions, f"{data.name}, {label}", progress)
                costs[label]["recall_ms"] = percentiles_ms(latencies)
        results.append(
            {
                "name": data.name,
                "num_passages": len(data.passages),
                "num_questions": len(questions),
                "unmatched_passages": data.num_unmatched,
                "questions_left_out": data.num_left_out,
                "data_sha256": list(data.hashes),
                "baselines": {label: _scores(rankings[label], questions) for label in ("BM25", "cosine")},
                "methods": {
                    label: _scores(rankings[label], questions, rankings["cosine"]) | costs[label]
                    for label, _ in methods
                },
            }
        )
    return {
        "benchmark": "multihop",
        "sets": results,
        "embedder": name_of_embedder,
        "lm": lm.name if lm is not None else None,
        **provenance(),
        "seconds": round(time.perf_counter() - start, 3),
    }


def fill(memory: Memory, data: MultihopSet) -> float:
    """Put the passages into a memory; the seconds that it took."""
    began = time.perf_counter()
    memory.add_many({"text": text, "session": id_, "source_id": id_} for id_, text in data.passages.items())
    memory.sync()
    return time.perf_counter() - began


def ask(
    memory: Memory, questions: Sequence[Question], label: str, progress: Progress | None
) -> tuple[list[tuple[str, ...]], list[float]]:
    """(the passages of each question, best first; the seconds that each took)."""
    rankings, latencies = [], []
    for number, question in enumerate(questions, 1):
        began = time.perf_counter()
        hits = memory.recall(question.text, k=max(KS))
        latencies.append(time.perf_counter() - began)
        rankings.append(retrieved(memory, hits)[: max(KS)])
        if progress is not None:
            progress(label, number, len(questions))
    return rankings, latencies


def nearest(memory: Memory, text: str) -> tuple[str, ...]:
    """The passages whose nearest part is nearest to a text, best first."""
    engine = memory.engine
    engine.sync_index()
    chunks = engine.db.allowed_chunks(Filter(memory.user))
    ids, _ = engine.index.search(engine.embed_query(text)[0], 4 * max(KS), allowed=chunks)
    owner = dict(
        engine.db.rows_in(
            "SELECT c.id, e.source_id FROM chunks c JOIN episodes e ON e.seq = c.episode WHERE c.id IN ({})",
            ids.tolist(),
        )
    )
    return tuple(dict.fromkeys(owner[id_] for id_ in ids.tolist()))[: max(KS)]


def _scores(
    rankings: Sequence[tuple[str, ...]], questions: Sequence[Question], beside: Sequence[tuple[str, ...]] | None = None
) -> dict[str, Any]:
    """Mean recall with 95% intervals, by hops too, and the gain over other rankings of the same questions."""
    rows = recalls(rankings, questions)
    found: dict[str, Any] = _means(rows)
    found["intervals"] = nest(_named(map(list, bootstrap_intervals(rows))))
    hops = np.array([question.num_hops or 0 for question in questions])
    if hops.any():
        found["by_hops"] = {
            str(count): {"num_questions": int((hops == count).sum())} | _means(rows[hops == count])
            for count in sorted({*hops.tolist()} - {0})
        }
    if beside is not None:
        gains = rows - recalls(beside, questions)
        found["gain_over_cosine"] = nest(_named(gains.mean(axis=0).tolist()))
        found["gain_intervals"] = nest(_named(map(list, bootstrap_intervals(gains))))
    return found


_COLUMNS = [f"{measure}@{k}" for measure in ("recall", "recall_all") for k in KS]


def recalls(rankings: Sequence[tuple[str, ...]], questions: Sequence[Question]) -> np.ndarray:
    """A row for each question, float64 (Q, len(_COLUMNS))."""
    scored = [score_ranking(ranked, question.gold, KS) for ranked, question in zip(rankings, questions, strict=True)]
    return np.array([[row[name] for name in _COLUMNS] for row in scored]).reshape(-1, len(_COLUMNS))


def _means(rows: np.ndarray) -> dict[str, Any]:
    return nest(_named(rows.mean(axis=0).tolist()))


def _named(values: Any) -> dict[str, Any]:
    return dict(zip(_COLUMNS, values, strict=True))


def show(result: Mapping[str, Any], out: Console) -> None:
    """A table for each set."""
    for data in result["sets"]:
        title = f"{data['name']}: {data['num_passages']:,} passages, {data['num_questions']} questions"
        hops = sorted({count for row in data["methods"].values() for count in row.get("by_hops", {})})
        found = _table(title, *[f"@{k}" for k in KS], "95%", *[f"{count}h@5" for count in hops])
        took = _table("", "ms", "kB", "notes", "tokens", "recall ms")
        for label, row in {**data["baselines"], **data["methods"]}.items():
            low, high = row["intervals"]["recall"]["5"]
            cells = [f"{100 * row['recall'][str(k)]:.1f}" for k in KS] + [f"{100 * low:.0f}-{100 * high:.0f}"]
            found.add_row(label, *cells, *[f"{100 * row['by_hops'][count]['recall']['5']:.1f}" for count in hops])
            if "ingest" in row:
                cost = row["ingest"]
                took.add_row(
                    label,
                    f"{cost['seconds_per_episode'] * 1000:.0f}",
                    f"{cost['bytes_per_episode'] / 1000:.1f}",
                    f"{cost['notes_per_episode']:.1f}",
                    f"{cost['tokens_per_episode']:.0f}",
                    f"{row['recall_ms']['p50']:.0f} ({row['recall_ms']['p95']:.0f})",
                )
        out.print(found)
        out.print(took)
    out.print(
        "Mean share of the gold passages found, in per cent; a note counts as the passages that it rests on. ms, kB, "
        f"notes and tokens are for each passage at write. Embedder {result['embedder']}. "
        f"{'Steps by ' + result['lm'] if result['lm'] else 'No language model: steps by the built-in analyst'}."
    )


def _table(title: str, *heads: str) -> Table:
    table = Table("", *heads, title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table
