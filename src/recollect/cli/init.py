"""`recollect init`: write a commented recollect.toml and create the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recollect.cli.common import Db, EmbedderName, Json, User, escape, opened, out, print_json
from recollect.config import FILE_NAME, write_default
from recollect.errors import Conflict

EXAMPLES = "Examples:  recollect init   |   recollect init notes/ --db notes/memory.db --embedder minilm"


def run(
    folder: Annotated[Path, typer.Argument(help="Where to write recollect.toml.")] = Path(),
    db: Db = None,
    user: User = None,
    embedder: EmbedderName = None,
    json: Json = False,
) -> None:
    """Write a commented recollect.toml and create the memory."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file, written = write_default(folder), True
    except Conflict:
        file, written = folder / FILE_NAME, False
    with opened(db, user, embedder=embedder, create=True) as memory:
        path, name = memory.engine.db.path, memory.engine.embedder.name
    if json:
        print_json({"settings": str(file), "written": written, "db": path, "embedder": name})
        return
    out.print(f"Settings: {escape(str(file))}{'' if written else ' (existed, left as it is)'}")
    out.print(f"Memory:   {escape(path)} (embedder {escape(name)})")
    out.print('Next:     recollect add "I moved to Lisbon in May." --speaker Ana')
