"""`recollect export`: everything of a user as plain JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recollect.cli.common import Agent, Db, Json, User, escape, opened, out, print_json, progress, size

EXAMPLES = "Examples:  recollect export memory.jsonl   |   recollect import memory.jsonl --db restored.db"


def run(
    path: Annotated[Path, typer.Argument(help="The file to write.")],
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    json: Json = False,
) -> None:
    """Write all episodes, notes and links as plain JSON lines; `recollect import` restores them exactly."""
    with opened(db, user, agent) as memory, progress("Exporting", show=not json) as advance:
        count = memory.export(path, progress=advance)
    num_bytes = path.expanduser().stat().st_size
    if json:
        print_json({"records": count, "path": str(path), "bytes": num_bytes})
    else:
        out.print(f"Wrote {count} records to {escape(str(path))} ({size(num_bytes)}).")
