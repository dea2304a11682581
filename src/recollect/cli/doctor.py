"""`recollect doctor`: what is configured, what works, and how to fix what does not."""

from __future__ import annotations

from recollect.cli.common import NOTHING_FOUND, Db, Json, escape, out, print_json, settings
from recollect.store.records import to_json

EXAMPLES = "Example:  recollect doctor --json"


def run(db: Db = None, json: Json = False) -> None:
    """Check the installation, the settings, the memory and the language model; print the fix for each problem."""
    from recollect.doctor import checks

    found = list(checks(settings(db)))
    broken = any(check.ok is False for check in found)
    if json:
        print_json({"ok": not broken, "checks": [to_json(check) for check in found]})
    else:
        marks = {True: "[green]ok[/]  ", None: "[dim]--[/]  ", False: "[red]bad[/] "}
        for check in found:
            out.print(f"{marks[check.ok]} [bold]{escape(check.name)}[/]  {escape(check.detail)}")
            if check.ok is not True and check.fix:
                out.print(f"       [cyan]{escape(check.fix)}[/]")
    if broken:
        raise SystemExit(NOTHING_FOUND)
