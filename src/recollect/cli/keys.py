"""`recollect keys`: who may reach `recollect serve` from elsewhere."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from recollect.cli.common import Db, Json, escape, out, print_json, settings, when
from recollect.store.records import to_json

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke the keys of a server. Each is bound to one user.",
    epilog="Examples:  recollect keys create --user ana --scopes read,write   |   recollect keys list   "
    "|   recollect keys revoke 5x2kq7ab",
)


@app.command()
def create(
    user: Annotated[str, typer.Option("--user", help="Whose memory the key opens.")],
    scopes: Annotated[
        str, typer.Option(help="Of read, write and admin; admin cares for the file and opens no other user's memory.")
    ] = "read,write",
    db: Db = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    key, token = _ring(db).create(user, [part.strip() for part in scopes.split(",") if part.strip()])
    if json:
        print_json(to_json(key) | {"key": token})
        return
    sys.stdout.write(f"{token}\n")
    out.print(f"[dim]for {escape(key.user)}, {', '.join(key.scopes)}; it is shown only now, and its id is {key.id}[/]")


@app.command("list")
def list_(db: Db = None, json: Json = False) -> None:
    """List the keys, without their secrets."""
    keys = _ring(db).list()
    if json:
        print_json([to_json(key) for key in keys])
        return
    for key in keys:
        out.print(f"[bold]{key.id}[/]  {escape(key.user)}: {', '.join(key.scopes)}, since {when(key.created_at)}")
    if not keys:
        out.print("There are none.")


@app.command()
def revoke(id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], db: Db = None) -> None:
    """Refuse a key from now on."""
    _ring(db).revoke(id_)
    out.print(f"Key {escape(id_)} is revoked.")


def _ring(db: str | None):
    from recollect.server.keys import KeyRing

    return KeyRing(settings(db).db)
