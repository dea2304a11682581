"""`recollect stats`: figures of a memory."""

from __future__ import annotations

from recollect.cli.common import Agent, Db, Json, User, escape, opened, out, print_json, size, when

EXAMPLES = "Example:  recollect stats --json"


def run(db: Db = None, user: User = None, agent: Agent = None, json: Json = False) -> None:
    """Show how much is remembered, from when, by whom, and what it takes."""
    from rich.table import Table

    with opened(db, user, agent) as memory:
        stats = memory.stats()
        path = memory.engine.db.path
    if json:
        print_json(stats.to_json())
        return
    table = Table(show_header=False, box=None)
    speakers = ", ".join(f"{name} ({count})" for name, count in list(stats.speakers.items())[:6]) or "none named"
    span = f"{when(stats.first_at)} to {when(stats.last_at)}" if stats.first_at and stats.last_at else "nothing yet"
    missing = f" ({stats.num_missing_vectors} vectors still to be made)" if stats.num_missing_vectors else ""
    for name, value in (
        ("Memory", escape(path)),
        ("Episodes", f"{stats.num_episodes:,} in {stats.num_sessions:,} sessions"),
        ("Notes, links", f"{stats.num_notes:,}, {stats.num_links:,}"),
        ("From", span),
        ("Speakers", escape(speakers)),
        ("Embedder", escape(stats.embedder) + missing),
        ("Method", stats.method),
        ("On disk", f"{size(stats.database_bytes)} database, {size(stats.index_bytes)} index"),
        ("Per episode", size(stats.bytes_per_episode)),
    ):
        table.add_row(f"[bold]{name}[/]", value)
    out.print(table)
    if stats.index_note:
        out.print(escape(stats.index_note))
