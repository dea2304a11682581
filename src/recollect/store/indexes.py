"""What a backend's indexes can do: full-text search over episodes and notes, and search among vectors.

Both are caches beside the records. `fulltext.py` and `vectors.py` are those of SQLite, `postgres_text.py` and
`postgres_vectors.py` those of PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from recollect.store.views import Filter, View


class TextIndex(Protocol):
    """Full-text search over episodes and notes, confined to a user. Tables are "episodes" and "notes"."""

    def search(self, text: str, filter_: Filter, limit: int) -> list[int]:
        """Rows of the episodes that match any word of a text and that the filter lets through, best first."""
        ...

    def search_notes(self, text: str, view: View, limit: int) -> list[int]:
        """Rows of the notes of a view whose key matches any word of a text, best first."""
        ...

    def search_all(self, text: str, filter_: Filter) -> list[int]:
        """Rows of the episodes that hold every word of a text, common words aside, in order of writing."""
        ...

    def insert(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Take up texts: (row, text, row of the user)."""
        ...

    def delete(self, table: str, texts: Sequence[tuple[int, str, int]]) -> None:
        """Let go of texts that are about to be deleted."""
        ...

    def num_broken(self, table: str) -> int:
        """How many entries disagree with the texts, or 1 where that cannot be counted."""
        ...

    def rebuild(self, table: str) -> None:
        """Write all entries anew from the texts."""
        ...


class Vectors(Protocol):
    """The vectors of one database and embedder, as the engine searches them. Ids are those of chunks."""

    def sync(self, last_id: int, fetch: Callable[[int, int], Iterable[tuple[np.ndarray, np.ndarray]]]) -> int:
        """Take up what is missing up to `last_id`; how many."""
        ...

    def search(self, query: np.ndarray, k: int, *, allowed: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The k best (ids int64, cosines float32), best first, of those that `Database.allowed_chunks` gave, or of ids."""
        ...

    def get(self, ids: Iterable[int]) -> np.ndarray:
        """The vectors of ids, float32 (n, D); zeros for an id that is not there."""
        ...

    def erase(self, ids: Iterable[int]) -> list[str]:
        """Overwrite what was deleted; the files that were changed."""
        ...

    def drop(self) -> None:
        """Remove what can be made again; the next `sync` makes it."""
        ...

    def num_unlinked(self, count: int) -> int:
        """How many of `count` vectors the approximate index lacks; 0 when they are too few to matter."""
        ...

    def build_approximate(self, progress: Callable[[int], None] | None = None) -> bool:
        """Make or extend the approximate index where one is of use."""
        ...

    @property
    def approximate(self) -> bool:
        """Whether a search over everything goes through the approximate index."""
        ...

    @property
    def note(self) -> str | None:
        """What would make searching faster, as a sentence; None when nothing would."""
        ...

    def size_bytes(self) -> int:
        """Bytes that the index takes."""
        ...

    def verify(self, last_id: int, fetch: Callable[[int, int], Iterable[tuple[np.ndarray, np.ndarray]]]) -> np.ndarray:
        """The ids that disagree with the database."""
        ...
