"""`recollect recall`: the memories that answer a query best, each with its reasons."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import (
    NOTHING_FOUND,
    Agent,
    AsOf,
    Db,
    Json,
    MethodName,
    Query,
    User,
    err,
    escape,
    opened,
    out,
    print_json,
    when,
)
from recollect.store.records import EPISODE, Hit

EXAMPLES = (
    'Examples:  recollect recall "Where does Ana live?"   |   recollect recall "the trip" -k 3 --why'
    '   |   recollect recall "what did I do last May?" --at 2025-01-01 --json'
)
BAR = 10


def run(
    query: Query,
    k: Annotated[int, typer.Option("-k", help="How many memories.")] = 5,
    at: AsOf = None,
    before: Annotated[str | None, typer.Option(help="Only what was said before this time.")] = None,
    after: Annotated[str | None, typer.Option(help="Only what was said at or after this time.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this conversation.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Only this speaker.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind: episode, or a kind of note. May be repeated.")
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="Show why each was picked.")] = False,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    method: MethodName = None,
    json: Json = False,
) -> None:
    """Find the memories that answer a query best."""
    with opened(db, user, agent, method=method, derive=True, quiet=json) as memory:
        hits = memory.recall(
            query, k, at=at, before=before, after=after, session=session, speaker=speaker, kinds=kind or None
        )
    if json:
        print_json([hit.to_json() for hit in hits])
    else:
        for number, hit in enumerate(hits, start=1):
            print_hit(number, hit, why)
        if not hits:
            err.print("Nothing found.")
    if not hits:
        raise SystemExit(NOTHING_FOUND)


def print_hit(number: int, hit: Hit, why: bool) -> None:
    """One hit for a person: who, when, what, and on demand the reasons as bars."""
    first, last = hit.excerpt or (0, len(hit.text))
    text = ("... " if first else "") + hit.text[first:last].strip() + (" ..." if last < len(hit.text) else "")
    held = f"until {when(hit.valid_to)}" if hit.valid_to else None
    kind = hit.kind if hit.kind != EPISODE else None
    head = ", ".join(part for part in (kind, hit.speaker, when(hit.at), hit.session, held) if part)
    out.print(f"[bold]{number}.[/] [cyan]{escape(head)}[/]  [dim]{hit.id}[/]")
    for line in text.splitlines():
        out.print(f"   {escape(line)}")
    if why:
        for signal in hit.why[:6]:
            bar = "#" * max(1, round(signal.share * BAR * 2))
            colour, sign = ("green", "+") if signal.value * signal.weight >= 0 else ("red", "-")
            out.print(f"      [dim]{escape(signal.name):<32}[/] [{colour}]{sign}{bar}[/] {signal.share:.0%}")
