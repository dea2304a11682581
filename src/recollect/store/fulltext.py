"""Full-text search over episodes and notes: SQLite's FTS5, kept quick when a word stands in very many of them.

FTS5 ranks every match before it gives the best, at some 2 microseconds each. Where a query's words have more than
EXACT_POSTINGS occurrences together, only the rows of each word are read, the rarest words first and at most MAX_POSTINGS in
all; rows are ordered by the summed inverse document frequency of the words that they hold, which for texts of a sentence or
two is BM25 without its corrections for length and repetition. Ranking weighs words exactly again.

Each row also holds the token of its user, so that the matches of one user are found without reading those of others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recollect.store import lexical, notes
from recollect.store.sqlite import Database, Filter

EXACT_POSTINGS = 4_000
MAX_POSTINGS = 20_000


def search(db: Database, text: str, filter_: Filter, limit: int) -> list[int]:
    """Rows of the episodes that match any word of a text and that the filter lets through, best first, at most `limit`."""
    match, owner = lexical.fts_query(text), _owner(db, filter_.user)
    if not match or owner is None:
        return []
    words = match.split(" OR ")
    if filter_.whole_user:
        ids = {word: lexical.term_id(stem) for word in words for stem in lexical.terms(word)[:1]}
        counts = db.document_frequency(filter_.user, ids.values())
        common = {word: counts.get(ids[word], 0) if word in ids else 0 for word in words}
        if sum(common.values()) > EXACT_POSTINGS:
            return _by_coverage(db, common, owner, limit)
        return [row[0] for row in db.rows(_EXACT, (f"{owner}text: ({match})", limit))]
    where, values = filter_.sql("e")
    return [
        row[0] for row in db.rows(_JOINED.format("episodes", "e", where), [f"{owner}text: ({match})", *values, limit])
    ]


def search_notes(db: Database, text: str, view: notes.View, limit: int) -> list[int]:
    """Rows of the notes of a view whose key matches any word of a text, best first by BM25, at most `limit`."""
    match, owner = lexical.fts_query(text), _owner(db, view.filter.user)
    if not match or owner is None:
        return []
    where, values = view.sql()
    return [row[0] for row in db.rows(_JOINED.format("notes", "n", where), [f"{owner}text: ({match})", *values, limit])]


def _owner(db: Database, user: str) -> str | None:
    """What narrows a full-text expression to one user: "" where there is no other; None for a user without records."""
    found = db.rows("SELECT ref FROM users WHERE name = ?", (user,))
    if not found:
        return None
    return "" if db.only_user() == user else f'owner: "u{found[0][0]}" AND '


_EXACT = "SELECT rowid FROM episodes_fts WHERE episodes_fts MATCH ? ORDER BY rank LIMIT ?"
_JOINED = (
    "SELECT f.rowid FROM {0}_fts f CROSS JOIN {0} {1} ON {1}.seq = f.rowid JOIN sessions s ON s.ref = {1}.session "
    "JOIN users u ON u.ref = s.user WHERE {0}_fts MATCH ? AND {2} ORDER BY f.rank LIMIT ?"
)


def _by_coverage(db: Database, common: dict[str, int], owner: str, limit: int) -> list[int]:
    """The rows with the largest sum of their words' inverse document frequencies; newer ones first among equals."""
    total = db.rows("SELECT coalesce(max(seq), 0) FROM episodes")[0][0]
    epoch = int(db.get_state("epoch") or 0)
    scores = np.zeros(total + 1, np.float32)
    held: list[np.ndarray] = []
    read = 0
    for word in sorted(common, key=lambda word: common[word]):
        if read and read + common[word] > MAX_POSTINGS:
            break
        places = _postings(db, f"{owner}text: {word}", epoch)
        held.append(places[scores[places] == 0])
        scores[places] += np.float32(np.log1p(total / (1 + len(places))))
        read += len(places)
    rows = np.concatenate(held)
    found = scores[rows]
    if len(rows) > limit:
        rows = rows[found >= -np.partition(-found, limit - 1)[limit - 1]]
    return rows[np.lexsort((-rows, -scores[rows]))][:limit].tolist()


def _postings(db: Database, match: str, epoch: int) -> np.ndarray:
    """The rows of the episodes that match, ascending, int64 (N,). Kept for the last 64 matches."""

    def read(last: int) -> np.ndarray:
        sql = "SELECT group_concat(rowid) FROM episodes_fts WHERE episodes_fts MATCH ? AND rowid > ?"
        return np.fromstring(db.rows(sql, (match, last))[0][0] or "", np.int64, sep=",")

    return db.postings.get(match, epoch, read)


def phrase_of_all(text: str) -> str:
    """An expression for the rows that hold every word of a text, common words aside; empty when there are none."""
    return lexical.fts_query(text).replace(" OR ", " AND ")


def search_all(db: Database, text: str, filter_: Filter) -> list[int]:
    """Rows of the episodes that hold every word of a text, in order of writing."""
    where, values = filter_.sql("e")
    rows: Sequence[tuple] = db.rows(
        "SELECT f.rowid FROM episodes_fts f CROSS JOIN episodes e ON e.seq = f.rowid JOIN sessions s ON s.ref = e.session "
        f"JOIN users u ON u.ref = s.user WHERE episodes_fts MATCH ? AND {where} ORDER BY f.rowid",
        [f"text: ({phrase_of_all(text)})", *values],
    )
    return [row[0] for row in rows]
