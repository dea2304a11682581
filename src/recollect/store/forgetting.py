"""Deletion that is complete: rows, derived notes, index entries, counts, and the bytes they leave in the files.

A deletion is one transaction. After it `Database.scrub` looks after the bytes: in SQLite the full-text index is merged (its
old segments would keep the words), the write-ahead log is truncated, the rows of the vector index are overwritten, and the
file is searched for what was deleted; if anything is found, it is rewritten (`VACUUM`). What a busy reader delays is
remembered in the table `state` and finished at the next chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from recollect.errors import InvalidInput
from recollect.store import lexical
from recollect.store.browse import record
from recollect.store.checks import query_text
from recollect.store.database import TERM_DTYPE, Database
from recollect.store.episodes import Counts
from recollect.store.notes import by_rows, refresh_time, where
from recollect.store.records import Note, Receipt
from recollect.store.views import Filter


def delete(db: Database, seqs: Sequence[int], notes: Sequence[int] = (), *, scrub: bool = True) -> dict[str, Any]:
    """Delete episodes, everything derived only from them, and the given notes; returns what went, for the receipt.

    Of the notes that rest on other episodes too, those that each source alone carries stay; those that had taken the place
    of older notes go as well, which brings the older ones back; the rest are flagged.
    scrub: whether the bytes in the file's free space are to be looked after too (`Database.scrub`).
    """
    with db.transaction():
        doomed = db.rows_in(
            "SELECT e.seq, e.id, e.text, e.terms, s.user, e.speaker, e.source_id, e.meta, s.name, u.name "
            "FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE e.seq IN ({})",
            seqs,
        )
        gone = {row[0] for row in doomed}
        touched = sorted({row[0] for row in db.rows_in("SELECT note FROM note_sources WHERE episode IN ({})", gone)})
        survivors: set[int] = set()
        for note, episode in db.rows_in("SELECT note, episode FROM note_sources WHERE note IN ({})", touched):
            if episode not in gone:
                survivors.add(note)
        survivors -= set(notes)
        carried = dict(db.rows_in("SELECT seq, id FROM notes WHERE any_source = 1 AND seq IN ({})", survivors))
        survivors -= set(carried)
        survivors -= {
            row[0] for row in db.rows_in("SELECT replaced_by FROM notes WHERE replaced_by IN ({})", survivors)
        }
        notes = sorted(set(notes) | (set(touched) - survivors - set(carried)))
        note_rows = db.rows_in(
            "SELECT n.seq, n.id, n.text, n.key, n.meta, s.user FROM notes n JOIN sessions s ON s.ref = n.session "
            "WHERE n.seq IN ({})",
            notes,
        )
        flagged = db.rows_in("SELECT seq, id FROM notes WHERE seq IN ({})", survivors)
        ids = [row[1] for row in doomed] + [row[1] for row in note_rows]
        chunks = [
            row[0]
            for row in db.rows_in("SELECT id FROM chunks WHERE episode IN ({})", gone)
            + db.rows_in("SELECT id FROM chunks WHERE note IN ({})", notes)
        ]
        embedded = db.rows_in("SELECT chunk, tokens IS NOT NULL FROM embeddings WHERE chunk IN ({})", chunks)
        num_links = len(
            {
                row
                for end in ("source", "target")
                for row in db.rows_in(f"SELECT source, target, relation, method FROM links WHERE {end} IN ({{}})", ids)
            }
        )
        counts = Counts()
        for _, _, _, terms, user, speaker, *_ in doomed:
            counts.take(user, np.frombuffer(terms, TERM_DTYPE), speaker)
        counts.write(db, sign=-1)
        db.texts.delete("episodes", [(row[0], row[2], row[4]) for row in doomed])
        db.texts.delete("notes", [(row[0], row[3] or row[2], row[5]) for row in note_rows])
        db.run_many("DELETE FROM links WHERE source = ?", ((id_,) for id_ in ids))
        db.run_many("DELETE FROM links WHERE target = ?", ((id_,) for id_ in ids))
        db.run_many("DELETE FROM note_sources WHERE episode = ?", ((seq,) for seq in gone))
        db.run_many("UPDATE notes SET stale = 1 WHERE seq = ?", ((seq,) for seq in survivors))
        db.run_many("DELETE FROM notes WHERE seq = ?", ((seq,) for seq in notes))
        for id_ in carried.values():
            refresh_time(db, id_)
        db.run_many("DELETE FROM episodes WHERE seq = ?", ((seq,) for seq in gone))
        db.run(
            "DELETE FROM sessions WHERE NOT EXISTS (SELECT 1 FROM episodes e WHERE e.session = sessions.ref) "
            "AND NOT EXISTS (SELECT 1 FROM notes n WHERE n.session = sessions.ref)"
        )
        db.run(
            "DELETE FROM users WHERE NOT EXISTS (SELECT 1 FROM sessions s WHERE s.user = users.ref) "
            "AND NOT EXISTS (SELECT 1 FROM links l WHERE l.user = users.ref)"
        )
        db.bump_epoch()
        db.run_many("INSERT INTO erasing VALUES (?) ON CONFLICT DO NOTHING", ((chunk,) for chunk in chunks))
        if scrub:
            db.set_state("scrub", "1")
        names = {name for row in doomed for name in (row[5], row[8], row[9]) if name} - _names(db)
    return {
        "episodes": [row[1] for row in doomed],
        "notes": [row[1] for row in note_rows],
        "flagged": [row[1] for row in flagged],
        "num_links": num_links,
        "num_vectors": len(embedded),
        "num_token_vectors": sum(row[1] for row in embedded),
        "num_index_entries": len(doomed) + len(note_rows),
        "traces": [text for row in doomed for text in (row[2], row[6], row[7]) if text]
        + [text for row in note_rows for text in row[2:5] if text]
        + sorted(names),
    }


def _names(db: Database) -> set[str]:
    """The names of users, sessions and speakers that are still in use."""
    return {
        row[0]
        for row in db.rows("SELECT name FROM users UNION SELECT name FROM sessions UNION SELECT speaker FROM speakers")
    }


def chosen(
    db: Database, filter_: Filter, ids: str | Iterable[str] | None, query: str | None, *, with_notes: bool
) -> tuple[list[int], list[int]]:
    """(episode rows, note rows) to delete: those with these ids, or that hold all words of a query, or all of the filter's.

    with_notes: whether all of the filter's notes go too. Raises NotFound for an id that is not there, InvalidInput for a query
    without words.
    """
    if ids is not None:
        found: dict[str, list[int]] = {"episodes": [], "notes": []}
        for id_ in dict.fromkeys([ids] if isinstance(ids, str) else ids):
            table = "notes" if isinstance(record(db, filter_, id_), Note) else "episodes"
            found[table].append(db.rows(f"SELECT seq FROM {table} WHERE id = ?", (id_,))[0][0])
        return found["episodes"], found["notes"]
    if query is not None:
        if not lexical.fts_query(query_text(query)):
            raise InvalidInput("query: holds no words to look for.")
        return db.texts.search_all(query_text(query), filter_), []
    return [seq for seq, _ in db.episodes_where(filter_)], list(where(db, filter_)) if with_notes else []


def foretold(db: Database, seqs: Sequence[int], note_rows: Sequence[int]) -> Receipt:
    """What a deletion of these rows would name."""
    found = db.episodes(seqs)
    gone = {
        "episodes": [found[seq].id for seq in seqs if seq in found],
        "notes": [note.id for note in by_rows(db, note_rows).values()],
    }
    return receipt(gone, [])


def receipt(gone: Mapping[str, Any], files: Sequence[str], complete: bool = True) -> Receipt:
    """The receipt of what `delete` returned, of the index files that were changed, and whether all bytes are gone."""
    return Receipt(
        episodes=tuple(gone["episodes"]),
        notes=tuple(gone["notes"]),
        flagged_notes=tuple(gone.get("flagged", ())),
        num_links=gone.get("num_links", 0),
        num_vectors=gone.get("num_vectors", 0),
        num_token_vectors=gone.get("num_token_vectors", 0),
        num_index_entries=gone.get("num_index_entries", 0),
        index_files=tuple(files),
        at=datetime.now(UTC).astimezone(),
        complete=complete,
    )
