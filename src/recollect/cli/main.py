"""The program `recollect`: one command a file, errors in one sentence, exit codes that mean something."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer

from recollect import __version__
from recollect.cli.common import EXIT_CODES, INTERRUPTED, code_of, err, escape, fail, quiet_network

COMMANDS = {
    "Use a memory": ("init", "add", "import", "recall", "answer", "history", "forget", "export"),
    "Look after it": ("stats", "derive", "consolidate", "compare", "verify", "reindex", "copy", "doctor"),
    "Keep a model learning": ("learn",),
    "Serve it": ("serve", "keys", "mcp"),
    "Measure": ("demo", "systems", "reproduce", "bench", "testbed"),
}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Long-term memory for language models: remember what was said, recall it with reasons, forget it for good.\n\n"
    "Start with [bold]recollect demo[/], then [bold]recollect import my-export.zip[/].",
)


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"recollect {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for _panel, _names in COMMANDS.items():
    for _name in _names:
        _module = import_module(f"recollect.cli.{'import_' if _name == 'import' else _name}")
        if hasattr(_module, "app"):
            app.add_typer(_module.app, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel, epilog=getattr(_module, "EXAMPLES", None))(_module.run)


def _warn(message: Warning | str, *_: Any) -> None:
    """A warning as a line on standard error, without the place in the code."""
    err.print(f"[yellow]Warning[/] {escape(str(message))}")


def main() -> None:
    """Run the program; every known error becomes one sentence and an exit code."""
    from recollect.errors import RecollectError

    quiet_network()
    warnings.showwarning = _warn
    as_json = "--json" in sys.argv
    try:
        app()
    except RecollectError as error:
        fail(str(error), code_of(error), as_json)
    except KeyboardInterrupt:
        fail("interrupted; what was done so far is kept.", INTERRUPTED, as_json)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
