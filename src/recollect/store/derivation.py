"""Deriving: running a method over the episodes that it has not read, in steps that survive any interruption.

How far a method has read a user's episodes is one number (`derivations.upto`), moved in the transaction that writes what was
derived. An episode whose derivation failed is put aside (`underived`) and tried again when asked for, or in quiet hours. Two
processes that derive at the same time on one file do some work twice; the one that is second discards its draft. On a
database that several servers share, one of them claims a user's derivation and the others leave it to that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from recollect.errors import Unavailable
from recollect.lm.meter import Cost
from recollect.store import forgetting, notes
from recollect.store.database import Database
from recollect.store.engine import Engine
from recollect.store.method import Draft, Method, Scope, derives
from recollect.store.records import Answer, Episode, to_json
from recollect.store.views import Filter

BATCH = 64  # episodes to a transaction
MAX_ATTEMPTS = 5  # at an episode whose derivation fails


@dataclass(frozen=True, slots=True)
class DeriveReport:
    """What deriving did."""

    episodes: int  # read now
    notes: int  # made now
    waiting: int  # episodes whose derivation failed; `derive(retry=True)` tries them again
    stopped: str | None  # why it ended early, if it did; the rest is derived the next time
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """This report as plain JSON values."""
        return to_json(self)


def cost_of(method: Method) -> Cost:
    """What a method's language model has cost so far."""
    return getattr(method.lm, "cost", None) or Cost()


def num_pending(db: Database, method: Method, user: str) -> int:
    """How many of a user's episodes the method has not read yet."""
    if not derives(method):
        return 0
    return db.rows(
        "SELECT count(*) FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user "
        "WHERE u.name = ? AND e.seq > ?",
        (user, _upto(db, method, user)),
    )[0][0]


def is_behind(db: Database, method: Method, user: str) -> bool:
    """Whether there is an episode or a flagged note that the method is to read; quick."""
    if not derives(method):
        return False
    return bool(
        db.rows(
            "SELECT 1 FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user "
            "WHERE e.seq > ? AND u.name = ? LIMIT 1",
            (_upto(db, method, user), user),
        )
        or _stale(db, method, user, limit=1)
    )


def derive(
    engine: Engine, method: Method, user: str, *, retry: bool = False, progress: Callable[[int], None] | None = None
) -> DeriveReport:
    """Derive what the method has not read yet, and what forgetting has flagged; with `retry`, what had failed too.

    Stops, and says why, when the language model cannot be reached; what was done is kept. Does nothing while another server
    derives for the user.
    """
    db, before = engine.db, cost_of(method)
    num_episodes = num_notes = 0
    stopped = None
    if derives(method) and not db.read_only:
        with db.claim(f"derive {method.name}", user) as mine:
            try:
                if mine:
                    _start(engine, method, user)
                    _rederive(engine, method, user)
                if mine and retry:
                    for part in _slices(_failed(db, method, user)):
                        num_notes += _retry(engine, method, user, part)
                while mine and (batch := _unread(db, method, user)):
                    written = _read(engine, method, user, batch)
                    if written is not None:
                        num_episodes += len(batch)
                        num_notes += written
                        if progress is not None:
                            progress(len(batch))
            except Unavailable as error:
                stopped = str(error)
    waiting = db.rows(
        "SELECT count(*) FROM underived x JOIN episodes e ON e.seq = x.episode JOIN sessions s ON s.ref = e.session "
        "JOIN users u ON u.ref = s.user WHERE x.method = ? AND u.name = ?",
        (method.name, user),
    )[0][0]
    return DeriveReport(num_episodes, num_notes, waiting, stopped, cost_of(method) - before)


def _upto(db: Database, method: Method, user: str) -> int:
    found = db.rows(
        "SELECT upto FROM derivations d JOIN users u ON u.ref = d.user WHERE d.method = ? AND u.name = ? AND d.version = ?",
        (method.name, user, method.version),
    )
    return found[0][0] if found else 0


def _start(engine: Engine, method: Method, user: str) -> None:
    """Begin at the first episode where there is no mark; drop what another version of the method derived."""
    db = engine.db
    found = db.rows(
        "SELECT d.version FROM derivations d JOIN users u ON u.ref = d.user WHERE d.method = ? AND u.name = ?",
        (method.name, user),
    )
    if found and found[0][0] == method.version:
        return
    if found:
        reset(engine, method.name, user)
    with db.transaction():
        db.run(
            "INSERT INTO derivations VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
            (method.name, db.user(user), method.version),
        )


