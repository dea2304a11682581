"""Pages made from committed results: `docs/recall.md`, `docs/speed.md`, `docs/methods.md` and the figures in README.md.

`python -m recollect.benchmarks.page` writes them; a test holds that they are as the results say.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def _load(results: Path, name: str) -> dict[str, Any] | None:
    path = results / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, commit {str(result['commit'])[:12]}"


def render_readme(text: str, results: Path) -> str:
    """README.md with the figures between its two marks written anew."""
    figures = "\n".join([BEGIN, *_readme_figures(results), END])
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: figures, text, flags=re.DOTALL)


def _readme_figures(results: Path) -> list[str]:
    lines: list[str] = []
    if locomo := _load(results, "locomo"):
        turn, floor, chance = locomo["turn"], locomo["bm25"]["turn"], locomo["chance"]["turn"]
        low, high = locomo["intervals"]["turn"]["recall"]["5"]
        lines += [
            f"On {len(locomo['conversations'])} conversations of LoCoMo ({locomo['num_questions']} questions), without a language "
            "model, by turn, each conversation ranked with weights that were fitted without it: mean share of the evidence found.",
            "",
            "| | @1 | @5 | @10 | @25 | hit@1 | MRR |",
            "|---|---|---|---|---|---|---|",
            _row("**recollect**", turn),
            _row("BM25, stemmed", floor),
            _row("chance", chance),
            "",
            f"95% interval at 5: {low:.3f} to {high:.3f}. By category, by session, and what each signal gives: "
            "[recall](docs/recall.md).",
            "",
        ]
    if speed := _load(results, "speed"):
        last = speed["sizes"][-1]
        lines += [
            f"Writing runs at {speed['ingest']['share_of_embedder']:.0%} of the embedder's own rate "
            f"({speed['ingest']['add_many_per_s']:.0f} episodes a second on two cores). A recall takes "
            + ", ".join(f"{row['latency']['recall']['p50_ms']:.0f} ms at {row['memories']:,}" for row in speed["sizes"])
            + f" memories (median); a memory takes {last['bytes_per_memory'] / 1000:.1f} kB on disk, vectors included: "
            "[speed](docs/speed.md).",
        ]
    return lines


def _row(name: str, scores: dict[str, Any]) -> str:
    recall = [f"{scores['recall'][k]:.3f}" for k in ("1", "5", "10", "25")]
    return f"| {name} | " + " | ".join([*recall, f"{scores['hit_at_1']:.3f}", f"{scores['mrr']:.3f}"]) + " |"


def render_recall(results: Path) -> str:
    """The page on recall, from `locomo.json`, `longmemeval.json` and `fusion.json`."""
    lines = ["# Recall", "", "Made by `python -m recollect.benchmarks.page` from `results/`.", ""]
    for name, title in (("locomo", "LoCoMo"), ("longmemeval", "LongMemEval")):
        result = _load(results, name)
        if result is None:
            continue
        made = ", on made histories, not the published data" if result.get("made") else ""
        lines += [f"## {title}{made}", ""]
        left_out = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in result["left_out"].items())
        lines += [
            f"{result['num_questions']} questions; left out: {left_out}. Embedder {result['embedder']}, {result['seconds']:.0f} s on "
            f"{_machine(result)}. Mean share of the evidence (recall), then any and all of it, NDCG with the ideal from all "
            "evidence.",
            "",
        ]
        for level in ("turn", "session"):
            ks = list(result[level]["recall"])
            lines += [
                f"### By {level}",
                "",
                "| | " + " | ".join(f"@{k}" for k in ks) + " |",
                "|---|" + "---|" * len(ks),
            ]
            for label, scores in (
                ("**recall**", result[level]["recall"]),
                ("recall any", result[level]["recall_any"]),
                ("recall all", result[level]["recall_all"]),
                ("NDCG", result[level]["ndcg"]),
                ("BM25 recall", result["bm25"][level]["recall"]),
                ("chance recall", result["chance"][level]["recall"]),
            ):
                lines.append(f"| {label} | " + " | ".join(f"{scores[k]:.3f}" for k in ks) + " |")
            lines += [
                "",
                f"hit@1 {result[level]['hit_at_1']:.3f}, MRR {result[level]['mrr']:.3f}.",
                "",
                "| category | questions | recall@5 | recall@10 | hit@1 |",
                "|---|---|---|---|---|",
            ]
            for category, scores in result[level]["by_category"].items():
                lines.append(
                    f"| {category} | {scores['num_questions']} | {scores['recall']['5']:.3f} | {scores['recall']['10']:.3f} | "
                    f"{scores['hit_at_1']:.3f} |"
                )
            lines.append("")
        if "reader" in result:
            reader = result["reader"]
            cells = [f"{name} {scores['f1']:.3f}" for name, scores in reader.get("by_category", {}).items()]
            lines += [
                f"Answers by the {reader['name']} reader, LoCoMo's F1 {reader['f1']:.3f}: {', '.join(cells)}.",
                "",
            ]
    if fusion := _load(results, "fusion"):
        lines += ["## What each signal gives", "", *_fusion(fusion)]
    return "\n".join(lines).rstrip() + "\n"


def _fusion(fusion: dict[str, Any]) -> list[str]:
    """Every table of the fit: lists of rows with equal keys."""
    lines: list[str] = []

    def tables(value: Any, path: str) -> None:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            names = list(dict.fromkeys(name for row in value for name in row))
            lines.extend([f"### {path}", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)])
            for row in value:
                cells = [
                    f"{row[name]:.3f}" if isinstance(row.get(name), float) else str(row.get(name, "")) for name in names
                ]
                lines.append("| " + " | ".join(cells) + " |")
            lines.append("")
        elif isinstance(value, dict):
            for name, part in value.items():
                tables(part, f"{path}, {name.replace('_', ' ')}".strip(", "))

    tables({name: part for name, part in fusion.items() if name not in ("machine", "versions")}, "")
    return lines


def render_speed(results: Path) -> str:
    """The page on speed, from `speed.json`."""
    lines = [
        "# Speed",
        "",
        "Made by `python -m recollect.benchmarks.page` from `results/speed.json` (`make bench`).",
        "",
    ]
    speed = _load(results, "speed")
    if speed is None:
        return "\n".join([*lines, "Not measured yet."]) + "\n"
    ingest = speed["ingest"]
    names = list(dict.fromkeys(name for row in speed["sizes"] for name in row["latency"]))
    lines += [
        "![Time of one recall](speed.svg)",
        "",
        f"Ingest with {speed['embedder']}: {ingest['add_many_per_s']:.0f} episodes a second, {ingest['share_of_embedder']:.0%} of the "
        f"embedder's own {ingest['embedder_per_s']:.0f}. Measured on {_machine(speed)}; compare columns, not machines.",
        "",
        "Milliseconds, median (95th percentile). `recall` is everything from the text of the query to explained hits; "
        "`vector_search` and `embed_query` are parts of it. The others search the same vectors for the best 10 and do nothing "
        "else. `recall / bare` is recall over its own vector search plus embedding the query; `recall / NumPy` is over an exact "
        "float32 search by NumPy plus embedding the query.",
        "",
        "| memories | "
        + " | ".join(names)
        + " | recall / bare | recall / NumPy | stored a second | bytes each | process MB |",
        "|---|" + "---|" * (len(names) + 5),
    ]
    for row in speed["sizes"]:
        cells = [
            f"{row['latency'][name]['p50_ms']:.1f} ({row['latency'][name]['p95_ms']:.1f})"
            if name in row["latency"]
            else "-"
            for name in names
        ]
        lines.append(
            f"| {row['memories']:,} | "
            + " | ".join(cells)
            + f" | {row['recall_over_bare']:.2f} | {row['recall_over_numpy']:.2f} | "
            f"{row['store_per_s']:.0f} | {row['bytes_per_memory']:.0f} | {row['process_mb'] or 0:.0f} |"
        )
    lines += [
        "",
        "`stored a second` leaves the embedder out (embeddings are replayed): it is how fast the store itself can go, with its "
        "approximate index where it has one. `process MB` is the memory of the process, the pages of the vector index that it "
        "maps included.",
        "",
        *_growth(speed["sizes"]),
    ]
    builds = {
        name: f"{row['latency'][name]['build_per_s']:,.0f} a second at {row['memories']:,}"
        for row in speed["sizes"]
        for name in ("usearch", "chroma")
        if name in row["latency"]
    }
    if builds:
        lines += ["Building the others: " + ", ".join(f"{name} {rate}" for name, rate in builds.items()) + ".", ""]
    if "chroma_limit" in speed:
        lines += [
            f"Chroma is measured up to {speed['chroma_limit']:,} memories. The whole run took {speed['seconds'] / 60:.0f} "
            "minutes.",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _growth(sizes: list[dict[str, Any]]) -> list[str]:
    """How time and memory grow from the smallest to the largest size, as a paragraph."""
    first, last = sizes[0], sizes[-1]
    if first is last:
        return []
    times = last["memories"] / first["memories"]
    slower = {name: last["latency"][name]["p50_ms"] / first["latency"][name]["p50_ms"] for name in ("recall", "numpy")}
    added = last["memories"] - first["memories"]
    lines = [
        f"Growth from {first['memories']:,} to {last['memories']:,} memories, {times:,.0f} times as many: a recall takes "
        f"{slower['recall']:.1f} times as long, an exact search by NumPy {slower['numpy']:.0f} times"
    ]
    if first["process_mb"] and last["process_mb"]:
        lines[0] += (
            f"; the process grows from {first['process_mb']:.0f} to {last['process_mb']:.0f} MB, "
            f"{(last['process_mb'] - first['process_mb']) * 1000 / added:.1f} kB a memory"
        )
    searched = "through the approximate index" if last["approximate"] else "exactly"
    return [lines[0] + f". The largest is searched {searched}.", ""]


def render_methods(results: Path) -> str:
    """The page on the store's methods, from `locomo-methods.json` and `multihop*.json`."""
    lines = [
        "# Methods",
        "",
        "Made by `python -m recollect.benchmarks.page` from `results/`. All methods keep the same episodes and can be switched at",
        'any time: `recollect derive --method NAME`; `recollect compare "query"` shows what each recalls from your own memory.',
        "What each does is on its page: [systems](systems.md).",
        "",
    ]
    if result := _load(results, "locomo-methods"):
        lines += _locomo_methods(result)
    lines += _multihop(results)
    return "\n".join(lines).rstrip() + "\n"


