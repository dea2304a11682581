"""Consolidating: what a method does with its notes in quiet hours, shown before it is done and undone after.

A consolidation is one transaction under a number of its own (`runs`); undoing it deletes the notes and links that carry the
number, which brings back every note that they had replaced or closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from recollect.errors import Conflict, NotFound
from recollect.lm.meter import Cost
from recollect.store import forgetting, notes
from recollect.store.database import Database
from recollect.store.derivation import cost_of, owned, write
from recollect.store.engine import Engine
from recollect.store.method import Draft, Method, Scope, derives
from recollect.store.notes import NewNote
from recollect.store.records import Link, Note, from_micros, to_json, to_micros

TRIES = 5  # at a consolidation while others write


@dataclass(frozen=True, slots=True)
class Change:
    """One note that a consolidation adds, with what it takes the place of and what it closes."""

    note: Note
    replaces: tuple[Note, ...]
    closes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What a consolidation did, or would do: a diff."""

    run: int | None  # its number, for `undo`; None for one that was only shown, or had nothing to do
    method: str
    changes: tuple[Change, ...]
    links: tuple[Link, ...]
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """This diff as plain JSON values, times in ISO 8601."""
        return to_json(self)


@dataclass(frozen=True, slots=True)
class Run:
    """A consolidation that was done."""

    run: int
    method: str
    at: datetime
    num_added: int
    num_replaced: int
    num_closed: int
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """This run as plain JSON values, times in ISO 8601."""
        return to_json(self)


def consolidate(engine: Engine, method: Any, user: str, agent: str | None, dry_run: bool) -> Consolidation:
    """Let the method consolidate the user's notes (one agent's, if named); with `dry_run`, only say what would change.

    Raises Unavailable when the language model cannot be reached and Conflict when others keep changing the notes meanwhile;
    nothing was changed then.
    """
    before = cost_of(method)
    if not derives(method):
        return Consolidation(None, method.name, (), (), Cost())
    with nullcontext(True) if dry_run else engine.db.claim(f"consolidate {method.name}", user) as mine:
        if not mine:
            raise Conflict("consolidate: another server is consolidating this user's notes; try again when it is done.")
        return _consolidated(engine, method, user, agent, dry_run, before)


def _consolidated(
    engine: Engine, method: Any, user: str, agent: str | None, dry_run: bool, before: Cost
) -> Consolidation:
    for _ in range(TRIES):
        draft = Draft()
        for scope in _scopes(engine.db, user, agent):
            draft.extend(owned(method.consolidate(engine, scope), scope))
        if draft.sources or draft.failed:
            raise ValueError(f"{method.name}: a consolidation may only add notes and links")
        changes = _changes(engine.db, draft.notes)
        shown = Consolidation(None, method.name, changes, tuple(draft.links), cost_of(method) - before)
        if dry_run or not draft:
            return shown
        run = _consolidate(engine, method, user, draft, shown)
        if run is not None:
            return replace(shown, run=run)
    raise Conflict("consolidate: other processes keep changing the notes; try again in a quieter hour.")


def _scopes(db: Database, user: str, agent: str | None) -> list[Scope]:
    if agent is not None:
        return [Scope(user, agent)]
    rows = db.rows("SELECT DISTINCT s.agent FROM sessions s JOIN users u ON u.ref = s.user WHERE u.name = ?", (user,))
    return [Scope(user, row[0] or None) for row in sorted(rows)]


def _changes(db: Database, items: Sequence[NewNote]) -> tuple[Change, ...]:
    wanted = {id_ for item in items for id_ in (*item.replaces, *item.closes)}
    rows = [row[0] for row in db.rows_in("SELECT seq FROM notes WHERE id IN ({})", wanted)]
    old = {note.id: note for note in notes.by_rows(db, rows).values()}
    return tuple(
        Change(
            item.note,
            tuple(old[id_] for id_ in item.replaces if id_ in old),
            tuple(old[id_] for id_ in item.closes if id_ in old),
        )
        for item in items
    )


def _consolidate(engine: Engine, method: Method, user: str, draft: Draft, shown: Consolidation) -> int | None:
    """Write a consolidation; its number, or None when a note that it rests on was changed meanwhile."""
    db = engine.db
    with engine.writing_notes(draft.notes):
        seqs = [row[0] for row in db.rows_in(
            "SELECT seq FROM notes WHERE stale = 0 AND id IN ({})",
            {note.id for change in shown.changes for note in (*change.replaces, *change.closes)},
        )]  # fmt: skip
        now = {note.id: note for note in notes.by_rows(db, seqs).values()}
        for change in shown.changes:
            if any(now.get(note.id) != note for note in (*change.replaces, *change.closes)):
                return None
        cost = shown.cost
        run = db.insert(
            "INSERT INTO runs (user, method, recorded, recorded_offset, calls, input_tokens, output_tokens, seconds) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                db.user(user),
                method.name,
                *to_micros(datetime.now().astimezone()),
                cost.calls,
                cost.input_tokens,
                cost.output_tokens,
                cost.seconds,
            ),
        )
        write(db, draft, user, run)
    return run


def runs(db: Database, user: str) -> list[Run]:
    """The consolidations of a user that stand, newest first."""
    rows = db.rows(
        "SELECT r.ref, r.method, r.recorded, r.recorded_offset, (SELECT count(*) FROM notes n WHERE n.run = r.ref), "
        "(SELECT count(*) FROM notes o JOIN notes n ON n.seq = o.replaced_by WHERE n.run = r.ref), "
        "(SELECT count(*) FROM notes o JOIN notes n ON n.seq = o.closed_by WHERE n.run = r.ref), "
        "r.calls, r.input_tokens, r.output_tokens, r.seconds FROM runs r JOIN users u ON u.ref = r.user WHERE u.name = ? "
        "ORDER BY r.ref DESC",
        (user,),
    )
    return [
        Run(ref, method, from_micros(at, offset), added, replaced, closed, Cost(*cost))
        for ref, method, at, offset, added, replaced, closed, *cost in rows
    ]


def undo(engine: Engine, user: str, run: int | None = None) -> list[Run]:
    """Undo a consolidation (None: the last one) and those that the same method did after it; what was undone.

    Raises NotFound when there is no such consolidation.
    """
    db = engine.db
    done = runs(db, user)
    if not done:
        raise NotFound("run: there is no consolidation to undo.")
    first = next((entry for entry in done if run in (None, entry.run)), None)
    if first is None:
        raise NotFound(f"run: there is no consolidation {run}; `recollect consolidate --list` shows those that stand.")
    undone = [entry for entry in done if entry.method == first.method and entry.run >= first.run]
    with db.transaction():
        for entry in undone:
            db.run("DELETE FROM links WHERE run = ?", (entry.run,))
            made = [row[0] for row in db.rows("SELECT seq FROM notes WHERE run = ?", (entry.run,))]
            forgetting.delete(db, [], made, scrub=False)
            db.run("DELETE FROM runs WHERE ref = ?", (entry.run,))
    engine.finish_erasing()
    return undone
