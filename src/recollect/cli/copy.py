"""`recollect copy`: a memory from one kind of database into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recollect.cli.common import Json, escape, out, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Copy a memory from one kind of database into another, whole or not at all.",
    epilog="Example:  recollect copy sqlite-to-postgres memory.db postgresql://recollect@localhost/recollect",
)


@app.callback()
def _root() -> None:
    pass


@app.command("sqlite-to-postgres")
def sqlite_to_postgres(
    source: Annotated[Path, typer.Argument(help="The file of the memory; it is only read.")],
    target: Annotated[str, typer.Argument(help="An empty database: postgresql://user@host:port/database.")],
    json: Json = False,
) -> None:
    """Copy every user's memory into an empty PostgreSQL, vectors and all, and count every table on both sides."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    from recollect.cli.common import err
    from recollect.store.copying import sqlite_to_postgres as copy
    from recollect.store.database import shown

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, disable=json or not err.is_terminal) as bars:
        known: dict[str, TaskID] = {}

        def advance(table: str, done: int, total: int) -> None:
            if table not in known:
                known[table] = bars.add_task(table, total=total)
            bars.update(known[table], completed=done)

        counts = copy(source, target, advance)
    if json:
        print_json({"target": shown(target), "rows": counts})
        return
    for table, count in counts.items():
        out.print(f"{count:>12,}  {table}")
    out.print(f"Copied {escape(str(source))} to {escape(shown(target))}; every table was counted on both sides.")
