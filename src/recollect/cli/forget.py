"""`recollect forget`: delete for good, with a receipt."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from recollect.cli.common import NOTHING_FOUND, Agent, Db, Json, User, err, opened, out, print_json
from recollect.errors import InvalidInput

EXAMPLES = (
    "Examples:  recollect forget ep_01j8z6v3k2q4m6t8w0y2a4c6e8   |   recollect forget --session s1 --dry-run"
    '   |   recollect forget --query "blue bicycle" --yes   |   recollect forget --everything --user ana'
)


def run(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of episodes or notes.")] = None,
    session: Annotated[str | None, typer.Option(help="Everything said in this conversation.")] = None,
    before: Annotated[str | None, typer.Option(help="Everything said before this time.")] = None,
    query: Annotated[str | None, typer.Option(help="Every episode that holds all of these words.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Everything of this user.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    json: Json = False,
) -> None:
    """Delete memories for good, with everything derived only from them and their bytes in the files."""
    with opened(db, user, agent) as memory:
        what: dict[str, Any] = {
            "session": session,
            "before": before,
            "query": query,
            "user": memory.user if everything else None,
        }
        chosen = memory.forget(ids or None, **what, dry_run=True)
        count = len(chosen.episodes) + len(chosen.notes)
        if not count:
            if json:
                print_json(chosen.to_json())
            else:
                err.print("Nothing found, nothing forgotten.")
            raise SystemExit(NOTHING_FOUND)
        if not dry_run and not yes:
            if not sys.stdin.isatty():
                raise InvalidInput(
                    f"yes: {count} records would go for good; repeat with --yes to confirm, or --dry-run to look."
                )
            typer.confirm(f"{count} records will go for good. Forget them?", abort=True, err=True)
        receipt = chosen if dry_run else memory.forget(ids or None, **what)
    if json:
        print_json(receipt.to_json() | {"dry_run": dry_run})
        return
    if dry_run:
        out.print(f"Would forget {len(receipt.episodes)} episodes and {len(receipt.notes)} notes:")
        for id_ in (*receipt.episodes, *receipt.notes)[:20]:
            out.print(f"   {id_}")
        return
    out.print(
        f"Forgot {len(receipt.episodes)} episodes, {len(receipt.notes)} notes, {receipt.num_links} links, "
        f"{receipt.num_vectors} vectors, {receipt.num_token_vectors} token vectors, {receipt.num_index_entries} index entries."
    )
    if receipt.flagged_notes:
        out.print(
            f"{len(receipt.flagged_notes)} notes that other episodes carry are flagged and hidden until derived again."
        )
    if not receipt.complete:
        out.print(
            "Old bytes are still in the log because another process reads it; they go when the memory is next closed."
        )