def reset(engine: Engine, method: str, user: str) -> int:
    """Delete everything that a method derived for a user, so that it is derived anew; the number of notes deleted."""
    db = engine.db
    with db.transaction():
        rows = list(notes.where(db, Filter(user), "AND n.method = ?", (method,)))
        forgetting.delete(db, [], rows, scrub=False)
        for table in ("links", "derivations"):
            db.run(
                f"DELETE FROM {table} WHERE method = ? AND user = (SELECT ref FROM users WHERE name = ?)",
                (method, user),
            )
        db.run(
            "DELETE FROM underived WHERE method = ? AND episode IN (SELECT e.seq FROM episodes e JOIN sessions s "
            "ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE u.name = ?)",
            (method, user),
        )
    engine.finish_erasing()
    return len(rows)


def marks(db: Database, user: str) -> dict[str, Any]:
    """What each method that has read all of a user's episodes derived from: its version, and the episodes that wait."""
    found = {}
    for method, version, upto in db.rows(
        "SELECT d.method, d.version, d.upto FROM derivations d JOIN users u ON u.ref = d.user WHERE u.name = ?", (user,)
    ):
        if upto >= _last(db, user):
            rows = db.rows(
                "SELECT e.id, x.attempts, x.reason FROM underived x JOIN episodes e ON e.seq = x.episode "
                "JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE x.method = ? AND u.name = ?",
                (method, user),
            )
            found[method] = {"version": version, "waiting": [list(row) for row in rows]}
    return found


def complete_marks(db: Database, user: str, exported: dict[str, Any]) -> dict[str, Any]:
    """Those of an export's marks whose notes can be taken over: the method has read all that is here, in that version."""
    here, empty = marks(db, user), not _last(db, user)
    return {
        method: mark
        for method, mark in exported.items()
        if isinstance(mark, dict) and (empty or here.get(method, {}).get("version") == mark.get("version"))
    }


def set_marks(db: Database, user: str, taken: dict[str, Any], renamed: dict[str, str]) -> None:
    """Note that methods have read all of a user's episodes, after their notes were restored."""
    with db.transaction():
        for method, mark in taken.items():
            db.run(
                "INSERT INTO derivations VALUES (?, ?, ?, ?) ON CONFLICT (method, user) DO UPDATE SET upto = excluded.upto",
                (method, db.user(user), str(mark.get("version")), _last(db, user)),
            )
            for id_, attempts, reason in mark.get("waiting", ()):
                db.run(
                    "INSERT INTO underived SELECT ?, e.seq, ?, ? FROM episodes e JOIN sessions s "
                    "ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE e.id = ? AND u.name = ? ON CONFLICT DO NOTHING",
                    (method, int(attempts), str(reason), renamed.get(id_, id_), user),
                )


def _last(db: Database, user: str) -> int:
    """The last row of a user's episodes; 0 when there is none."""
    return db.rows(
        "SELECT coalesce(max(e.seq), 0) FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user "
        "WHERE u.name = ?",
        (user,),
    )[0][0]


def _unread(db: Database, method: Method, user: str) -> list[tuple[int, Episode]]:
    upto = _upto(db, method, user)
    return list(islice(db.episodes_where(Filter(user), "AND e.seq > ?", (upto,), at_once=BATCH), BATCH))


def _read(engine: Engine, method: Method, user: str, batch: Sequence[tuple[int, Episode]]) -> int | None:
    """Derive a batch and move the mark; the number of notes, or None when another process was quicker."""
    db, upto = engine.db, _upto(engine.db, method, user)
    draft = _encode(engine, method, user, [episode for _, episode in batch])
    with engine.writing_notes(draft.notes):
        if _upto(db, method, user) != upto:
            return None
        write(db, draft, user)
        db.run(
            "UPDATE derivations SET upto = ? WHERE method = ? AND user = ?", (batch[-1][0], method.name, db.user(user))
        )
        for id_, reason in draft.failed.items():
            db.run(
                "INSERT INTO underived SELECT ?, seq, 1, ? FROM episodes WHERE id = ? ON CONFLICT DO NOTHING",
                (method.name, reason[:500], id_),
            )
    return len(draft.notes)


