"""`recollect import`: bring in conversations and diaries, or restore an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recollect.cli.common import Agent, Db, EmbedderName, Json, User, err, escape, opened, out, print_json, progress
from recollect.errors import InvalidInput

EXAMPLES = (
    "Examples:  recollect import chatgpt-export.zip   |   recollect import WhatsApp-Chat.txt --session family"
    "   |   recollect import notes.csv --map text=body,speaker=author,at=date   |   recollect import diary/"
)


def run(
    path: Annotated[Path, typer.Argument(help="A file or folder.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="chatgpt, claude, jsonl, csv, diary, whatsapp, locomo, longmemeval or recollect. Default: detected.",
        ),
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option("--map", help="For jsonl and csv: which column is which, as text=body,speaker=author,at=date."),
    ] = None,
    session: Annotated[str | None, typer.Option(help="Name of the conversation, where the file has none.")] = None,
    db: Db = None,
    user: User = None,
    agent: Agent = None,
    embedder: EmbedderName = None,
    json: Json = False,
) -> None:
    """Bring in conversations, notes or a diary. Doing it twice adds nothing; an interrupted import goes on."""
    from recollect.store.importers import import_file, is_export

    if not path.expanduser().exists():
        raise InvalidInput(f"path: {path} does not exist.")
    with (
        opened(db, user, agent, embedder, create=True) as memory,
        progress(f"Importing {path.name}", show=not json) as advance,
    ):
        if format_ == "recollect" or (format_ is None and is_export(path)):
            restored = memory.import_(path, progress=advance)
            result = {
                "episodes": restored.episodes,
                "notes": restored.notes,
                "links": restored.links,
                "existing": restored.existing,
            }
            problems: list[str] = []
            line = f"Restored {restored.episodes} episodes, {restored.notes} notes, {restored.links} links; {restored.existing} existed."
        else:
            options = {name: value for name, value in (("mapping", mapping), ("session", session)) if value is not None}
            report = import_file(memory, path, format=format_, progress=advance, **options)
            problems = [str(problem) for problem in report.problems]
            result = {
                "format": report.format,
                "read": report.read,
                "added": report.added,
                "existing": report.existing,
                "skipped": report.skipped,
                "problems": problems,
            }
            line = f"Read {report.read} as {report.format}: {report.added} added, {report.existing} existed, {report.skipped} skipped."
    if json:
        print_json(result)
        return
    out.print(escape(line))
    for problem in problems:
        err.print(f"[yellow]skipped[/] {escape(problem)}")
