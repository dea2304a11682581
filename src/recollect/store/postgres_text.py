"""Full-text search in PostgreSQL: stems in a tsvector with a GIN index, ranked by BM25 over the user's own counts.

The stems are `lexical.py`'s, those of common words among them, so that the same words match as in SQLite; each entry also
holds a token of its owner, so that GIN never reads the matches of other users. What matches is ranked here from the hashed
terms that are kept with every text, with the counts of the user's own episodes. Where a query's words stand in very many
texts, the rarest are looked for, as in `fulltext.py`.

BM25 as in `lexical.py`, k1 = 1.2, b = 0.75. Shapes: N matching rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import log
from typing import TYPE_CHECKING

import numpy as np

from recollect.store import fulltext, lexical
from recollect.store.database import TERM_DTYPE
from recollect.store.views import Filter

if TYPE_CHECKING:
    from recollect.store.postgres import PostgresDatabase
    from recollect.store.views import View

K1, B = 1.2, 0.75
MAX_WORD_BYTES = 900_000  # of one text's stems; PostgreSQL keeps 1 MB of them
_SOURCE = {"episodes": "text", "notes": "coalesce(key, text)"}
_BATCH = 2000


class WordIndex:
    """The words of every episode and note of a database in PostgreSQL."""

    def __init__(self, db: PostgresDatabase):
        self._db = db

    def search(self, text: str, filter_: Filter, limit: int) -> list[int]:
        """Rows of the episodes that match any word of a text and that the filter lets through, best first, at most `limit`."""
        db, words, owner = self._db, _asked(text), self._owner(filter_.user)
        if not words or owner is None:
            return []
        ids = {word: lexical.term_id(word) for word in words}
        counts = db.document_frequency(filter_.user, ids.values())
        common = {word: counts.get(ids[word], 0) for word in words}
        if filter_.whole_user and sum(common.values()) > fulltext.EXACT_POSTINGS:
            return fulltext.by_coverage(db, common, lambda word: self._postings(owner, word), limit)
        where, values = filter_.sql("e")
        found = self._matching("episodes", "e", owner, fulltext.rarest(common), where, values)
        num_texts, num_terms = db.rows("SELECT num_episodes, num_terms FROM users WHERE name = ?", (filter_.user,))[0]
        weights = {
            id_: log(1 + (num_texts - counts.get(id_, 0) + 0.5) / (counts.get(id_, 0) + 0.5)) for id_ in ids.values()
        }
        return _ranked(found, weights, num_terms / max(num_texts, 1), limit)

    def search_notes(self, text: str, view: View, limit: int) -> list[int]:
        """Rows of the notes of a view whose key matches any word of a text, best first by BM25, at most `limit`."""
        words, owner = _asked(text), self._owner(view.filter.user)
        if not words or owner is None:
            return []
        where, values = view.sql()
        found = self._matching("notes", "n", owner, words, where, values)
        ids = [lexical.term_id(word) for word in words]
        num_texts, mean = self._db.rows(
            "SELECT count(*), coalesce(avg(length(terms)), 0)::double precision / 4 FROM notes n "
            f"JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user WHERE {where}",
            values,
        )[0]
        held = [set(np.frombuffer(terms, TERM_DTYPE).tolist()) for _, terms in found]
        counts = {id_: sum(id_ in terms for terms in held) for id_ in ids}
        weights = {id_: log(1 + (num_texts - n + 0.5) / (n + 0.5)) for id_, n in counts.items()}
        return _ranked(found, weights, mean, limit)

    def search_all(self, text: str, filter_: Filter) -> list[int]:
        """Rows of the episodes that hold every word of a text, in order of writing."""
        words, owner = _asked(text), self._owner(filter_.user)
        if not words or owner is None:
            return []
        where, values = filter_.sql("e")
        rows = self._db.rows(
            _JOINED.format("episodes", "e", "e.seq", where) + " ORDER BY e.seq", [_query(owner, words, " & "), *values]
        )
        return [row[0] for row in rows]

    def insert(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Take up texts: (row, text, row of the user)."""
        self._db.run_many(
            f"INSERT INTO {table}_words VALUES (?, ?, ?::tsvector)",
            ((seq, user, _entry(text, user)) for seq, text, user in texts),
        )

    def delete(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Nothing: the words of a text go with its row."""

    def num_broken(self, table: str) -> int:
        """How many entries disagree with the texts."""
        kept = dict(self._db.rows(f"SELECT seq, words::text FROM {table}_words"))
        broken = 0
        for rows in self._texts(table):
            made = [_entry(text, user) for _, text, user in rows]
            wanted = self._db.rows("SELECT w::tsvector::text FROM unnest(?::text[]) w", (made,))
            broken += sum(kept.get(row[0]) != entry[0] for row, entry in zip(rows, wanted, strict=True))
        return broken

    def rebuild(self, table: str) -> None:
        """Write all entries anew from the texts."""
        with self._db.transaction():
            self._db.run(f"DELETE FROM {table}_words")
            for rows in self._texts(table):
                self.insert(table, rows)

    def _texts(self, table: str) -> Iterator[list[tuple[int, str, int]]]:
        last = 0
        while rows := self._db.rows(
            f"SELECT seq, {_SOURCE[table]}, owner FROM {table} WHERE seq > ? ORDER BY seq LIMIT {_BATCH}", (last,)
        ):
            yield rows  # type: ignore[misc]
            last = rows[-1][0]

    def _owner(self, user: str) -> int | None:
        """The row of a user; None for a user without records."""
        found = self._db.rows("SELECT ref FROM users WHERE name = ?", (user,))
        return found[0][0] if found else None

    def _matching(
        self, table: str, alias: str, owner: int, words: Sequence[str], where: str, values: Sequence
    ) -> list[tuple[int, bytes]]:
        """(row, hashed terms) of what holds any of the words, newest first."""
        sql = _JOINED.format(table, alias, f"{alias}.seq, {alias}.terms", where)
        return self._db.rows(  # type: ignore[return-value]
            f"{sql} ORDER BY {alias}.seq DESC LIMIT ?", [_query(owner, words, " | "), *values, fulltext.MAX_POSTINGS]
        )

    def _postings(self, owner: int, word: str) -> np.ndarray:
        """The rows of the episodes that hold a word, ascending, int64 (N,). Kept for the last 64 words."""

        def read(last: int) -> np.ndarray:
            rows = self._db.rows(
                "SELECT seq FROM episodes_words WHERE words @@ ?::tsquery AND seq > ? ORDER BY seq",
                (_query(owner, [word], " & "), last),
            )
            return np.fromiter((row[0] for row in rows), np.int64, len(rows))

        return self._db.postings.get((owner, word), int(self._db.get_state("epoch") or 0), read)


_JOINED = (
    "SELECT {2} FROM {0}_words w JOIN {0} {1} ON {1}.seq = w.seq JOIN sessions s ON s.ref = {1}.session "
    "JOIN users u ON u.ref = s.user WHERE w.words @@ ?::tsquery AND {3}"
)


def _asked(text: str) -> list[str]:
    """The distinct stems that a query looks for: those of `lexical.fts_query`'s words."""
    return list(dict.fromkeys(lexical.stems(" ".join(re.findall(r'"([^"]+)"', lexical.fts_query(text))))))


def _entry(text: str, owner: int) -> str:
    """The words of a text as a tsvector is written."""
    kept, size = [], 0
    for word in dict.fromkeys(lexical.stems(text)):
        size += len(word.encode())
        if size > MAX_WORD_BYTES:
            break
        kept.append(f"'{word}'")
    return " ".join([f"'u:{owner}'", *kept])


def _query(owner: int, words: Sequence[str], joined: str) -> str:
    """Words of one user as a tsquery is written. A stem holds letters and digits only."""
    quoted = joined.join(f"'{word}'" for word in words)
    return f"'u:{owner}' & ({quoted})"


def _ranked(found: Sequence[tuple[int, bytes]], weights: dict[int, float], mean: float, limit: int) -> list[int]:
    """Rows by BM25, best first; newer ones first among equals."""
    if not found:
        return []
    terms = [np.frombuffer(row[1], TERM_DTYPE) for row in found]
    lengths = np.array([len(part) for part in terms], np.float64)  # (N,)
    joined = np.concatenate(terms)
    owner = np.repeat(np.arange(len(terms)), lengths.astype(np.int64))
    norms = K1 * (1 - B + B * lengths / max(mean, 1e-9))
    scores = np.zeros(len(terms))
    for id_, weight in weights.items():
        number = np.bincount(owner[joined == id_], minlength=len(terms))
        scores += weight * number * (K1 + 1) / (number + norms)
    seqs = np.array([row[0] for row in found], np.int64)
    return seqs[np.lexsort((-seqs, -scores))][:limit].tolist()
