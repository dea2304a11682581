"""`recollect import`: bring in conversations and diaries, or restore an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recollect.cli.common import (
    Agent,
    Db,
    EmbedderName,
    Json,
    MethodName,
    User,
    err,
    escape,
    opened,
    out,
    print_json,
    progress,
)
from recollect.errors import InvalidInput
from recollect.store.records import to_json

EXAMPLES = (
    "Examples:  recollect import chatgpt-export.zip   |   recollect import WhatsApp-Chat.txt   |   recollect import diary/"
    "   |   recollect import notes.csv --columns text=body,speaker=author,at=date   |   recollect import export.jsonl"
)
FORMAT_NAMES = "chatgpt, claude, table (JSONL, CSV, TSV), diary, whatsapp, locomo, longmemeval or recollect"


def run(
    path: Annotated[Path, typer.Argument(help="A file, an archive or a folder.")],
    format_: Annotated[str | None, typer.Option("--format", help=f"{FORMAT_NAMES}. Default: detected.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="For tables: which column is which, as text=body,speaker=author,at=date.")
    ] = None,
    time_format: Annotated[str | None, typer.Option(help="For tables: how times are written, as in strptime.")] = None,
    me: Annotated[str | None, typer.Option(help="Your name, for ChatGPT and Claude exports and diaries.")] = None,
    date_order: Annotated[str | None, typer.Option(help="For WhatsApp: dmy, mdy or ymd. Default: detected.")] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="For WhatsApp: such as Europe/Lisbon. Default: this machine's.")
    ] = None,
    sample: Annotated[str | None, typer.Option(help="For LoCoMo: only this conversation.")] = None,
    question: Annotated[str | None, typer.Option(help="For LongMemEval: the history of this question.")] = None,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    embedder: EmbedderName = None,
    method: MethodName = None,
    json: Json = False,
) -> None:
    """Bring in conversations, notes or a diary, or restore an export. Twice adds nothing; an interrupted import goes on."""
    from recollect.store.importers import import_file
    from recollect.store.transfer import is_export

    if not path.expanduser().exists():
        raise InvalidInput(f"path: {path} does not exist.")
    given = {
        "columns": columns,
        "time_format": time_format,
        "me": me,
        "date_order": date_order,
        "time_zone": time_zone,
        "sample": sample,
        "question": question,
    }
    with (
        opened(db, user, agent, embedder, method=method, create=True, derive=True, quiet=json) as memory,
        progress(f"Importing {path.name}", show=not json) as advance,
    ):
        if format_ == "recollect" or (format_ is None and is_export(path)):
            restored = memory.import_(path, progress=advance)
            result = to_json(restored)
            problems: tuple[str, ...] = ()
            line = (
                f"Restored {restored.episodes} episodes, {restored.notes} notes and {restored.links} links; "
                f"{restored.existing} were there already."
            )
        else:
            options = {name: value for name, value in given.items() if value is not None}
            report = import_file(memory, path, format=format_, progress=advance, **options)
            result, problems = report.to_json(), report.problems
            line = (
                f"Read {report.read} as {report.format}: {report.added} added, {report.existing} there already, "
                f"{report.skipped} with nothing to remember, {report.damaged} damaged."
            )
    if json:
        print_json(result)
        return
    out.print(escape(line))
    for problem in problems:
        err.print(f"[yellow]left out[/] {escape(problem)}")
