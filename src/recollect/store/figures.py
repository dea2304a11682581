"""Figures of a memory: how much it holds, from when, made by what, and how large its files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recollect.store.database import Filter
from recollect.store.derivation import num_pending
from recollect.store.engine import Engine
from recollect.store.method import Method
from recollect.store.records import to_json


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
    where, values = filter_.sql("e")
    joined = "FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user"
    count, sessions = db.rows(
        f"SELECT count(*), count(DISTINCT CASE WHEN s.name <> '' THEN s.ref END) {joined} WHERE {where}", values
    )[0]
    ends = db.rows(f"SELECT e.seq {joined} WHERE {where} ORDER BY e.at LIMIT 1", values)
    ends += db.rows(f"SELECT e.seq {joined} WHERE {where} ORDER BY e.at DESC LIMIT 1", values)
    edge = db.episodes([row[0] for row in ends])
    speakers = db.rows(
        f"SELECT e.speaker, count(*) {joined} WHERE {where} AND e.speaker IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 100",
        values,
    )
    where, values = filter_.sql("n")
    by_method = dict(
        db.rows(
            "SELECT n.method, count(*) FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
            f"WHERE {where} AND n.replaced_by IS NULL AND n.stale = 0 GROUP BY 1 ORDER BY 1",
            values,
        )
    )
    links = db.rows("SELECT count(*) FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ?", (filter_.user,))[0][
        0
    ]
    with db.everyone():
        everyone = db.rows("SELECT count(*) FROM episodes")[0][0]
    database_bytes, index_bytes = db.size_bytes(), engine.index.size_bytes()
    return Stats(
        num_episodes=count,
        num_notes=sum(by_method.values()),
        notes=by_method,
        num_links=links,
        num_sessions=sessions,
        first_at=edge[ends[0][0]].at if ends else None,
        last_at=edge[ends[1][0]].at if ends else None,
        speakers=dict(speakers),
        embedder=engine.embedder.name,
        method=method.name,
        num_underived=num_pending(db, method, filter_.user),
        num_missing_vectors=engine.num_missing_vectors(),
        index_note=engine.index.note,
        database_bytes=database_bytes,
        index_bytes=index_bytes,
        bytes_per_episode=(database_bytes + index_bytes) / max(everyone, 1),
    )