def _locomo_methods(result: dict[str, Any]) -> list[str]:
    first = next(iter(result["methods"].values()))
    by = f"Steps by {result['lm']}." if result["lm"] else "No language model: the built-in analyst does the steps."
    lines = [
        "## On conversations: LoCoMo",
        "",
        f"{first['num_questions']} questions about {len(result['conversations'])} conversations, embedder {result['embedder']}. {by} "
        "Mean share of the evidence found; a note counts as the turns that it rests on, so a round that holds the evidence takes two "
        "places. The default method's ranking weights were fitted on LoCoMo, each conversation ranked with weights fitted without "
        f"it; the other methods have none. Measured on {_machine(result)}.",
        "",
        "| method | turn @5 | turn @10 | session @5 | hit@1 | ms an episode | kB an episode | notes an episode | recall ms (95%) |",
        "|---|" + "---|" * 8,
    ]
    for name, row in result["methods"].items():
        cost, took = row["ingest"], row["recall_ms"]
        lines.append(
            f"| [{name}](systems/{name}.md) | {row['turn']['recall']['5']:.3f} | {row['turn']['recall']['10']:.3f} | "
            f"{row['session']['recall']['5']:.3f} | {row['turn']['hit_at_1']:.3f} | {cost['seconds_per_episode'] * 1000:.0f} | "
            f"{cost['bytes_per_episode'] / 1000:.1f} | {cost['notes_per_episode']:.1f} | {took['p50']:.0f} ({took['p95']:.0f}) |"
        )
    for label, scores in (("BM25, stemmed", result["bm25"]), ("chance", result["chance"])):
        turn, session = scores["turn"], scores["session"]
        lines.append(
            f"| {label} | {turn['recall']['5']:.3f} | {turn['recall']['10']:.3f} | {session['recall']['5']:.3f} | "
            f"{turn['hit_at_1']:.3f} | | | | |"
        )
    return [*lines, ""]


