"""`recollect reproduce`: test a paper's claim at a size that a laptop can run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from recollect.catalogue import SYSTEMS
from recollect.cli.common import NOTHING_FOUND, Device, Json, Seed, err, escape, out, print_json
from recollect.errors import InvalidInput

EXAMPLES = (
    "Examples:  recollect reproduce longmemeval   |   recollect reproduce episodic locomo --json"
    "   |   recollect reproduce --all"
)


def _keys(incomplete: str) -> list[str]:
    return [entry.key for entry in SYSTEMS if entry.key.startswith(incomplete)]


def _tell(status: Any, key: str, line: str) -> None:
    status.update(f"{key}: {escape(line)}")


def run(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY...", help="See recollect systems.", autocompletion=_keys)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every claim.")] = False,
    scale: Annotated[str, typer.Option(help="small or full.")] = "small",
    device: Device = "cpu",
    seed: Seed = 0,
    data: Annotated[Path | None, typer.Option(help="Folder of data sets, for claims that can use real data.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, for claims that train many small models.")] = 1,
    results: Annotated[Path, typer.Option(help="Where results are written.")] = Path("results"),
    json: Json = False,
) -> None:
    """Run claims: what the paper says, measured here beside a baseline, and whether its direction holds."""
    from rich.table import Table

    from recollect.claims.claim import Result, Setting, load, reproduce, save, save_part

    if scale not in ("small", "full"):
        raise InvalidInput(f"scale: {scale!r:.20} is not known; use small or full.")
    chosen = [entry.key for entry in SYSTEMS] if every else keys
    if not chosen:
        raise InvalidInput("key: name at least one system (see `recollect systems`), or use --all.")
    for key in chosen:
        load(key)
    done: list[Result] = []
    for key in chosen:
        with err.status(f"{key}: starting") as status:
            setting = Setting("full" if scale == "full" else "small", device, seed, data, workers)
            tell = partial(_tell, status, key)
            result = reproduce(key, setting, tell, partial(save_part, key, setting, results))
        path = save(result, results)
        done.append(result)
        if json:
            continue
        claim = load(key)
        out.print(f"[bold]{key}[/]  {escape(claim.sentence)}")
        out.print(f"   [dim]The paper: {escape(claim.figure)}[/]")
        out.print(f"   [dim]Here: {escape(claim.experiment)}[/]")
        columns = list(dict.fromkeys(name for row in result.rows for name in row.values))
        table = Table("", *columns)
        for row in result.rows:
            style = {"system": "bold", "baseline": "", "paper": "dim"}[row.role]
            cells = [f"{row.values[name]:.3f}" if name in row.values else "" for name in columns]
            table.add_row(f"{row.name}{' (paper)' if row.role == 'paper' else ''}", *cells, style=style)
        out.print(table)
        verdict = "[green]HOLDS[/]" if result.holds else "[red]DOES NOT HOLD[/]"
        out.print(
            f"   {verdict}: {escape(claim.rule)}   [dim]{result.seconds:.1f} s, written to {escape(str(path))}[/]\n"
        )
    if json:
        values = [result.to_json() for result in done]
        print_json(values[0] if len(values) == 1 else values)
    if not all(result.holds for result in done):
        raise SystemExit(NOTHING_FOUND)
