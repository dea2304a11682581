"""`recollect systems`: the catalogue, or where its systems stand in a survey's taxonomy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from recollect.catalogue import HOMES, SYSTEMS
from recollect.cli.common import Json, out, print_json
from recollect.errors import InvalidInput
from recollect.taxonomies import TAXONOMIES, Taxonomy
from recollect.taxonomies import taxonomy as known_taxonomy

EXAMPLES = "Examples:  recollect systems   |   recollect systems --home store --json   |   recollect systems --taxonomy lifelong"


def run(
    home: Annotated[str | None, typer.Option(help=f"Only this home: {', '.join(HOMES)}.")] = None,
    taxonomy: Annotated[
        str | None,
        typer.Option(help=f"Where each system stands in a survey: {', '.join(entry.key for entry in TAXONOMIES)}."),
    ] = None,
    json: Json = False,
) -> None:
    """List every system: its paper, its home and its claim; or where each stands in a survey of continual learning."""
    from rich.table import Table

    if home is not None and home not in HOMES:
        raise InvalidInput(f"home: {home!r:.40} is not known; choose one of: {', '.join(HOMES)}.")
    chosen = [system for system in SYSTEMS if home in (None, system.home)]
    if taxonomy is not None:
        _show(known_taxonomy(taxonomy), {system.key for system in chosen}, json)
        return
    if json:
        print_json([{name: value for name, value in asdict(row).items() if name != "method"} for row in chosen])
        return
    table = Table("key", "name", "home", "year", "paper")
    for system in chosen:
        link = f"arXiv:{system.arxiv}" if system.arxiv else ""
        table.add_row(system.key, system.name, system.home, str(system.year), f"{system.paper} [dim]{link}[/]")
    out.print(table)
    out.print("Test a claim: recollect reproduce KEY")


def _show(survey: Taxonomy, keys: set[str], json: bool) -> None:
    """The classes of each axis with the systems that are here."""
    from rich.table import Table

    axes = {
        axis: {name: [key for key in members if key in keys] for name, members in classes.items()}
        for axis, classes in survey.axes.items()
    }
    if json:
        print_json({"key": survey.key, "name": survey.name, "arxiv": survey.arxiv, "axes": axes})
        return
    out.print(f"{survey.name} [dim]arXiv:{survey.arxiv}[/]")
    for axis, classes in axes.items():
        table = Table(axis, "systems", min_width=60)
        for name, members in classes.items():
            table.add_row(name, ", ".join(members))
        out.print(table)
