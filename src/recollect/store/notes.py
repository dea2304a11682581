"""Notes and links in the database: what is derived from episodes, how one note takes another's place, and what is live.

A note is never changed. One that is revised or merged is *replaced*: it stays, points to the note that took its place, and
is recalled only as of a time before that note was known. One whose content ceased to hold is *closed*: it stays live, and
its validity ends where the closing note's begins. Both pointers are foreign keys that become NULL when the note they point
to is deleted, so that forgetting an episode, or undoing a consolidation, brings back what had been replaced because of it.

A note is known from the time of its newest source on; one that each source alone carries (`any_source`), from the oldest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recollect.errors import InvalidInput
from recollect.store import lexical
from recollect.store.database import TERM_DTYPE, Chunk, Database, dump_meta
from recollect.store.records import Link, Note, from_micros, to_micros
from recollect.store.views import Filter, View


@dataclass(slots=True)
class NewNote:
    """A note on its way into the database."""

    note: Note
    agent: str | None = None
    replaces: tuple[str, ...] = ()  # ids of notes whose place it takes
    closes: tuple[str, ...] = ()  # ids of notes whose validity it ends
    closed_by: str | None = None  # id of a note that ends its own
    same: bytes | None = None  # a hash that near-identical texts share, for those that are to be found by it
    chunks: list[Chunk] = field(default_factory=list)
    embedded_by: str = ""  # the embedder whose vectors the chunks hold already, from `Engine.embed_notes`


# Writing


def insert(
    db: Database, items: Sequence[NewNote], user: str, *, run: int | None = None, strict: bool = True
) -> list[str]:
    """Write notes with their sources, chunks and index entries in one transaction; the ids of those written.

    A source must be an episode of the user: else InvalidInput, or, not `strict`, the note is passed over (with `any_source`
    only when no source is left), as it rests on what was forgotten a moment ago.
    """
    written: list[str] = []
    with db.transaction():
        wanted = {source for item in items for source in item.note.sources}
        found = {
            row[0]: row[1:]
            for row in db.rows_in(
                "SELECT e.id, e.seq, e.at, e.at_offset, e.session FROM episodes e JOIN sessions s ON s.ref = e.session "
                "JOIN users u ON u.ref = s.user WHERE u.name = ? AND e.id IN ({})",
                wanted,
                (user,),
            )
        }
        missing = wanted - set(found)
        if missing and strict:
            raise InvalidInput(f"sources: {min(missing)!r:.60} is not an episode of this user.")
        owner = db.user(user)
        seqs: dict[str, int] = {}
        embeddings: list[tuple] = []
        texts: list[tuple[int, str, int]] = []
        for item in items:
            note = item.note
            sources = [found[source] for source in note.sources if source in found]
            if len(sources) < len(note.sources) and not (note.any_source and sources):
                continue
            places = {source[3] for source in sources}
            place = places.pop() if len(places) == 1 else db.session(owner, item.agent, None)
            times = [source[1:3] for source in sources] or [to_micros(note.recorded_at)]
            key = note.key if note.key != note.text else None
            seq = db.insert(
                "INSERT INTO notes (id, session, kind, text, method, method_version, at, at_offset, recorded, "
                "recorded_offset, valid_from, valid_to, meta, terms, key, any_source, run, same, about) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    note.id,
                    place,
                    note.kind,
                    note.text,
                    note.method,
                    note.method_version,
                    *(min(times) if note.any_source else max(times)),
                    *to_micros(note.recorded_at),
                    to_micros(note.valid_from)[0] if note.valid_from else None,
                    to_micros(note.valid_to)[0] if note.valid_to else None,
                    dump_meta(note.meta),
                    lexical.term_ids(key or note.text).astype(TERM_DTYPE).tobytes(),
                    key,
                    int(note.any_source),
                    run,
                    item.same,
                    subject.casefold() if isinstance(subject := note.meta.get("subject"), str) else None,
                ),
            )
            seqs[note.id] = seq
            written.append(note.id)
            texts.append((seq, key or note.text, owner))
            db.run_many(
                "INSERT INTO note_sources VALUES (?, ?) ON CONFLICT DO NOTHING", ((seq, row[0]) for row in sources)
            )
            embeddings += db.insert_chunk_rows("note", seq, item.chunks)
        db.texts.insert("notes", texts)
        db.run_many("INSERT INTO embeddings VALUES (?, ?, ?)", embeddings)
        changed = 0
        for item in items:
            if item.note.id in seqs:
                for column, ids in (("replaced_by", item.replaces), ("closed_by", item.closes)):
                    changed += _point(db, column, ids, seqs[item.note.id], owner)
                if item.closed_by is not None:
                    closer = db.rows("SELECT seq FROM notes WHERE id = ?", (item.closed_by,))
                    changed += _point(db, "closed_by", (item.note.id,), closer[0][0], owner) if closer else 0
        if changed:
            db.bump_epoch()
    return written


def _point(db: Database, column: str, ids: Sequence[str], seq: int, owner: int) -> int:
    """Let live notes of a user point to the note `seq` from `column`; the number of notes changed."""
    return sum(
        db.run(
            f"UPDATE notes SET {column} = ? WHERE id = ? AND {column} IS NULL AND seq <> ? "
            "AND session IN (SELECT ref FROM sessions WHERE user = ?)",
            (seq, id_, seq, owner),
        )
        for id_ in ids
    )


def point(db: Database, column: str, id_: str, target: str, user: str) -> None:
    """Let a note of the user point to another one from `replaced_by` or `closed_by`; nothing where either is missing."""
    found = db.rows(
        "SELECT n.seq, s.user FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
        "WHERE n.id = ? AND u.name = ?",
        (target, user),
    )
    if found and _point(db, column, (id_,), *found[0]):
        db.bump_epoch()


def add_sources(db: Database, pairs: Iterable[tuple[str, str]], user: str) -> int:
    """Give notes that each source alone carries a further source: pairs of (note id, episode id); the number added.

    Pairs whose ends are not there, or are another user's, are passed over.
    """
    added = 0
    with db.transaction():
        for note, episode in pairs:
            added += db.run(
                "INSERT INTO note_sources SELECT n.seq, e.seq FROM notes n JOIN sessions ns ON ns.ref = n.session, "
                "episodes e JOIN sessions es ON es.ref = e.session JOIN users u ON u.ref = es.user "
                "WHERE n.id = ? AND e.id = ? AND u.name = ? AND ns.user = es.user AND n.any_source = 1 ON CONFLICT DO NOTHING",
                (note, episode, user),
            )
            refresh_time(db, note)
    return added


def refresh_time(db: Database, id_: str) -> None:
    """Let a note that each source alone carries be known from its oldest source on."""
    db.run(
        "UPDATE notes SET (at, at_offset) = (SELECT e.at, e.at_offset FROM note_sources ns JOIN episodes e "
        "ON e.seq = ns.episode WHERE ns.note = notes.seq ORDER BY e.at LIMIT 1) WHERE id = ? AND any_source = 1 "
        "AND EXISTS (SELECT 1 FROM note_sources ns WHERE ns.note = notes.seq)",
        (id_,),
    )


def insert_links(db: Database, links: Iterable[Link], user: str, *, run: int | None = None, strict: bool = True) -> int:
    """Write links between records of one user; one that exists gets the new weight. The number written.

    An end that is not a record of the user raises InvalidInput, or, not `strict`, the link is passed over.
    """
    written = 0
    with db.transaction():
        ref = db.user(user)
        for link in links:
            strange = [
                (name, end)
                for name, end in (("source", link.source), ("target", link.target))
                if not owns(db, end, user)
            ]
            if strange and strict:
                raise InvalidInput(f"{strange[0][0]}: {strange[0][1]!r:.60} is not a record of this user.")
            if not strange:
                db.run(
                    "INSERT INTO links (source, target, relation, weight, method, user, run) VALUES (?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (source, target, relation, method) DO UPDATE SET weight = excluded.weight",
                    (link.source, link.target, link.relation, link.weight, link.method, ref, run),
                )
                written += 1
    return written


def owns(db: Database, id_: str, user: str) -> bool:
    """Whether a record with this id belongs to the user."""
    table = "notes" if id_.startswith("no_") else "episodes"
    return bool(
        db.rows(
            f"SELECT 1 FROM {table} r JOIN sessions s ON s.ref = r.session JOIN users u ON u.ref = s.user "
            "WHERE r.id = ? AND u.name = ?",
            (id_, user),
        )
    )


# Reading

_NOTE = (
    "SELECT n.seq, n.id, n.kind, n.text, n.method, n.method_version, n.recorded, n.recorded_offset, n.valid_from, "
    "n.valid_to, n.meta, n.at, n.at_offset, n.stale, n.key, n.any_source, r.id, c.id, r.at, c.at, "
    "coalesce(c.valid_from, c.at) FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
    "LEFT JOIN notes r ON r.seq = n.replaced_by LEFT JOIN notes c ON c.seq = n.closed_by WHERE "
)


def by_rows(db: Database, seqs: Iterable[int], until: int | None = None) -> dict[int, Note]:
    """Notes by database row, as they were known at `until` (microseconds; None: as they are known now)."""
    return _notes(db, db.rows_in(_NOTE + "n.seq IN ({})", seqs), until)


def where(db: Database, filter_: Filter, extra: str = "", values: Sequence[Any] = ()) -> dict[int, Note]:
    """Notes that the filter lets through, replaced ones included, by database row."""
    condition, bound = filter_.sql("n")
    rows = db.rows(f"{_NOTE}{condition} {extra} ORDER BY n.seq", [*bound, *values])
    return _notes(db, rows, filter_.until)


def seen(db: Database, view: View) -> dict[int, Note]:
    """The notes of a view, by database row."""
    condition, bound = view.sql()
    return _notes(db, db.rows(f"{_NOTE}{condition} ORDER BY n.seq", bound), view.filter.until)


def select(db: Database, condition: str, values: Sequence[Any]) -> dict[int, Note]:
    """Notes by a WHERE condition of `View.sql`, which may have been narrowed, by database row."""
    return _notes(db, db.rows(f"{_NOTE}{condition} ORDER BY n.seq", values), None)


def derived_from(db: Database, view: View, episodes: Iterable[str]) -> dict[int, Note]:
    """The notes of a view that rest on any of these episodes, by database row."""
    condition, bound = view.sql()
    rows = db.rows_in(
        f"{_NOTE}{condition} AND n.seq IN (SELECT ns.note FROM note_sources ns JOIN episodes e ON e.seq = ns.episode "
        "WHERE e.id IN ({})) ORDER BY n.seq",
        episodes,
        bound,
    )
    return _notes(db, rows, view.filter.until)


def _notes(db: Database, rows: list[tuple], until: int | None) -> dict[int, Note]:
    sources: dict[int, list[str]] = {}
    for seq, episode in db.rows_in(
        "SELECT ns.note, e.id FROM note_sources ns JOIN episodes e ON e.seq = ns.episode WHERE ns.note IN ({}) ORDER BY e.seq",
        [row[0] for row in rows],
    ):
        sources.setdefault(seq, []).append(episode)
    return {row[0]: _note(row, tuple(sources.get(row[0], ())), until) for row in rows}


def _note(row: tuple, sources: tuple[str, ...], until: int | None) -> Note:
    (_, id_, kind, text, method, version, recorded, recorded_offset, valid_from, valid_to, meta, at, at_offset) = row[
        :13
    ]
    stale, key, any_source, replacer, closer, replaced_at, closed_at, closed_from = row[13:]
    replaced = replacer is not None and (until is None or replaced_at <= until)
    closed = closer is not None and (until is None or closed_at <= until)
    end = valid_to if valid_to is not None or not closed else closed_from
    return Note(
        id=id_,
        kind=kind,
        text=text,
        method=method,
        method_version=version,
        sources=sources,
        recorded_at=from_micros(recorded, recorded_offset),
        valid_from=None if valid_from is None else from_micros(valid_from, at_offset),
        valid_to=None if end is None else from_micros(end, at_offset),
        meta=(json.loads(meta) if meta else {}) | ({"stale": True} if stale else {}),
        key=key,
        any_source=bool(any_source),
        replaced_by=replacer if replaced else None,
        closed_by=closer if closed else None,
        at=from_micros(at, at_offset),
    )


def among(db: Database, view: View, seqs: Iterable[int]) -> list[int]:
    """Those of some rows that are notes of the view, in order."""
    condition, bound = view.sql()
    rows = db.rows_in(
        "SELECT n.seq FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
        f"WHERE {condition} AND n.seq IN ({{}})",
        seqs,
        bound,
    )
    return sorted(row[0] for row in rows)


def by_ids(db: Database, ids: Iterable[str]) -> dict[str, Note]:
    """Notes by id, as they are known now."""
    return {note.id: note for note in _notes(db, db.rows_in(_NOTE + "n.id IN ({})", ids), None).values()}


def about(db: Database, view: View, subjects: Iterable[str]) -> dict[int, Note]:
    """The notes of a view about any of these subjects (`meta["subject"]`, case-folded), by database row."""
    condition, bound = view.sql()
    rows = db.rows_in(f"{_NOTE}{condition} AND n.about IN ({{}}) ORDER BY n.seq", subjects, bound)
    return _notes(db, rows, view.filter.until)


def with_mark(db: Database, view: View, marks: Iterable[bytes]) -> dict[bytes, dict[int, Note]]:
    """The notes of a view by the hash that near-identical ones share (`NewNote.same`), each by database row."""
    condition, bound = view.sql()
    known = _notes(
        db, db.rows_in(f"{_NOTE}{condition} AND n.same IN ({{}}) ORDER BY n.seq", marks, bound), view.filter.until
    )
    by_mark: dict[bytes, dict[int, Note]] = {}
    for seq, mark in db.rows_in("SELECT seq, same FROM notes WHERE seq IN ({}) ORDER BY seq", known):
        by_mark.setdefault(bytes(mark), {})[seq] = known[seq]
    return by_mark


def first_versions(db: Database, ids: Iterable[str]) -> dict[str, list[str]]:
    """For notes by id: the ids of the notes whose place they have taken in the end, oldest first; their own if of none."""
    found: dict[str, list[str]] = {}
    for id_, first in db.rows_in(
        "WITH RECURSIVE chain (last, seq) AS (SELECT id, seq FROM notes WHERE id IN ({}) "
        "UNION SELECT c.last, o.seq FROM chain c JOIN notes o ON o.replaced_by = c.seq) "
        "SELECT c.last, n.id FROM chain c JOIN notes n ON n.seq = c.seq "
        "WHERE NOT EXISTS (SELECT 1 FROM notes o WHERE o.replaced_by = c.seq) ORDER BY n.seq",
        ids,
    ):
        found.setdefault(id_, []).append(first)
    return found


def versions(db: Database, ids: Iterable[str]) -> dict[int, list[str]]:
    """The rows of notes and of all that took their place one after the other, each with the ids that it goes back to."""
    found: dict[int, list[str]] = {}
    for id_, seq in db.rows_in(
        "WITH RECURSIVE chain (id, seq, next) AS (SELECT id, seq, replaced_by FROM notes WHERE id IN ({}) "
        "UNION SELECT c.id, n.seq, n.replaced_by FROM chain c JOIN notes n ON n.seq = c.next) SELECT id, seq FROM chain",
        ids,
    ):
        found.setdefault(seq, []).append(id_)
    return found


def chunk_ids(db: Database, view: View, after: int = 0) -> np.ndarray:
    """Sorted ids, above `after`, of the chunks of the notes of a view, int64."""
    condition, bound = view.sql()
    rows = db.rows(
        "SELECT c.id FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
        f"JOIN chunks c ON c.note = n.seq WHERE {condition} AND c.id > ? ORDER BY c.id",
        [*bound, after],
    )
    return np.fromiter((row[0] for row in rows), np.int64, len(rows))


_LINK = "SELECT l.source, l.target, l.relation, l.weight, l.method FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ? "


def links_of(db: Database, id_: str, user: str) -> list[Link]:
    """Links that start or end at a record of the user."""
    ends = "AND (l.source = ? OR l.target = ?) ORDER BY l.weight DESC"
    return [Link(*row) for row in db.rows(_LINK + ends, (user, id_, id_))]


def links_at(db: Database, ids: Iterable[str], user: str, method: str) -> list[Link]:
    """The links of a method that start or end at any of these records of the user, each once."""
    ids = list(ids)
    found: dict[tuple, Link] = {}
    for end in ("source", "target"):
        for row in db.rows_in(f"{_LINK}AND l.method = ? AND l.{end} IN ({{}})", ids, (user, method)):
            found[row] = Link(*row)
    return list(found.values())


def links(db: Database, user: str, method: str) -> list[Link]:
    """All links of a user that a method made."""
    return [Link(*row) for row in db.rows(_LINK + "AND l.method = ?", (user, method))]
