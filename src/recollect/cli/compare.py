"""`recollect compare`: what each method of the store recalls for one query, on your own memory."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import (
    NOTHING_FOUND,
    Agent,
    AsOf,
    Db,
    Json,
    Query,
    User,
    err,
    escape,
    opened,
    out,
    print_json,
    progress,
    settings,
    tell,
    when,
)

EXAMPLES = 'Examples:  recollect compare "Where does Ana live?"   |   recollect compare "the trip" --methods episodic,hipporag2 -k 3'


def _methods(incomplete: str) -> list[str]:
    from recollect.store.method import method_targets

    return [name for name in [*method_targets(), "all"] if name.startswith(incomplete)]


def run(
    query: Query,
    names: Annotated[
        str, typer.Option("--methods", help="Methods joined by commas, or all.", autocompletion=_methods)
    ] = "all",
    k: Annotated[int, typer.Option("-k", help="How many memories of each.")] = 3,
    at: AsOf = None,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    json: Json = False,
) -> None:
    """Show what each method recalls for a query. What a method has to derive is derived first, and kept.

    The memory goes on with the method that it had; `recollect derive --method NAME` switches it.
    """
    import time

    from recollect.lm import from_settings
    from recollect.store.derivation import cost_of
    from recollect.store.memory import Memory
    from recollect.store.method import DEFAULT_METHOD, derives, make_method, method_class, method_targets

    wanted = sorted(method_targets(), key=lambda name: (name != DEFAULT_METHOD, name))
    if names != "all":
        wanted = [name.strip() for name in names.split(",")]
        for name in wanted:
            method_class(name)
    with opened(db, user, agent) as memory:
        path, bound, narrowed = settings(db, user, agent).db, memory.user, memory.agent
    shown = []
    for name in wanted:
        method = make_method(method_class(name)(), from_settings(settings()))
        with Memory(path, user=bound, agent=narrowed, method=method) as memory:
            if derives(method) and (count := memory.num_underived()):
                with progress(f"Deriving for {name}", count, show=not json) as advance:
                    tell(memory.derive(progress=advance))
            began = time.perf_counter()
            hits = memory.recall(query, k, at=at)
            seconds = time.perf_counter() - began
            notes = memory.stats().notes.get(name, 0)
        shown.append((name, hits, notes, seconds, cost_of(method)))
    if json:
        print_json(
            [
                {"method": name, "notes": notes, "seconds": seconds, "hits": [hit.to_json() for hit in hits]}
                for name, hits, notes, seconds, _ in shown
            ]
        )
    else:
        for name, hits, notes, seconds, cost in shown:
            calls = f", {cost.calls} calls of the language model" if cost.calls else ""
            out.print(f"[bold]{name}[/]  [dim]{notes:,} notes, {seconds * 1000:.0f} ms{calls}[/]")
            for number, hit in enumerate(hits, start=1):
                held = f"until {when(hit.valid_to)}" if hit.valid_to else None
                head = ", ".join(part for part in (hit.kind, hit.speaker, when(hit.at), held) if part)
                text = " ".join(hit.text.split())
                out.print(
                    f"   {number}. [cyan]{escape(head)}[/]  {escape(text[:160])}{'...' if len(text) > 160 else ''}"
                )
            if not hits:
                out.print("   [dim]nothing[/]")
    if not any(hits for _, hits, *_ in shown):
        err.print("Nothing found.")
        raise SystemExit(NOTHING_FOUND)
