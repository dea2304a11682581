"""`recollect derive`: let a method read the episodes, which is also how a memory is switched to another method."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import Db, Json, MethodName, User, opened, out, print_json, progress, tell

EXAMPLES = (
    "Examples:  recollect derive --method hipporag2   |   recollect derive --method episodic   |   recollect derive --again"
    "   |   recollect derive --retry --json"
)


def run(
    again: Annotated[
        bool, typer.Option("--again", help="Drop what the method derived and make it anew, such as with a model now.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again the episodes whose derivation failed.")] = False,
    method: MethodName = None,
    db: Db = None,
    user: User = None,
    json: Json = False,
) -> None:
    """Let the method read what it has not read yet. With --method, switch the memory to another one.

    What the other method derived is kept, so that switching back is immediate. Interrupted, it goes on where it stopped.
    """
    with opened(db, user, method=method) as memory:
        stats = memory.stats()
        total = stats.num_episodes if again else stats.num_underived
        with progress(f"Deriving for {memory.method.name}", total, show=not json) as advance:
            report = memory.derive(again=again, retry=retry, progress=advance)
        name = memory.method.name
    if json:
        print_json(report.to_json() | {"method": name})
        return
    cost = (
        f" Language model: {report.cost.calls} calls, {report.cost.input_tokens} + {report.cost.output_tokens} tokens."
    )
    out.print(
        f"{name} read {report.episodes:,} episodes and made {report.notes:,} notes."
        + (cost if report.cost.calls else "")
    )
    tell(report)
