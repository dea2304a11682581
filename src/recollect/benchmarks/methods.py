"""All methods of the store side by side on one benchmark: what each finds, and what it costs to write and to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import recollect
from recollect.benchmarks.locomo import LoCoMo, open_held_out
from recollect.benchmarks.provenance import provenance
from recollect.errors import InvalidInput
from recollect.store.method import DEFAULT_METHOD, method_targets

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.memory import Memory

KS = ("5", "10")
_KEPT = ("num_questions", "turn", "session", "intervals", "ingest", "recall_ms", "seconds")


def names_of(wanted: str | None) -> list[str]:
    """The methods that "all", a name, or names joined by commas stand for. Raises InvalidInput for an unknown one."""
    known = method_targets()
    if wanted == "all":
        return sorted(known, key=lambda name: (name != DEFAULT_METHOD, name))
    names = [name.strip() for name in (wanted or DEFAULT_METHOD).split(",")]
    for name in names:
        if name not in known:
            raise InvalidInput(f"method: {name!r:.60} is not known; choose all, or of: {', '.join(sorted(known))}.")
    return names


def opener(name: str, embedder: str | None, lm: LanguageModel | None) -> Callable[[Path, str], Memory]:
    """How LoCoMo opens a memory with a method; the default one with weights fitted without the conversation."""
    if name == DEFAULT_METHOD:
        return lambda path, conversation: open_held_out(path, conversation, embedder)
    return lambda path, conversation: recollect.open(path, embedder=embedder, method=name, lm=lm)


def compare(
    path: Path,
    names: Sequence[str],
    *,
    embedder: str | None = None,
    lm: LanguageModel | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Every method on LoCoMo, as one plain JSON object. `lm` does the methods' own steps; answers are not asked for."""
    rows: dict[str, Any] = {}
    last: Mapping[str, Any] = {}
    for name in names:
        last = LoCoMo(path).run(
            embedder=embedder,
            open_memory=opener(name, embedder, lm),
            progress=(lambda _, done, total, name=name: progress(name, done, total)) if progress else None,
        )
        rows[name] = {key: last[key] for key in _KEPT}
    return {
        "benchmark": "locomo-methods",
        "lm": lm.name if lm is not None else None,
        "methods": rows,
        "bm25": last["bm25"],
        "chance": last["chance"],
        "embedder": last["embedder"],
        "conversations": [part["id"] for part in last["conversations"]],
        "data_sha256": last["data_sha256"],
        **provenance(),
    }


def show(result: Mapping[str, Any], out: Console) -> None:
    """The table for a person."""
    heads = ["method", *[f"@{k}" for k in KS], "ses@5", "hit@1", "ms", "kB", "notes", "tokens", "recall ms"]
    table = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for name, row in result["methods"].items():
        cost = row["ingest"]
        table.add_row(
            name,
            *[f"{row['turn']['recall'][k]:.3f}" for k in KS],
            f"{row['session']['recall']['5']:.3f}",
            f"{row['turn']['hit_at_1']:.3f}",
            f"{cost['seconds_per_episode'] * 1000:.0f}",
            f"{cost['bytes_per_episode'] / 1000:.1f}",
            f"{cost['notes_per_episode']:.2f}",
            f"{cost['tokens_per_episode']:.0f}",
            f"{row['recall_ms']['p50']:.0f} ({row['recall_ms']['p95']:.0f})",
        )
    for label, scores in (("BM25", result["bm25"]), ("chance", result["chance"])):
        table.add_row(
            f"[dim]{label}[/]",
            *[f"{scores['turn']['recall'][k]:.3f}" for k in KS],
            f"{scores['session']['recall']['5']:.3f}",
            f"{scores['turn']['hit_at_1']:.3f}",
        )
    out.print(table)
    out.print(
        "Mean share of the evidence found, by turn and by session; a note counts as the turns that it rests on. ms, kB, notes "
        "and tokens are for each episode at write. "
        f"{'Steps by ' + result['lm'] if result['lm'] else 'No language model: steps by the built-in analyst'}."
    )
