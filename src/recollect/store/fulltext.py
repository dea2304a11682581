"""Full-text search over episodes and notes: SQLite's FTS5, kept quick when a word stands in very many of them.

FTS5 ranks every match before it gives the best, at some 2 microseconds each. Where a query's words have more than
EXACT_POSTINGS occurrences together, only the rows of each word are read, the rarest words first and at most MAX_POSTINGS in
all; rows are ordered by the summed inverse document frequency of the words that they hold, which for texts of a sentence or
two is BM25 without its corrections for length and repetition. Ranking weighs words exactly again.

Each row also holds the token of its user, so that the matches of one user are found without reading those of others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recollect.errors import StorageFailed
from recollect.store import lexical
from recollect.store.database import Database
from recollect.store.views import Filter

if TYPE_CHECKING:
    from recollect.store.views import View

EXACT_POSTINGS = 4_000
MAX_POSTINGS = 20_000


class Fts5:
    """The full-text index of a database in SQLite."""

    def __init__(self, db: Database):
        self._db = db

    def search(self, text: str, filter_: Filter, limit: int) -> list[int]:
        """Rows of the episodes that match any word of a text and that the filter lets through, best first, at most `limit`."""
        db, match, owner = self._db, lexical.fts_query(text), self._owner(filter_.user)
        if not match or owner is None:
            return []
        words = match.split(" OR ")
        if filter_.whole_user:
            ids = {word: lexical.term_id(stem) for word in words for stem in lexical.terms(word)[:1]}
            counts = db.document_frequency(filter_.user, ids.values())
            common = {word: counts.get(ids[word], 0) if word in ids else 0 for word in words}
            if sum(common.values()) > EXACT_POSTINGS:
                return by_coverage(db, common, lambda word: self._postings(f"{owner}text: {word}"), limit)
            return [row[0] for row in db.rows(_EXACT, (f"{owner}text: ({match})", limit))]
        where, values = filter_.sql("e")
        joined = _JOINED.format("episodes", "e", where)
        return [row[0] for row in db.rows(joined, [f"{owner}text: ({match})", *values, limit])]

    def search_notes(self, text: str, view: View, limit: int) -> list[int]:
        """Rows of the notes of a view whose key matches any word of a text, best first by BM25, at most `limit`."""
        match, owner = lexical.fts_query(text), self._owner(view.filter.user)
        if not match or owner is None:
            return []
        where, values = view.sql()
        joined = _JOINED.format("notes", "n", where)
        return [row[0] for row in self._db.rows(joined, [f"{owner}text: ({match})", *values, limit])]

    def search_all(self, text: str, filter_: Filter) -> list[int]:
        """Rows of the episodes that hold every word of a text, in order of writing."""
        where, values = filter_.sql("e")
        match = lexical.fts_query(text).replace(" OR ", " AND ")
        rows: Sequence[tuple] = self._db.rows(
            "SELECT f.rowid FROM episodes_fts f CROSS JOIN episodes e ON e.seq = f.rowid JOIN sessions s ON s.ref = e.session "
            f"JOIN users u ON u.ref = s.user WHERE episodes_fts MATCH ? AND {where} ORDER BY f.rowid",
            [f"text: ({match})", *values],
        )
        return [row[0] for row in rows]

    def insert(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Take up texts: (row, text, row of the user)."""
        self._db.run_many(
            f"INSERT INTO {table}_fts (rowid, text, owner) VALUES (?, ?, ?)",
            ((seq, text, f"u{user}") for seq, text, user in texts),
        )

    def delete(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Let go of texts that are about to be deleted."""
        self._db.run_many(
            f"INSERT INTO {table}_fts ({table}_fts, rowid, text, owner) VALUES ('delete', ?, ?, ?)",
            ((seq, text, f"u{user}") for seq, text, user in texts),
        )

    def num_broken(self, table: str) -> int:
        """1 when the full-text index disagrees with the texts."""
        try:
            with self._db.transaction():
                self._db.run(f"INSERT INTO {table}_fts ({table}_fts, rank) VALUES ('integrity-check', 1)")
        except StorageFailed as error:
            if isinstance(error.__cause__, sqlite3.DatabaseError) and "malformed" in str(error.__cause__):
                return 1
            raise
        return 0

    def rebuild(self, table: str) -> None:
        """Write the full-text index anew from the texts."""
        with self._db.transaction():
            self._db.run(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")

    def merge(self) -> None:
        """Merge the segments of the index, which drops the words of what was deleted."""
        for table in ("episodes_fts", "notes_fts"):
            self._db.run(f"INSERT INTO {table} ({table}) VALUES ('optimize')")

    def _owner(self, user: str) -> str | None:
        """What narrows an expression to one user: "" where there is no other; None for a user without records."""
        found = self._db.rows("SELECT ref FROM users WHERE name = ?", (user,))
        if not found:
            return None
        return "" if self._db.only_user() == user else f'owner: "u{found[0][0]}" AND '

    def _postings(self, match: str) -> np.ndarray:
        """The rows of the episodes that match, ascending, int64 (N,). Kept for the last 64 matches."""

        def read(last: int) -> np.ndarray:
            sql = "SELECT group_concat(rowid) FROM episodes_fts WHERE episodes_fts MATCH ? AND rowid > ?"
            return np.fromstring(self._db.rows(sql, (match, last))[0][0] or "", np.int64, sep=",")

        return self._db.postings.get(match, int(self._db.get_state("epoch") or 0), read)


_EXACT = "SELECT rowid FROM episodes_fts WHERE episodes_fts MATCH ? ORDER BY rank LIMIT ?"
_JOINED = (
    "SELECT f.rowid FROM {0}_fts f CROSS JOIN {0} {1} ON {1}.seq = f.rowid JOIN sessions s ON s.ref = {1}.session "
    "JOIN users u ON u.ref = s.user WHERE {0}_fts MATCH ? AND {2} ORDER BY f.rank LIMIT ?"
)


def rarest(common: dict[str, int]) -> list[str]:
    """The rarest of some words, given with the number of rows that hold each: those with MAX_POSTINGS rows in all."""
    chosen: list[str] = []
    read = 0
    for word in sorted(common, key=lambda word: common[word]):
        if read and read + common[word] > MAX_POSTINGS:
            break
        chosen.append(word)
        read += common[word]
    return chosen


def by_coverage(db: Database, common: dict[str, int], postings: Callable[[str], np.ndarray], limit: int) -> list[int]:
    """The rows with the largest sum of their words' inverse document frequencies; newer ones first among equals.

    postings: gives the rows that hold a word, ascending, int64 (N,); those that this snapshot does not hold yet, because
    another thread has read on, are passed over.
    """
    total = db.rows("SELECT coalesce(max(seq), 0) FROM episodes")[0][0]
    scores = np.zeros(total + 1, np.float32)
    held: list[np.ndarray] = []
    for word in rarest(common):
        places = postings(word)
        places = places[: np.searchsorted(places, total, side="right")]
        held.append(places[scores[places] == 0])
        scores[places] += np.float32(np.log1p(total / (1 + len(places))))
    rows = np.concatenate(held)
    found = scores[rows]
    if len(rows) > limit:
        rows = rows[found >= -np.partition(-found, limit - 1)[limit - 1]]
    return rows[np.lexsort((-rows, -scores[rows]))][:limit].tolist()
