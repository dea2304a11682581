"""What the commands share: options, opening the memory, output for people and for machines, progress, exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from recollect.config import Settings, load_settings
from recollect.errors import InvalidInput, RecollectError, StorageFailed, Unavailable

if TYPE_CHECKING:
    from recollect.store.derivation import DeriveReport
    from recollect.store.memory import Memory

NOTHING_FOUND, BAD_INPUT, UNAVAILABLE, STORAGE_FAILED, INTERRUPTED = 1, 2, 3, 4, 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 nothing found, not all in order, or the claim does not hold; 2 wrong input; "
    "3 something is not installed or does not answer; 4 the database cannot be read or written; 130 interrupted."
)

Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        help="Database file, or postgresql://... Default: RECOLLECT_DB, recollect.toml, or your data folder.",
        rich_help_panel="Memory",
    ),
]
User = Annotated[str | None, typer.Option("--user", help="Whose memory. Default: 'default'.", rich_help_panel="Memory")]
Agent = Annotated[str | None, typer.Option("--agent", help="Narrow to one agent.", rich_help_panel="Memory")]
EmbedderName = Annotated[
    str | None,
    typer.Option(
        "--embedder", help="minilm, hashing, sentence-transformers:NAME, openai:MODEL@URL.", rich_help_panel="Memory"
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="How memories are derived and recalled; see `recollect systems --home store`. The database remembers it.",
        rich_help_panel="Memory",
    ),
]
Query = Annotated[str, typer.Argument(help="What to look for, in your own words.")]
AsOf = Annotated[str | None, typer.Option(help="As things were known then.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Folder of a checkpoint of transformers. Default: the testbed, trained when missing."),
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of training.")]
Rows = Annotated[int, typer.Option(min=1, help="Sequences a step.")]
Plots = Annotated[Path | None, typer.Option("--plots", help="Draw the figures into this folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False)


def settings(
    db: str | None = None,
    user: str | None = None,
    agent: str | None = None,
    embedder: str | None = None,
    method: str | None = None,
    **others: Any,
) -> Settings:
    """The settings in force, options first."""
    return load_settings(db=db, user=user, agent=agent, embedder=embedder, method=method, **others)


@contextmanager
def opened(
    db: str | None,
    user: str | None,
    agent: str | None = None,
    embedder: str | None = None,
    *,
    method: str | None = None,
    create: bool = False,
    with_lm: bool = False,
    derive: bool = False,
    quiet: bool = False,
) -> Iterator[Memory]:
    """The memory that options and settings name. Without `create`, a file that does not exist is an error.

    derive: let the method read first what it has not read, with a progress bar unless `quiet`. A method that derives gets
    the language model that is configured, as does, with `with_lm`, any.
    """
    from recollect.store.database import exists, shown
    from recollect.store.memory import Memory
    from recollect.store.method import derives

    chosen = settings(db, user, agent, embedder, method)
    known = exists(chosen.db)
    if not create and chosen.db != ":memory:" and not known:
        raise InvalidInput(
            f"db: {shown(chosen.db)} does not exist; `recollect add` or `recollect import` makes it, or name another with --db."
        )
    if create and chosen.origins.get("db") == "default":
        Path(chosen.db).parent.mkdir(parents=True, exist_ok=True)
    name: Any = chosen.embedder
    if embedder is None and known:
        name = None  # the database remembers its own
    elif name is not None and name.startswith("openai:"):
        from recollect.store.embedders import embedder_from_settings

        name = embedder_from_settings(chosen)
    with Memory(chosen.db, user=chosen.user, agent=chosen.agent, embedder=name, method=chosen.method) as memory:
        if with_lm or derives(memory.method):
            from recollect.lm import from_settings

            memory.use_language_model(from_settings(chosen))
        if derive and (count := memory.num_underived()):
            with progress(f"Deriving for {memory.method.name}", count, show=not quiet) as advance:
                tell(memory.derive(progress=advance))
        yield memory


def tell(report: DeriveReport) -> None:
    """Say on standard error what of a derivation is left to do, if anything."""
    if report.stopped:
        err.print(f"[yellow]Not all derived[/]: {escape(report.stopped)}")
    if report.waiting:
        err.print(
            f"[yellow]{report.waiting} episodes could not be derived[/]; they are kept, and `recollect derive --retry` tries "
            "them again."
        )


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None) + "\n")


def show_result(bench: Any, result: Any, json: bool) -> None:
    """Print what a benchmark found, for machines or for people, as its module shows it."""
    if json:
        print_json(result)
    else:
        bench.show(result, out)


def saver(results: Path | None, name: str) -> Callable[[dict[str, Any]], None]:
    """What writes a result to `<name>.json` in a folder, where there is one."""
    from recollect.benchmarks.provenance import write_json

    return lambda found: None if results is None else write_json(found, results / f"{name}.json")


def fail(message: str, code: int = BAD_INPUT, as_json: bool = False) -> NoReturn:
    """Say what is wrong and end the program."""
    if as_json:
        sys.stderr.write(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False) + "\n")
    else:
        err.print(f"[bold red]Error[/] {escape(message)}")
    raise SystemExit(code)


def code_of(error: RecollectError) -> int:
    """The exit code that tells what kind of error this is."""
    if isinstance(error, Unavailable):
        return UNAVAILABLE
    if isinstance(error, StorageFailed):
        return STORAGE_FAILED
    return BAD_INPUT


def escape(text: str) -> str:
    """Text from outside, safe to print: no terminal control characters, no markup."""
    from rich.markup import escape as escape_markup

    clean = "".join(char if char in "\n\t" or (char.isprintable() or char == "\u200d") else "\ufffd" for char in text)
    return escape_markup(clean)


def when(time: datetime) -> str:
    """A time as a person writes it, with the clock where it was said; midnight is left out."""
    day = f"{time.day} {time:%b %Y}"
    return day if (time.hour, time.minute) == (0, 0) else f"{day} {time:%H:%M}"


def size(num_bytes: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"


@contextmanager
def progress(label: str, total: int | None = None, show: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; without a terminal a line every five seconds. Yields `advance(count)`."""
    if not show:
        yield lambda count: None
        return
    if not err.is_terminal:
        yield _line_progress(label, total)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _line_progress(label: str, total: int | None) -> Callable[[int], None]:
    import time

    state = {"done": 0, "next": time.monotonic() + 5}

    def advance(count: int) -> None:
        state["done"] += count
        if time.monotonic() >= state["next"]:
            state["next"] = time.monotonic() + 5
            sys.stderr.write(f"{label}: {state['done']}{f' of {total}' if total else ''}\n")

    return advance


def read_text(argument: str | None) -> str:
    """The argument, or standard input when it is "-" or missing and something is piped in."""
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin.isatty():
        raise InvalidInput("text: is missing; give it as an argument, or pipe it in.")
    return sys.stdin.buffer.read().decode("utf-8", "replace").strip()


def quiet_network() -> None:
    """Keep libraries that could reach for a hub from doing so unasked."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
