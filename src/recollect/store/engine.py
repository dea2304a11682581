"""The engine under every method: writes episodes and notes with their embeddings, and finds candidates for a query.

What a method ranks comes from the first stage (`first_stage.py`), in one snapshot of the database whose vectors are all in the
index.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

import numpy as np

from recollect.errors import Conflict, RecollectError, StorageFailed, Unavailable
from recollect.store import episodes, first_stage, late, lexical, notes, shape
from recollect.store.database import VECTOR_DTYPE, Chunk, Growing, open_database
from recollect.store.embedders import Embedder, make_embedder
from recollect.store.episodes import NewEpisode
from recollect.store.first_stage import MAX_CHUNKS_SCORED, Pool
from recollect.store.fusion import Query, without_names
from recollect.store.indexes import Vectors
from recollect.store.method import Request
from recollect.store.notes import NewNote
from recollect.store.views import Filter, View

GRAPH_RATE = 20  # rows that the approximate index takes up in the time in which one text is embedded
MAX_QUERY_CHUNKS = 8  # of a query longer than the encoder reads


class Engine:
    """A database, the embedder that made its vectors, and the vector index beside it."""

    def __init__(self, path: str | os.PathLike[str], embedder: str | Embedder | None = None, user: str | None = None):
        """user: whose records are read and written; None for all. Raises as `recollect.open` does."""
        self.db = open_database(path)
        if user is not None:
            self.db.bind(user)
        self._note_chunks = Growing(8)
        try:
            self.embedder = self._choose_embedder(embedder)
            self.index = self._open_index()
            self.finish_erasing()
        except BaseException:
            self.close()
            raise

    def _choose_embedder(self, wanted: str | Embedder | None) -> Embedder:
        """The embedder that the database remembers; a new database takes the wanted one, or the best that is installed."""
        kept = self.db.get_state("embedder")
        if kept is None:
            embedder = make_embedder(wanted)
            if not self.db.read_only:
                with self.db.everyone(), self.db.transaction():
                    if self.db.get_state("embedder") is None:
                        self.db.set_state("embedder", embedder.name)
                        self.db.set_state("embedder_spec", wanted if isinstance(wanted, str) else embedder.name)
            return embedder
        spec = self.db.get_state("embedder_spec") or kept
        embedder = make_embedder(wanted if wanted is not None else spec)
        if embedder.name != kept:
            raise Conflict(
                f"embedder: this database's vectors were made by {kept!r}, not {embedder.name!r}; open it without naming an "
                f"embedder, or change it with `recollect reindex --embedder {wanted or spec}`."
            )
        return embedder

    def _open_index(self) -> Vectors:
        self._generation = self.db.get_state("generation")
        return self.db.open_index(self.embedder.name, self.embedder.dim)

    def close(self) -> None:
        """Finish what is left of a deletion, then close the files."""
        with suppress(RecollectError, AttributeError):
            if not self.db.read_only and self.db.get_state("scrub"):
                self.db.scrub(None)
        self.db.close()

    # Writing

    def write(self, items: Sequence[NewEpisode]) -> int:
        """Embed and store new episodes in one transaction; the number of those that were not there yet.

        When the embedder fails they are stored without vectors, and `fill_missing_vectors` makes them later.
        """
        while True:
            self.follow_embedder()
            self._prepare(items)
            with self.db.transaction():
                if self._is_current():
                    return episodes.insert(self.db, items)

    def follow_embedder(self) -> None:
        """Take up the embedder and the numbering of chunks that another process may have changed the database to."""
        if self._is_current():
            return
        kept = self.db.get_state("embedder")
        same = kept in (None, self.embedder.name)
        self.use(self.embedder if same else make_embedder(self.db.get_state("embedder_spec") or kept))

    def _is_current(self) -> bool:
        kept = self.db.get_state("embedder")
        return kept in (None, self.embedder.name) and self.db.get_state("generation") == self._generation

    def use(self, embedder: Embedder) -> None:
        """Take up an embedder, with an index of its own."""
        self.embedder = embedder
        self.index = self._open_index()

    def _prepare(self, items: Sequence[NewEpisode]) -> None:
        for item in items:
            item.chunks = [Chunk(first, last) for first, last in self.embedder.split(item.episode.text)]
            item.shape = shape.shape(item.episode.text)
        pairs = [(chunk, item.episode.text) for item in items for chunk in item.chunks]
        try:
            embed_chunks(self.embedder, pairs)
        except Unavailable as error:
            warnings.warn(f"stored without vectors, `recollect reindex` makes them later: {error}", stacklevel=4)

    def embed_text(self, text: str) -> list[Chunk]:
        """The chunks of a text with their embeddings."""
        chunks = [Chunk(first, last) for first, last in self.embedder.split(text)]
        embed_chunks(self.embedder, [(chunk, text) for chunk in chunks])
        return chunks

    @contextmanager
    def writing_notes(self, items: Sequence[NewNote], *, tokens: bool = False) -> Iterator[None]:
        """A transaction in which these notes can be written; their chunks are embedded before it.

        tokens: whether token vectors are kept too, as for notes that the default method ranks among the episodes.
        """
        self.follow_embedder()
        self._embed_notes(items, tokens)
        with self.db.transaction():
            if not self._is_current():
                self.follow_embedder()
                self._embed_notes(items, tokens)
            yield

    def embed_notes(self, items: Sequence[NewNote]) -> np.ndarray:
        """Unit vectors float32 (n, D) of notes that a draft is to hold; they are kept with them and not made again."""
        self.follow_embedder()
        self._embed_notes(items, tokens=False)
        vectors = np.zeros((len(items), self.embedder.dim), np.float32)
        for row, item in zip(vectors, items, strict=True):
            for chunk in item.chunks:
                if chunk.vector is not None:
                    row += np.frombuffer(chunk.vector, VECTOR_DTYPE)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def _embed_notes(self, items: Sequence[NewNote], tokens: bool) -> None:
        """Fill in the chunks of notes, but for those that `embed_notes` has given vectors of this embedder."""
        pairs = []
        for item in items:
            if item.embedded_by == self.embedder.name and not tokens:
                continue
            text = item.note.key or item.note.text
            item.chunks = [Chunk(first, last) for first, last in self.embedder.split(text)]
            pairs += [(chunk, text) for chunk in item.chunks]
        try:
            embed_chunks(self.embedder, pairs)
        except Unavailable as error:
            warnings.warn(f"stored without vectors, `recollect reindex` makes them later: {error}", stacklevel=4)
            return
        if not tokens:
            for chunk, _ in pairs:
                chunk.tokens = None
            for item in items:
                item.embedded_by = self.embedder.name

    def embed(self, texts: Sequence[str], kind: Literal["document", "query"] = "document") -> np.ndarray:
        """Unit vectors float32 (n, D) of texts; a text longer than the encoder reads gets the mean of its passages."""
        spans = [self.embedder.split(text)[:MAX_CHUNKS_SCORED] or [(0, len(text))] for text in texts]
        passages = [text[first:last] for text, parts in zip(texts, spans, strict=True) for first, last in parts]
        if not passages:
            return np.zeros((0, self.embedder.dim), np.float32)
        vectors = np.asarray(self.embedder.embed(passages, kind).vectors, np.float32)
        starts = np.cumsum([0, *(len(parts) for parts in spans[:-1])])
        sums = np.add.reduceat(vectors, starts, axis=0)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)

    def num_missing_vectors(self) -> int:
        """Chunks that have no embedding yet."""
        return self.db.rows("SELECT count(*) FROM chunks WHERE id NOT IN (SELECT chunk FROM embeddings)")[0][0]

    def fill_missing_vectors(self) -> Iterator[int]:
        """Embed the chunks that have no vector, 256 at a time; yields how many were done each time."""
        filled = False
        while True:
            rows = self.db.rows(
                "SELECT c.id, c.first, c.last, coalesce(e.text, n.key, n.text) FROM chunks c LEFT JOIN episodes e ON e.seq = c.episode "
                "LEFT JOIN notes n ON n.seq = c.note WHERE c.id NOT IN (SELECT chunk FROM embeddings) LIMIT 256"
            )
            if not rows:
                break
            chunks = [Chunk(first, last) for _, first, last, _ in rows]
            embed_chunks(self.embedder, [(chunk, row[3]) for chunk, row in zip(chunks, rows, strict=True)])
            self.db.run_many(
                "INSERT INTO embeddings SELECT id, ?, ? FROM chunks WHERE id = ? ON CONFLICT DO NOTHING",
                (
                    (self.db.as_vector(chunk.vector), chunk.tokens, row[0])
                    for row, chunk in zip(rows, chunks, strict=True)
                    if chunk.vector is not None
                ),
            )
            filled = True
            yield len(rows)
        if filled:
            self.index.drop()  # rows that it had passed over as empty have vectors now

    def finish_erasing(self) -> list[str]:
        """Overwrite, in the index files, the rows that a deletion has listed; the files that were changed."""
        pending = [] if self.db.read_only else self.db.rows("SELECT chunk FROM erasing")
        if not pending:
            return []
        files = self.index.erase(chunk for (chunk,) in pending)
        with self.db.transaction():
            self.db.run_many("DELETE FROM erasing WHERE chunk = ?", pending)
        return files

    # Finding

    def sync_index(self) -> None:
        """Append to the vector index what was written since."""
        self.index.sync(self.db.last_chunk(), self.db.fetch_vectors)

    def tend_index(self, num_added: int) -> None:
        """After many writes at once: bring a large vector index up to date, its approximate part too where it lags behind.

        Done only when it takes no longer than about embedding what was added did, so that no short call waits for it, nor
        does any recall. What was added is stored whether or not the index can be written.
        """
        if 0 < self.index.num_unlinked(self.db.last_chunk()) <= num_added * GRAPH_RATE:
            with suppress(StorageFailed):
                self.sync_index()
                self.index.build_approximate()

    def embed_query(self, text: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """(vector (D,), token vectors (T, 384) or None, token ids (T,) or None) of a query of any length."""
        spans = self.embedder.split(text)[:MAX_QUERY_CHUNKS]
        embeddings = self.embedder.embed([text[first:last] for first, last in spans], "query")
        vector = embeddings.vectors.sum(axis=0)
        vector = vector / max(float(np.linalg.norm(vector)), 1e-9)
        tokens = embeddings.tokens[0] if embeddings.tokens is not None else None
        token_ids = embeddings.token_ids[0] if embeddings.token_ids is not None else None
        return vector.astype(np.float32), tokens, token_ids

    def query_vector(self, text: str, user: str) -> np.ndarray:
        """The unit vector float32 (D,) of a query without the names of those who speak.

        In a conversation the one who says a name is usually the other one, so that names only mislead a search by meaning.
        """
        bare, _ = without_names(text, self.speakers(user))
        return self.embed_query(bare)[0]

    def query(self, request: Request, window: Filter | None = None) -> Query:
        """What ranking needs to know about a request."""
        user = request.filter.user
        speakers = self.speakers(user)
        bare, _ = without_names(request.text, speakers)
        vector, tokens, token_ids = self.embed_query(bare)
        terms = sorted(set(lexical.term_ids(request.text).tolist()))
        return Query(
            text=request.text,
            at=request.asked_at.timestamp(),
            vector=vector,
            tokens=tokens,
            token_ids=token_ids,
            document_frequency=self.db.document_frequency(user, terms),
            num_documents=self.db.num_episodes(user),
            speakers=speakers,
            window=None if window is None else (_seconds(window.after, -np.inf), _seconds(window.before, np.inf)),
        )

    def speakers(self, user: str) -> list[str]:
        """The names that spoke in a user's episodes, at most 1,000."""
        return [
            row[0]
            for row in self.db.rows(
                "SELECT speaker FROM speakers p JOIN users u ON u.ref = p.user WHERE u.name = ? LIMIT 1000", (user,)
            )
        ]

    def note_chunks(self, view: View) -> np.ndarray:
        """Sorted chunk ids of the notes of a view; kept for the last views and extended by what was added since."""
        epoch = int(self.db.get_state("epoch") or 0)
        return self._note_chunks.get(view, epoch, lambda last: notes.chunk_ids(self.db, view, last))

    def pool(self, request: Request, window: Filter | None = None) -> Pool:
        """The first stage and the turns beside it, sorted by (session, position).

        window: a narrower filter, when the query speaks of a time; its best by cosine join the pool.
        """
        with self.reading():
            return first_stage.find(self, self.query(request, window), request, window)

    def nearest_notes(self, vector: np.ndarray, view: View, k: int) -> list[tuple[int, float, int]]:
        """(note row, cosine, chunk) of the k notes of a view nearest to a unit vector (D,), best first, by best passage."""
        with self.reading():
            return first_stage.nearest_notes(self, vector, view, k)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot of the database with a vector index that holds all of it, for a method that searches the index itself."""
        while True:
            self.follow_embedder()
            self.sync_index()
            with self.db.snapshot():
                if self._is_current():
                    yield
                    return

    def spans(self, chunks: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Character spans of chunks."""
        return {
            id_: (first, last)
            for id_, first, last in self.db.rows_in("SELECT id, first, last FROM chunks WHERE id IN ({})", chunks)
        }


def _seconds(micros: int | None, default: float) -> float:
    return default if micros is None else micros / 1e6


def embed_chunks(embedder: Embedder, pairs: Sequence[tuple[Chunk, str]]) -> None:
    """Fill in the embeddings of chunks, each given with the text that it is a passage of."""
    if not pairs:
        return
    embeddings = embedder.embed([text[chunk.first : chunk.last] for chunk, text in pairs], "document")
    vectors = embeddings.vectors.astype(VECTOR_DTYPE)
    for number, (chunk, _) in enumerate(pairs):
        chunk.vector = vectors[number].tobytes()
        if embeddings.tokens is not None:
            chunk.tokens = late.compress(embeddings.tokens[number])
