"""The pages `docs/commands.md` and `docs/systems.md`, made from the program and the catalogue: `python -m recollect.cli.page`."""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from recollect.catalogue import HOMES, SYSTEMS
from recollect.cli import demo
from recollect.cli.common import out
from recollect.cli.main import COMMANDS, app


def render_commands() -> str:
    """Every command with its arguments, options and examples, as Markdown."""
    program = typer.main.get_command(app)
    context = typer.Context(program, info_name="recollect")
    lines = ["# Commands", "", "Made by `python -m recollect.cli.page`. `recollect COMMAND --help` says the same.", ""]
    for panel, names in COMMANDS.items():
        lines += [f"## {panel}", ""]
        for name in names:
            lines += _command(program.get_command(context, name), f"recollect {name}")  # type: ignore[attr-defined]
    return "\n".join(lines).rstrip() + "\n"


def _command(command: Any, name: str) -> Iterator[str]:
    yield from (f"### `{name}`", "", inspect.cleandoc(command.help or ""), "")
    if hasattr(command, "commands"):
        for part in command.commands.values():
            yield from _command(part, f"{name} {part.name}")
        return
    for parameter in command.params:
        if parameter.param_type_name == "option":
            if parameter.name == "help":
                continue
            shown = ", ".join(f"`{opt}`" for opt in parameter.opts)
            text = parameter.help or ""
        else:
            shown = f"`{parameter.metavar or (parameter.name or '').upper()}`"
            text = getattr(parameter, "help", None) or ""
        yield f"- {shown}: {text}".rstrip(": ")
    yield ""
    if command.epilog:
        examples = command.epilog.split(":", 1)[1].split("   |   ")
        yield from ("```", *(example.strip() for example in examples), "```", "")


def render_systems() -> str:
    """The table of systems, by home."""
    lines = ["# Systems", "", "Made by `python -m recollect.cli.page` from `src/recollect/catalogue.py`.", ""]
    for home in HOMES:
        rows = [entry for entry in SYSTEMS if entry.home == home]
        if not rows:
            continue
        lines += [f"## {home}", "", "| system | paper | year | file |", "|---|---|---|---|"]
        for entry in rows:
            file = Path(import_module(entry.target.split(":")[0]).__file__ or "").name
            paper = f"[{entry.paper}](https://arxiv.org/abs/{entry.arxiv})" if entry.arxiv else entry.paper
            lines.append(
                f"| [{entry.name}](systems/{entry.key}.md) (`{entry.key}`) | {paper} | {entry.year} | "
                f"[{file}](../src/{entry.target.split(':')[0].replace('.', '/')}.py) |"
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def draw_demo(path: Path) -> None:
    """What `recollect demo` prints, as a picture of a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        out.record, out.width, out.file = True, 112, io.StringIO()
        with contextlib.chdir(folder):
            demo.run(db=Path("demo.db"), json=False)
    out.save_svg(str(path), title="recollect demo", unique_id="recollect")


def main() -> None:
    """Write the pages and the picture into `docs/` of the checkout that is the working directory."""
    Path("docs").mkdir(exist_ok=True)
    draw_demo(Path("docs/demo.svg"))
    Path("docs/commands.md").write_text(render_commands(), "utf-8")
    Path("docs/systems.md").write_text(render_systems(), "utf-8")
    sys.stdout.write("wrote docs/commands.md, docs/systems.md and docs/demo.svg\n")


if __name__ == "__main__":
    main()
