"""`recollect add`: remember one thing, or one a line."""

from __future__ import annotations

from typing import Annotated

import typer

from recollect.cli.common import (
    Agent,
    Db,
    EmbedderName,
    Json,
    MethodName,
    User,
    escape,
    opened,
    out,
    print_json,
    read_text,
    when,
)
from recollect.errors import InvalidInput
from recollect.store.records import to_json

EXAMPLES = (
    'Examples:  recollect add "I moved to Lisbon in May." --speaker Ana --session s1 --at 2024-05-12T09:30'
    "   |   git log -1 --format=%B | recollect add --session git   |   recollect add - --lines < notes.txt"
)


def run(
    text: Annotated[str | None, typer.Argument(help="What to remember; '-' or nothing reads standard input.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    session: Annotated[str | None, typer.Option(help="The conversation it belongs to.")] = None,
    at: Annotated[
        str | None, typer.Option(help="When it was said: 2024-05-12 or 2024-05-12T09:30. Default: now.")
    ] = None,
    source_id: Annotated[
        str | None, typer.Option(help="Its id where it came from; the same twice is stored once.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Remember each line of the input by itself.")] = False,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    embedder: EmbedderName = None,
    method: MethodName = None,
    json: Json = False,
) -> None:
    """Remember one thing that was said or written. It is durable when the command returns."""
    content = read_text(text)
    if lines and source_id:
        raise InvalidInput("source_id: cannot be one for many lines; leave out --lines or --source-id.")
    with opened(db, user, agent, embedder, method=method, create=True, derive=True, quiet=json) as memory:
        if lines:
            items = [
                {"text": line, "speaker": speaker, "session": session, "at": at}
                for line in content.splitlines()
                if line.strip()
            ]
            report = memory.add_many(items)
            if json:
                print_json({"added": report.added, "existing": report.existing})
            else:
                out.print(f"Remembered {report.added}; {report.existing} were there already.")
            return
        episode = memory.add(content, speaker=speaker, session=session, at=at, source_id=source_id)
    if json:
        print_json(to_json(episode))
    else:
        out.print(f"Remembered [bold]{episode.id}[/] of {escape(when(episode.at))}.")
