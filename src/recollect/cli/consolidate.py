"""`recollect consolidate`: let the method tidy its notes, as a diff that can be looked at first and undone after."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import (
    NOTHING_FOUND,
    Agent,
    Db,
    Json,
    MethodName,
    User,
    err,
    escape,
    opened,
    out,
    print_json,
    when,
)
from recollect.errors import InvalidInput
from recollect.store.consolidation import Change, Consolidation

EXAMPLES = (
    "Examples:  recollect consolidate --dry-run   |   recollect consolidate   |   recollect consolidate --list"
    "   |   recollect consolidate --undo"
)


def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last consolidation, or the one of --run.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the consolidations that stand.")] = False,
    number: Annotated[
        int | None, typer.Option("--run", help="With --undo: this one, and those its method did after it.")
    ] = None,
    method: MethodName = None,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    json: Json = False,
) -> None:
    """Merge, revise and close the method's notes, in one transaction that can be undone. Episodes are never touched."""
    if undo + list_ + dry_run > 1:
        raise InvalidInput("consolidate: give at most one of --dry-run, --undo and --list.")
    if number is not None and not undo:
        raise InvalidInput("run: belongs to --undo.")
    with opened(db, user, agent, method=method, derive=not (undo or list_), quiet=json) as memory:
        if undo or list_:
            runs = memory.undo(number) if undo else memory.consolidations()
            if json:
                print_json([run.to_json() for run in runs])
            else:
                for entry in runs:
                    out.print(
                        f"{'undone: ' if undo else ''}[bold]{entry.run}[/]  {escape(entry.method)}, {when(entry.at)}: "
                        f"{entry.num_added} notes added, {entry.num_replaced} replaced, {entry.num_closed} closed"
                    )
                if not runs:
                    err.print("There are none.")
            return
        with err.status(f"{memory.method.name} looks at its notes"):
            made = memory.consolidate(dry_run=dry_run)
    if json:
        print_json(made.to_json())
    else:
        show(made, dry_run)
    if not made.changes and not made.links:
        raise SystemExit(NOTHING_FOUND)


def show(made: Consolidation, dry_run: bool) -> None:
    """The diff for a person."""
    for change in made.changes:
        _show(change)
    for link in made.links:
        out.print(f"[green]+ link[/] {link.source} --{escape(link.relation)} ({link.weight:g})--> {link.target}")
    if not made.changes and not made.links:
        err.print("Nothing to change.")
        return
    cost = (
        f" {made.cost.calls} calls, {made.cost.input_tokens} + {made.cost.output_tokens} tokens."
        if made.cost.calls
        else ""
    )
    way = "would be" if dry_run else "were"
    out.print(f"{len(made.changes)} notes and {len(made.links)} links {way} added by {escape(made.method)}.{cost}")
    if made.run is not None:
        out.print(f"[dim]Undo with: recollect consolidate --undo --run {made.run}[/]")


def _show(change: Change) -> None:
    for note in change.replaces:
        out.print(f"[red]- {escape(note.text)}[/]  [dim]{note.id}[/]")
    for note in change.closes:
        out.print(f"[yellow]~ {escape(note.text)}[/]  [dim]{note.id}, no longer holds[/]")
    out.print(f"[green]+ {escape(change.note.text)}[/]  [dim]{escape(change.note.kind)}[/]")
