"""`recollect history`: all that is known about one record."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import Agent, Db, Json, User, escape, opened, out, print_json, when
from recollect.store.records import Note

EXAMPLES = "Example:  recollect history ep_01j8z6v3k2q4m6t8w0y2a4c6e8"


def run(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The id of an episode or a note.")],
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    json: Json = False,
) -> None:
    """Show a record with its sources, what was derived from it, its links and the turns around it."""
    with opened(db, user, agent) as memory:
        history = memory.history(id_)
    if json:
        print_json(history.to_json())
        return
    record = history.record
    for episode in history.before:
        out.print(f"   [dim]{escape(episode.speaker or '')}: {escape(episode.text)}[/]")
    if isinstance(record, Note):
        out.print(
            f"[bold]{record.id}[/]  {escape(record.kind)} by {escape(record.method)} {escape(record.method_version)}"
        )
        ends = [when(time) if time else "open" for time in (record.valid_from, record.valid_to)]
        out.print(f"   {escape(record.text)}   [dim]valid {ends[0]} to {ends[1]}[/]")
    else:
        head = ", ".join(part for part in (record.speaker, when(record.at), record.session) if part)
        out.print(f"[bold]{record.id}[/]  [cyan]{escape(head)}[/]  [dim]recorded {when(record.recorded_at)}[/]")
        out.print(f"   {escape(record.text)}")
    for episode in history.after:
        out.print(f"   [dim]{escape(episode.speaker or '')}: {escape(episode.text)}[/]")
    for label, records in (("source", history.sources), ("derived", history.notes)):
        for other in records:
            out.print(f"{label}: {other.id}  {escape(other.text)}")
    for link in history.links:
        out.print(f"link: {link.source} --{escape(link.relation)} ({link.weight:g})--> {link.target}")
