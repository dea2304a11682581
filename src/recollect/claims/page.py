"""The page `docs/claims.md`, made from the catalogue and the committed results: `python -m recollect.claims.page`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from recollect.catalogue import SYSTEMS
from recollect.claims.claim import load


def render(results: Path) -> str:
    """The page as Markdown; a claim without a result says so."""
    lines = [
        "# Claims",
        "",
        "Made by `python -m recollect.claims.page` from `results/claims/`; run `recollect reproduce KEY` to measure anew.",
        "",
    ]
    for entry in SYSTEMS:
        claim = load(entry.key)
        lines += [f"## {entry.name} (`{entry.key}`)", "", claim.sentence, ""]
        lines += [f"- The paper: {claim.figure}", f"- Here: {claim.experiment}", f"- It holds when: {claim.rule}", ""]
        for name in (entry.key, f"{entry.key}-full"):
            path = results / "claims" / f"{name}.json"
            if path.exists():
                lines += _section(json.loads(path.read_text("utf-8")))
            elif (part := path.with_suffix(".part.json")).exists():
                lines += _unfinished(json.loads(part.read_text("utf-8")))
            elif name == entry.key:
                lines += ["Not measured yet.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = [name for row in rows for name in row if name not in ("name", "role")]
    columns = list(dict.fromkeys(names))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{row[name]:.3f}" if name in row else "" for name in columns]
        label = row["name"] + (" (paper)" if row["role"] == "paper" else "")
        lines.append(f"| {f'**{label}**' if row['role'] == 'system' else label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _unfinished(part: dict[str, Any]) -> list[str]:
    return [
        *_table(part["rows"]),
        f"**Not finished**: what a run was able to measure ({part['scale']} scale, seed {part['seed']}, {part['device']}).",
        "",
    ]


def _section(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    return [
        *_table(result["rows"]),
        f"**{result['verdict'].capitalize()}** ({result['scale']} scale, seed {result['seed']}, {result['seconds']} s on "
        f"{machine['cpu']}, {machine['cores']} cores, commit {str(result['commit'])[:12]}).",
        "",
    ]


def main() -> None:
    """Write `docs/claims.md` in the checkout that is the working directory."""
    Path("docs").mkdir(exist_ok=True)
    Path("docs/claims.md").write_text(render(Path("results")), "utf-8")
    sys.stdout.write("wrote docs/claims.md\n")


if __name__ == "__main__":
    main()
