"""`recollect verify`: look for what does not agree, and mend it."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import NOTHING_FOUND, Db, Json, opened, out, print_json

EXAMPLES = "Examples:  recollect verify   |   recollect verify --repair"


def run(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is found.")] = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Check pages, orphans, indexes, counts and vectors of the whole file; with --repair, mend them."""
    with opened(db, None) as memory:
        report = memory.verify(repair=repair)
    if json:
        print_json(report.to_json())
    else:
        for problem in report.problems:
            out.print(f"{problem.name}: {problem.count}{' (mended)' if problem.repaired else ''}")
        if not report.problems:
            out.print(f"All in order: {len(report.checks)} checks.")
        elif not report.clean and not repair:
            out.print("Mend with: recollect verify --repair")
    if not report.clean:
        raise SystemExit(NOTHING_FOUND)