def _encode(engine: Engine, method: Method, user: str, episodes: Iterable[Episode]) -> Draft:
    """The drafts of episodes, those of each agent by themselves, joined."""
    draft = Draft()
    ordered = sorted(episodes, key=lambda episode: episode.agent or "")
    for agent, part in groupby(ordered, key=lambda episode: episode.agent or ""):
        scope = Scope(user, agent or None)
        made = method.encode(engine, scope, list(part))
        draft.extend(owned(made, scope))
    return draft


def owned(draft: Draft, scope: Scope) -> Draft:
    """The draft, its notes marked as the scope's."""
    for item in draft.notes:
        item.agent = scope.agent
    return draft


def write(db: Database, draft: Draft, user: str, run: int | None = None) -> None:
    """Write a draft within `Engine.writing_notes`; what rests on something forgotten a moment ago is passed over."""
    notes.insert(db, draft.notes, user, run=run, strict=False)
    notes.add_sources(db, draft.sources, user)
    notes.insert_links(db, draft.links, user, run=run, strict=False)


def _failed(db: Database, method: Method, user: str) -> list[Episode]:
    rows = db.rows(
        "SELECT x.episode FROM underived x JOIN episodes e ON e.seq = x.episode JOIN sessions s ON s.ref = e.session "
        "JOIN users u ON u.ref = s.user WHERE x.method = ? AND u.name = ? AND x.attempts < ? ORDER BY x.episode",
        (method.name, user, MAX_ATTEMPTS),
    )
    return list(db.episodes([row[0] for row in rows]).values())


def _retry(engine: Engine, method: Method, user: str, episodes: Sequence[Episode]) -> int:
    """Derive episodes that had failed; the number of notes."""
    db = engine.db
    draft = _encode(engine, method, user, episodes)
    with engine.writing_notes(draft.notes):
        write(db, draft, user)
        for episode in episodes:
            where = "method = ? AND episode = (SELECT seq FROM episodes WHERE id = ?)"
            if episode.id in draft.failed:
                db.run(
                    f"UPDATE underived SET attempts = attempts + 1, reason = ? WHERE {where}",
                    (draft.failed[episode.id][:500], method.name, episode.id),
                )
            else:
                db.run(f"DELETE FROM underived WHERE {where}", (method.name, episode.id))
    return len(draft.notes)


def _stale(db: Database, method: Method, user: str, limit: int = 2**62) -> list[tuple[int, str]]:
    """(row, agent) of notes of which a source was forgotten."""
    return db.rows(
        "SELECT n.seq, s.agent FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
        "WHERE n.stale = 1 AND n.method = ? AND u.name = ? ORDER BY s.agent LIMIT ?",
        (method.name, user, limit),
    )


def _rederive(engine: Engine, method: Any, user: str) -> list[str]:
    """Let the method make flagged notes anew from the sources that are left, and delete the old ones; texts that went."""
    db, traces = engine.db, []
    for agent, part in groupby(_stale(db, method, user), key=lambda row: row[1]):
        rows = [row for row, _ in part]
        flagged = notes.by_rows(db, rows)
        scope = Scope(user, agent or None)
        draft = owned(method.rederive(engine, scope, list(flagged.values())), scope)
        with engine.writing_notes(draft.notes):
            write(db, draft, user)
            traces += forgetting.delete(db, [], rows, scrub=False)["traces"]
        engine.finish_erasing()
    return traces


def rederive_flagged(engine: Engine, method: Method, user: str) -> list[str]:
    """What forgetting calls: as `derive`, for flagged notes only; the texts that went. Never raises Unavailable."""
    if not derives(method):
        return []
    try:
        return _rederive(engine, method, user)
    except Unavailable:
        return []


def learn(engine: Engine, method: Any, scope: Scope, question: str, answer: Answer) -> int:
    """Write what the method learns from having answered; the number of notes. A language model out of reach is no error."""
    if not derives(method):
        return 0
    try:
        draft = owned(method.after_answer(engine, scope, question, answer), scope)
    except Unavailable:
        return 0
    if draft:
        with engine.writing_notes(draft.notes):
            write(engine.db, draft, scope.user)
    return len(draft.notes)


def _slices(episodes: Sequence[Episode]) -> list[Sequence[Episode]]:
    return [episodes[start : start + BATCH] for start in range(0, len(episodes), BATCH)]
