"""Looking through a memory a page at a time: conversations, what was said last, notes, when it was said, what hangs together.

A page costs what is on it, however much the memory holds, but for two things: `sessions` looks up the last turn of each
conversation, and `timeline` counts episodes in the index of their times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from recollect.errors import InvalidInput, NotFound
from recollect.store import notes
from recollect.store.database import Database
from recollect.store.records import Episode, Link, Note, from_micros, to_json, to_micros
from recollect.store.views import Filter

_EPISODES = "FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE "
_NOTES = "FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user WHERE "
_BY_TIME = _EPISODES.replace("= e.session", "= +e.session")  # keeps the planner from going by session and sorting
FEW = 10_000  # episodes of a user that are rather sorted than looked for among those of all users
DERIVED = "derived from"  # the relation of a note to an episode that it rests on


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation."""

    name: str
    title: str | None  # that it had where it came from: `meta["title"]` of its first turn
    agent: str | None
    num_episodes: int
    first_at: datetime
    last_at: datetime
    opening: str  # the first 200 characters of its first turn
    cursor: str  # for `sessions(following=...)`


@dataclass(frozen=True, slots=True)
class Timeline:
    """How many episodes were said when: `counts` of equal stretches of time between the first and the last."""

    first_at: datetime | None
    last_at: datetime | None
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Records that links lead to from one, nearest first, and the links among them."""

    records: tuple[Episode | Note, ...]  # the first is the one in the middle
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class History:
    """All that is known about one record."""

    record: Episode | Note
    notes: tuple[Note, ...]  # derived from it
    sources: tuple[Episode, ...]  # that it was derived from
    links: tuple[Link, ...]
    before: tuple[Episode, ...]  # the two turns before it in its conversation
    after: tuple[Episode, ...]  # the two turns after it

    def to_json(self) -> dict[str, Any]:
        """This history as plain JSON values."""
        return to_json(self)


def record(db: Database, filter_: Filter, id_: str) -> Episode | Note:
    """One record by its id. Raises NotFound."""
    if not str(id_).startswith("no_"):
        return episode(db, filter_, id_)
    for note in notes.where(db, filter_, "AND n.id = ?", (id_,)).values():
        return note
    raise NotFound(f"id: there is no note {id_!r:.60} of this user.")


def episode(db: Database, filter_: Filter, id_: str) -> Episode:
    """One episode by its id. Raises NotFound."""
    for _, found in db.episodes_where(filter_, "AND e.id = ?", (id_,)):
        return found
    raise NotFound(f"id: there is no episode {id_!r:.60} of this user.")


def history(db: Database, filter_: Filter, id_: str) -> History:
    """What is known about one record. Raises NotFound."""
    known = record(db, filter_, id_)
    links = tuple(notes.links_of(db, id_, filter_.user))
    if isinstance(known, Note):
        sources = tuple(episode(db, filter_, source) for source in known.sources)
        return History(known, (), sources, links, (), ())
    derived = notes.where(
        db,
        filter_,
        "AND n.seq IN (SELECT note FROM note_sources ns JOIN episodes e ON e.seq = ns.episode WHERE e.id = ?)",
        (id_,),
    )
    session, position = db.rows("SELECT session, position FROM episodes WHERE id = ?", (id_,))[0]
    around: list[list[Episode]] = []
    for comparison, order in (("<", "DESC"), (">", "ASC")):
        seqs = [
            row[0]
            for row in db.rows(
                f"SELECT seq FROM episodes WHERE session = ? AND position {comparison} ? ORDER BY position {order} LIMIT 2",
                (session, position),
            )
        ]
        found = db.episodes(seqs)
        around.append([found[seq] for seq in seqs if seq in found])
    return History(known, tuple(derived.values()), (), links, tuple(reversed(around[0])), tuple(around[1]))


def sessions(db: Database, filter_: Filter, following: str | None, limit: int) -> list[Session]:
    """Conversations that have a name, the one with the latest last turn first. Raises InvalidInput for a strange cursor."""
    where, values = filter_.sql("e")
    later = ""
    if following is not None:
        place = re.fullmatch(r"(-?[0-9]{1,18})_([0-9]{1,18})", following)
        if place is None:
            raise InvalidInput(f"after: {following!r:.60} is not where a page ended; give `next` of the page before.")
        later = "AND (e.at, s.ref) < (?, ?)"
        values += [int(place[1]), int(place[2])]
    found = db.rows(
        "SELECT s.ref, s.name, s.agent, e.at, e.at_offset FROM sessions s JOIN users u ON u.ref = s.user JOIN episodes e "
        "ON e.seq = (SELECT t.seq FROM episodes t WHERE t.session = s.ref ORDER BY t.position DESC LIMIT 1) "
        f"WHERE {where} AND s.name <> '' {later} ORDER BY e.at DESC, s.ref DESC LIMIT ?",
        [*values, limit],
    )
    return [_session(db, *row) for row in found]


def _session(db: Database, ref: int, name: str, agent: str, last: int, last_offset: int) -> Session:
    count = db.rows("SELECT count(*) FROM episodes WHERE session = ?", (ref,))[0][0]
    first, offset, opening, meta = db.rows(
        "SELECT at, at_offset, substr(text, 1, 200), meta FROM episodes WHERE session = ? ORDER BY position LIMIT 1",
        (ref,),
    )[0]
    title = json.loads(meta).get("title") if meta else None
    return Session(
        name=name,
        title=title if isinstance(title, str) else None,
        agent=agent or None,
        num_episodes=count,
        first_at=from_micros(first, offset),
        last_at=from_micros(last, last_offset),
        opening=opening,
        cursor=f"{last}_{ref}",
    )


def latest(db: Database, filter_: Filter, following: str | None, limit: int) -> list[Episode]:
    """What was said last, latest first; `following`: only what comes after the episode with this id. Raises NotFound."""
    where, values = filter_.sql("e")
    if following is not None:
        place = db.rows(f"SELECT e.at, e.seq {_EPISODES}u.name = ? AND e.id = ?", (filter_.user, following))
        if not place:
            raise NotFound(f"after_id: there is no episode {following!r:.60} of this user.")
        where += " AND (e.at, e.seq) < (?, ?)"
        values += place[0]
    rows = db.rows(
        f"SELECT e.seq {_joined(db, filter_)}{where} ORDER BY e.at DESC, e.seq DESC LIMIT ?", [*values, limit]
    )
    found = db.episodes([row[0] for row in rows])
    return [found[row[0]] for row in rows if row[0] in found]


def timeline(db: Database, filter_: Filter, num_parts: int) -> Timeline:
    """Count the episodes in `num_parts` equal stretches of time."""
    first, last = ends(db, filter_)
    if first is None or last is None:
        return Timeline(None, None, ())
    start, end = to_micros(first)[0], to_micros(last)[0]
    width = max(1, -(-(end - start + 1) // num_parts))
    if filter_.whole_user and db.only_user() == filter_.user:  # the index of times alone tells it
        part = "SELECT count(*) FROM episodes WHERE at >= ? AND at < ?"
        edges = [start + width * number for number in range(num_parts + 1)]
        return Timeline(first, last, tuple(db.rows(part, pair)[0][0] for pair in pairwise(edges)))
    where, values = filter_.sql("e")
    counts = [0] * num_parts
    for number, count in db.rows(
        f"SELECT (e.at - ?) / ?, count(*) {_EPISODES}{where} GROUP BY 1", [start, width, *values]
    ):
        counts[number] = count
    return Timeline(first, last, tuple(counts))


def ends(db: Database, filter_: Filter) -> tuple[datetime | None, datetime | None]:
    """The times of the first and of the last that was said; None where nothing was."""
    where, values = filter_.sql("e")
    first, last = (
        db.rows(f"SELECT e.at, e.at_offset {_joined(db, filter_)}{where} ORDER BY e.at {order} LIMIT 1", values)
        for order in ("ASC", "DESC")
    )
    return (from_micros(*first[0]), from_micros(*last[0])) if first and last else (None, None)


def _joined(db: Database, filter_: Filter) -> str:
    """How to come to episodes in the order of their times."""
    return _EPISODES if db.num_episodes(filter_.user) <= FEW else _BY_TIME


def latest_notes(
    db: Database, filter_: Filter, method: str | None, kind: str | None, following: str | None, limit: int
) -> list[Note]:
    """Live notes, the last written first; `following`: those after the note with this id. Raises NotFound."""
    where, values = filter_.sql("n")
    where += " AND n.replaced_by IS NULL AND n.stale = 0"
    for column, value in (("method", method), ("kind", kind)):
        if value is not None:
            where += f" AND n.{column} = ?"
            values.append(value)
    if following is not None:
        place = db.rows(f"SELECT n.seq {_NOTES}u.name = ? AND n.id = ?", (filter_.user, following))
        if not place:
            raise NotFound(f"after_id: there is no note {following!r:.60} of this user.")
        where += " AND n.seq < ?"
        values += place[0]
    rows = db.rows(f"SELECT n.seq {_NOTES}{where} ORDER BY n.seq DESC LIMIT ?", [*values, limit])
    found = notes.by_rows(db, [row[0] for row in rows])
    return [found[row[0]] for row in rows if row[0] in found]


def neighbourhood(db: Database, filter_: Filter, id_: str, limit: int) -> Neighbourhood:
    """The record with this id and up to `limit` records at most two steps from it, along links and to and from sources.

    Of each record the heaviest links come first, at most `limit` of them. The record must be there.
    """
    links: dict[tuple[Any, ...], Link] = {}
    reached = [id_]
    edge = [id_]
    for _ in range(2):
        further: list[str] = []
        for name in edge:
            for link in _links_at(db, filter_.user, name, limit):
                other = link.target if link.source == name else link.source
                if other not in reached:
                    if len(reached) > limit:
                        continue
                    reached.append(other)
                    further.append(other)
                links[link.source, link.target, link.relation, link.method] = link
        edge = further
    records = _records(db, filter_, reached)
    known = [record for name in reached if (record := records.get(name)) is not None]
    joined = [link for link in links.values() if link.source in records and link.target in records]
    return Neighbourhood(tuple(known), tuple(joined))


def crossing(db: Database, filter_: Filter) -> str | None:
    """The id of a record to begin at: where most of a thousand links meet, else the last note, else what was said last."""
    ends = " UNION ALL ".join(
        f"SELECT {end} AS id FROM (SELECT {end} FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ? LIMIT 1000) {end}s"
        for end in ("source", "target")
    )
    rows = db.rows(
        f"SELECT id, count(*) FROM ({ends}) ends GROUP BY id ORDER BY 2 DESC, id LIMIT 50", (filter_.user, filter_.user)
    )
    seen = _records(db, filter_, [row[0] for row in rows])
    busiest = next((row[0] for row in rows if row[0] in seen), None)
    last = [] if busiest else latest_notes(db, filter_, None, None, None, 1) or latest(db, filter_, None, 1)
    return busiest or (last[0].id if last else None)


def _links_at(db: Database, user: str, id_: str, limit: int) -> list[Link]:
    of_user = "JOIN users u ON u.ref = l.user WHERE u.name = ? AND l."
    made = [
        Link(*row)
        for end in ("source", "target")
        for row in db.rows(
            f"SELECT l.source, l.target, l.relation, l.weight, l.method FROM links l {of_user}{end} = ? "
            "ORDER BY l.weight DESC, l.source, l.target LIMIT ?",
            (user, id_, limit),
        )
    ]
    mine = "n.id" if id_.startswith("no_") else "e.id"
    rests = db.rows(
        "SELECT n.id, e.id, n.method FROM note_sources ns JOIN notes n ON n.seq = ns.note JOIN episodes e "
        f"ON e.seq = ns.episode WHERE {mine} = ? AND n.replaced_by IS NULL AND n.stale = 0 ORDER BY n.seq LIMIT ?",
        (id_, limit),
    )
    made.sort(key=lambda link: -link.weight)
    return [*made, *(Link(note, episode, DERIVED, 1.0, method) for note, episode, method in rests)][:limit]


def _records(db: Database, filter_: Filter, ids: Sequence[str]) -> dict[str, Episode | Note]:
    """Those of some records that the filter lets through, by id."""
    found: dict[str, Episode | Note] = {}
    for letter, table in (("e", _EPISODES), ("n", _NOTES)):
        where, values = filter_.sql(letter)
        wanted = [id_ for id_ in ids if id_.startswith("no_") == (letter == "n")]
        seqs = [
            row[0]
            for row in db.rows_in(f"SELECT {letter}.seq {table}{where} AND {letter}.id IN ({{}})", wanted, values)
        ]
        records = db.episodes(seqs) if letter == "e" else notes.by_rows(db, seqs)
        found |= {record.id: record for record in records.values()}
    return found
