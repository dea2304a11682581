"""`recollect systems`: the catalogue."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from recollect.catalogue import HOMES, SYSTEMS
from recollect.cli.common import Json, out, print_json
from recollect.errors import InvalidInput

EXAMPLES = "Examples:  recollect systems   |   recollect systems --home store --json"


def run(
    home: Annotated[str | None, typer.Option(help=f"Only this home: {', '.join(HOMES)}.")] = None, json: Json = False
) -> None:
    """List every system: its paper, its home and its claim."""
    from rich.table import Table

    if home is not None and home not in HOMES:
        raise InvalidInput(f"home: {home!r:.40} is not known; choose one of: {', '.join(HOMES)}.")
    chosen = [system for system in SYSTEMS if home in (None, system.home)]
    if json:
        print_json([{name: value for name, value in asdict(row).items() if name != "method"} for row in chosen])
        return
    table = Table("key", "name", "home", "year", "paper")
    for system in chosen:
        link = f"arXiv:{system.arxiv}" if system.arxiv else ""
        table.add_row(system.key, system.name, system.home, str(system.year), f"{system.paper} [dim]{link}[/]")
    out.print(table)
    out.print("Test a claim: recollect reproduce KEY")
