"""`recollect demo`: a year of two friends, remembered and questioned."""

from __future__ import annotations

import json as jsonlib
import shutil
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from recollect.cli.common import Json, escape, out, print_json, when
from recollect.cli.recall import print_hit

EXAMPLES = "Example:  recollect demo"
ASKED_AT = "2024-11-10T12:00"
QUESTIONS = (
    ("a single fact", "What is Ana allergic to?"),
    ("several sessions", "What has Ana made or sold with clay?"),
    ("a time", "When did Ana go to her first pottery class?"),
    ("an update", "Where does Ana live?"),
    ("what cannot be answered", "What is the name of Ben's dog?"),
)
RECALLED = "How did the half marathon go?"
AS_OF = ("as it was known in June", "Where does Ana live?", "2024-06-01")


def conversation() -> list[dict]:
    """The sample: two friends over a year, as items of `add_many`."""
    text = (resources.files("recollect.cli") / "demo.jsonl").read_text("utf-8")
    return [jsonlib.loads(line) for line in text.splitlines()]


def demo_path() -> Path:
    """Where the demonstration keeps its own memory, apart from the user's."""
    import os

    from recollect.config import data_folder

    return data_folder(os.environ) / "demo.db"


def run(
    db: Annotated[Path | None, typer.Option("--db", help="Where to keep the demonstration's memory.")] = None,
    json: Json = False,
) -> None:
    """Play a dated sample: remember a year of two friends, ask questions of every kind, and show why each was found."""
    from recollect.store.memory import Memory

    path = db or demo_path()
    items = conversation()
    if db is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(f"{path}-index")
    with Memory(path) as memory:
        report = memory.add_many(items)
        answers = [(kind, question, memory.answer(question, at=ASKED_AT)) for kind, question in QUESTIONS]
        answers.append((AS_OF[0], AS_OF[1], memory.answer(AS_OF[1], at=AS_OF[2])))
        hits = memory.recall(RECALLED, 3, at=ASKED_AT)
        stats = memory.stats()
    if json:
        asked = [{"kind": kind, "question": question, "answer": answer.to_json()} for kind, question, answer in answers]
        print_json({"db": str(path), "added": report.added, "answers": asked, "hits": [hit.to_json() for hit in hits]})
        return
    sessions = len({item["session"] for item in items})
    out.print(
        f"[bold]recollect[/] remembered {stats.num_episodes} turns of {sessions} conversations, word for word, from"
    )
    out.print(f"{when(stats.first_at)} to {when(stats.last_at)}. " if stats.first_at and stats.last_at else "")
    out.print(
        f"No language model, no server: embedder {escape(stats.embedder)}, one file of {stats.database_bytes // 1000} kB.\n"
    )
    for kind, question, answer in answers:
        out.print(f"[bold]{escape(question)}[/]  [dim]({kind})[/]")
        for line in answer.text.splitlines():
            out.print(f"   [green]{escape(line)}[/]")
        for quote in answer.quotes[:3]:
            head = ", ".join(part for part in (quote.speaker, when(quote.at)) if part)
            out.print(f'   [dim]"{escape(quote.text)}" ({escape(head)})[/]')
        out.print()
    out.print(f"[bold]{RECALLED}[/]  [dim](recall, with the reasons for each hit)[/]")
    for number, hit in enumerate(hits, start=1):
        print_hit(number, hit, why=True)
    out.print("\n[bold]Try next[/]")
    out.print(f'   recollect recall "the new shop" --why --db {escape(str(path))}', soft_wrap=True)
    out.print(
        "   recollect import YOUR-CHATGPT-EXPORT.zip    [dim](or a Claude export, WhatsApp text, a diary folder, CSV)[/]"
    )
    out.print('   recollect add "I moved to Lisbon in May." && recollect answer "Where do I live?"')
