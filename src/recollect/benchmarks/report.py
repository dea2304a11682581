"""Show a benchmark's result as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from recollect.benchmarks.retrieval import LEVELS

_MEASURES = {
    "recall": "recall",
    "recall_any": "recall any",
    "recall_all": "recall all",
    "ndcg": "NDCG",
    "ndcg_longmemeval": "NDCG (LME)",
}
_LEGEND = (
    "recall: mean share of the evidence found; any, all: share of questions with any, all of it found. NDCG: ideal from "
    "all evidence; (LME): with LongMemEval's discount. BM25: the floor. chance: random order."
)
_SHOWN_KS = ("1", "5", "10", "25", "50")


def show(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a result of `locomo.run` or `longmemeval.run` as tables."""
    console = console or Console()
    for level in LEVELS:
        if result[level]["num_questions"]:
            console.print(_level_table(result, level))
            console.print(_category_table(result, level))
    if "user_only" in result and result["user_only"]["num_questions"]:
        for level in LEVELS:
            console.print(_level_table(result["user_only"], level, "the user's turns only, as the authors score"))
    for key in ("reader", "judged"):
        if key in result:
            console.print(_answers_table(result[key]))
    console.print(_LEGEND)
    left_out = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in result["left_out"].items())
    console.print(f"Left out: {left_out}. Intervals: 95%, bootstrap over questions.")
    if any(not entry["held_out"] for entry in result.get("conversations", ())):
        console.print("[red]Some conversations were asked with weights that were fitted on them.[/red]")
    console.print(f"Embedder {result['embedder']}, {result['seconds']:.0f} s, commit {result['commit'] or 'unknown'}.")


def _level_table(result: Mapping[str, Any], level: str, note: str = "") -> Table:
    scores, floor, chance = result[level], result["bm25"][level], result["chance"][level]
    intervals = result["intervals"][level]
    title = f"By {level}, {scores['num_questions']} questions" + (f" ({note})" if note else "")
    ks = [k for k in _SHOWN_KS if k in scores["recall"]]
    table = _table(title, "", "", *[f"@{k}" for k in ks])
    for measure, label in _MEASURES.items():
        if measure not in scores:
            continue
        table.add_row(label, "recollect", *[f"[bold]{_short(scores[measure][k])}[/bold]" for k in ks])
        table.add_row("", "95%", *[_interval(intervals[measure][k]) for k in ks])
        table.add_row("", "BM25", *[_short(floor[measure][k]) for k in ks], end_section=measure not in chance)
        if measure in chance:
            table.add_row("", "chance", *[_short(chance[measure][k]) for k in ks], end_section=True)
    lines = [
        f"{label} {_short(scores[measure])} ({_interval(intervals[measure])}), BM25 {_short(floor[measure])}, "
        f"chance {_short(chance[measure])}"
        for measure, label in {"hit_at_1": "hit@1", "mrr": "MRR"}.items()
    ]
    table.caption = "\n".join(lines)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _short(value: float) -> str:
    """Four characters: ".123", or "1.00"."""
    return f"{value:.3f}".removeprefix("0")[:4]


def _interval(pair: list[float]) -> str:
    return f"{_short(pair[0])}-{_short(pair[1])}"


def _category_table(result: Mapping[str, Any], level: str) -> Table:
    cells = [("recall", "5"), ("recall", "10"), ("recall_any", "10"), ("recall_all", "10")]
    heads = [f"{measure.removeprefix('recall_')}@{k}" for measure, k in cells]
    table = _table(f"By {level} and category", "category", "n", *heads, "hit@1", "MRR")
    for name, scores in result[level]["by_category"].items():
        values = [scores[measure][k] for measure, k in cells] + [scores["hit_at_1"], scores["mrr"]]
        table.add_row(name, str(scores["num_questions"]), *map(_short, values))
    return table


def _answers_table(scores: Mapping[str, Any]) -> Table:
    measures = [name for name in ("f1", "exact_match", "accuracy") if name in scores]
    who = scores.get("name") or f"{scores['reader']}, judged by {scores['judge']}"
    table = _table(f"Answers of {who}, from {scores['k']} turns", "category", "n", *measures)
    for name, part in [*scores["by_category"].items(), ("all", scores)]:
        table.add_row(name, str(part["num_questions"]), *[_short(part[measure]) for measure in measures])
    return table
