"""Figures of a memory: how much it holds, from when, made by what, and how large its files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recollect.store import browse
from recollect.store.database import Database
from recollect.store.derivation import num_pending
from recollect.store.engine import Engine
from recollect.store.method import Method
from recollect.store.records import to_json
from recollect.store.views import Filter


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a memory, for the user that it is bound to, and of its files."""

    num_episodes: int
    num_notes: int  # that are live: neither replaced nor flagged
    num_links: int
    num_sessions: int
    first_at: datetime | None
    last_at: datetime | None
    speakers: Mapping[str, int]
    notes: Mapping[str, int]  # how many of them each method made
    embedder: str
    method: str
    num_underived: int  # episodes that the method has still to read
    num_missing_vectors: int
    index_note: str | None  # what would make searching faster, if anything
    database_bytes: int  # of the whole file, all users
    index_bytes: int
    bytes_per_episode: float  # (database + index) / episodes of all users

    def to_json(self) -> dict[str, Any]:
        """These figures as plain JSON values."""
        return to_json(self)


def stats(engine: Engine, method: Method, filter_: Filter) -> Stats:
    """The figures of what a filter lets through."""
    db = engine.db
    count, speakers = _said(db, filter_)
    first_at, last_at = browse.ends(db, filter_)
    where, values = filter_.sql("n")
    by_method = dict(
        db.rows(
            "SELECT n.method, count(*) FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
            f"WHERE {where} AND n.replaced_by IS NULL AND n.stale = 0 GROUP BY 1 ORDER BY 1",
            values,
        )
    )
    where, values = filter_.sql("e")
    sessions = db.rows(
        "SELECT count(*) FROM sessions s JOIN users u ON u.ref = s.user JOIN episodes e ON e.seq = (SELECT t.seq FROM episodes t "
        f"WHERE t.session = s.ref ORDER BY t.position LIMIT 1) WHERE {where} AND s.name <> ''",
        values,
    )[0][0]
    links = db.rows("SELECT count(*) FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ?", (filter_.user,))[0][
        0
    ]
    with db.everyone():
        everyone = db.rows("SELECT CAST(coalesce(sum(num_episodes), 0) AS BIGINT) FROM users")[0][0]
    database_bytes, index_bytes = db.size_bytes(), engine.index.size_bytes()
    return Stats(
        num_episodes=count,
        num_notes=sum(by_method.values()),
        notes=by_method,
        num_links=links,
        num_sessions=sessions,
        first_at=first_at,
        last_at=last_at,
        speakers=speakers,
        embedder=engine.embedder.name,
        method=method.name,
        num_underived=num_pending(db, method, filter_.user),
        num_missing_vectors=engine.num_missing_vectors(),
        index_note=engine.index.note,
        database_bytes=database_bytes,
        index_bytes=index_bytes,
        bytes_per_episode=(database_bytes + index_bytes) / max(everyone, 1),
    )


def _said(db: Database, filter_: Filter) -> tuple[int, dict[str, int]]:
    """(episodes, how many of them each of the 100 most talkative speakers said); of a whole user as they are counted anyway."""
    if filter_.whole_user:
        voices = db.rows(
            "SELECT t.speaker, t.num_episodes FROM speakers t JOIN users u ON u.ref = t.user WHERE u.name = ? "
            "ORDER BY 2 DESC, 1 LIMIT 100",
            (filter_.user,),
        )
        return db.num_episodes(filter_.user), dict(voices)
    where, values = filter_.sql("e")
    joined = f"FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE {where}"
    voices = db.rows(
        f"SELECT e.speaker, count(*) {joined} AND e.speaker IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 100", values
    )
    return db.rows(f"SELECT count(*) {joined}", values)[0][0], dict(voices)