def _multihop(results: Path) -> list[str]:
    """A table for each set of multi-hop questions; of a set that several results hold, that with most methods."""
    sets: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for path in sorted(results.glob("multihop*.json")):
        result = json.loads(path.read_text("utf-8"))
        for data in result["sets"]:
            if data["name"] not in sets or len(data["methods"]) > len(sets[data["name"]][0]["methods"]):
                sets[data["name"]] = (data, result)
    if not sets:
        return []
    lines = [
        "## On passages: questions of several hops",
        "",
        "Passages in HippoRAG's form; mean share of the gold passages found, in per cent, with the 95% interval at 5. A note counts "
        "as the passages that it rests on. HippoRAG 2's weight of words was chosen on the MuSiQue questions; HotpotQA and 2Wiki were "
        "checked. Times are in the results: they were taken beside other work.",
        "",
    ]
    for name, (data, result) in sorted(sets.items()):
        by = f"steps by {result['lm']}" if result["lm"] else "no language model"
        lines += [
            f"### {name}",
            "",
            f"{data['num_passages']:,} passages, {data['num_questions']} questions; embedder {result['embedder']}, {by}; "
            f"commit {str(result['commit'])[:12]}.",
            "",
            "| | @1 | @2 | @5 | @10 | 95% at 5 | kB a passage | notes a passage |",
            "|---|" + "---|" * 7,
        ]
        for label, row in {**data["baselines"], **data["methods"]}.items():
            low, high = row["intervals"]["recall"]["5"]
            cells = [f"{100 * row['recall'][k]:.1f}" for k in ("1", "2", "5", "10")] + [
                f"{100 * low:.0f}-{100 * high:.0f}"
            ]
            cost = row.get("ingest")
            cells += (
                [f"{cost['bytes_per_episode'] / 1000:.1f}", f"{cost['notes_per_episode']:.1f}"] if cost else ["", ""]
            )
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def main() -> None:
    """Write the pages and README.md in the checkout that is the working directory."""
    results = Path("results")
    Path("docs/recall.md").write_text(render_recall(results), "utf-8")
    Path("docs/speed.md").write_text(render_speed(results), "utf-8")
    Path("docs/methods.md").write_text(render_methods(results), "utf-8")
    readme = Path("README.md")
    readme.write_text(render_readme(readme.read_text("utf-8"), results), "utf-8")
    sys.stdout.write("wrote docs/recall.md, docs/speed.md, docs/methods.md and the figures in README.md\n")


if __name__ == "__main__":
    main()
