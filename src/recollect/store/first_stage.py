"""The first stage of a recall: which records a method has to rank, and what it needs to know of each.

It fuses the ranks of the best by BM25 (full-text search), the best by cosine (the vector index) and, when the query speaks of a
time, the best by cosine within it; then come the turns beside each of them in the conversation, and the notes written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from recollect.store import shape
from recollect.store.database import Database
from recollect.store.fusion import Candidates, Query, without_names
from recollect.store.method import Request
from recollect.store.records import EPISODE
from recollect.store.views import BY_HAND, Filter, View

if TYPE_CHECKING:
    from recollect.store.engine import Engine

FIRST_STAGE = 200  # episodes from each of BM25 and cosine
RERANKED = 100  # episodes that go on from there, by reciprocal-rank fusion
RANK_OFFSET = 60  # the usual constant of reciprocal-rank fusion
NEIGHBOURS = 2  # turns on each side of a candidate
MAX_CHUNKS_SCORED = 64  # of one long episode that only BM25 found


@dataclass(frozen=True, slots=True)
class Pool:
    """What the first stage found, for a method to rank."""

    query: Query
    candidates: Candidates
    chunk: np.ndarray  # int64 (N,), each candidate's best chunk; 0 where it has none
    eligible: np.ndarray  # bool (N,), False for a turn that the filter lets in as context only (another speaker's)


def find(engine: Engine, query: Query, request: Request, window: Filter | None) -> Pool:
    """The first stage and the turns beside it, sorted by (session, position); within one snapshot of a synced engine.

    window: a narrower filter, when the query speaks of a time; its best by cosine join the pool.
    """
    kinds, filter_ = request.kinds, request.filter
    chosen: list[int] = []
    found: list[int] = []
    hit_chunks: set[int] = set()
    if kinds is None or EPISODE in kinds:
        bare, _ = without_names(request.text, query.speakers)
        limit = max(FIRST_STAGE, request.k)
        rankings = [engine.db.texts.search(bare, filter_, limit)]
        for view in (filter_,) if window is None else (filter_, window):
            ids, _ = engine.index.search(query.vector, limit, allowed=engine.db.allowed_chunks(view))
            hit_chunks |= set(ids.tolist())
            owner = dict(engine.db.rows_in("SELECT id, episode FROM chunks WHERE id IN ({})", ids.tolist()))
            rankings.append(list(dict.fromkeys(owner[id_] for id_ in ids.tolist() if owner.get(id_))))
        chosen = _fused(rankings)[: max(RERANKED, request.k)]
    if kinds is None or kinds - {EPISODE}:
        found = _by_hand(engine, query, request)
    pool = _load(engine, query, chosen, filter_, found, hit_chunks)
    if filter_.speaker is not None:
        wanted = filter_.speaker.casefold()
        pool.eligible[:] = [name.casefold() == wanted for name in pool.candidates.speaker]
    return pool


def _by_hand(engine: Engine, query: Query, request: Request) -> list[int]:
    """Rows of the notes written by hand to rank: the best by cosine and by BM25."""
    view = View(request.filter, BY_HAND, tuple(sorted((request.kinds or frozenset()) - {EPISODE})))
    if not len(engine.note_chunks(view)):
        return []
    found = {row for row, _, _ in nearest_notes(engine, query.vector, view, FIRST_STAGE)}
    return sorted(found | set(engine.db.texts.search_notes(request.text, view, FIRST_STAGE)))


def nearest_notes(engine: Engine, vector: np.ndarray, view: View, k: int) -> list[tuple[int, float, int]]:
    """(note row, cosine, chunk) of the k notes of a view nearest to a unit vector (D,), best first, by best passage."""
    allowed = engine.note_chunks(view)
    found: dict[int, tuple[float, int]] = {}
    wanted = k
    while True:  # one note may hold several of the best passages
        ids, scores = engine.index.search(vector, wanted, allowed=allowed)
        owner = dict(engine.db.rows_in("SELECT id, note FROM chunks WHERE id IN ({})", ids.tolist()))
        for id_, score in zip(ids.tolist(), scores.tolist(), strict=True):
            if owner.get(id_) is not None:
                found.setdefault(owner[id_], (score, id_))
        if len(found) >= k or len(ids) < wanted or wanted >= len(allowed):
            break
        wanted *= 4
    return [(row, score, chunk) for row, (score, chunk) in list(found.items())[:k]]


def _beside(db: Database, chosen: Sequence[int], filter_: Filter) -> list[tuple]:
    """Rows of the chosen episodes and of the turns within NEIGHBOURS places, seen through the same filter's times."""
    places = sorted(db.rows_in("SELECT session, position FROM episodes WHERE seq IN ({})", chosen))
    spans: list[list[int]] = []
    for session, position in places:
        first, last = position - NEIGHBOURS, position + NEIGHBOURS
        if spans and spans[-1][0] == session and first <= spans[-1][2] + 1:
            spans[-1][2] = last
        else:
            spans.append([session, first, last])
    until = filter_.until if filter_.until is not None else 2**62
    before = filter_.before if filter_.before is not None else 2**62
    after = filter_.after if filter_.after is not None else -(2**62)
    columns = f"e.seq, e.session, e.position, e.at, e.speaker, {shape.SQL}, e.terms"
    rows = db.turns(spans, columns, "e.at <= ? AND e.at < ? AND e.at >= ?", (until, before, after))
    rows = [(*row[:5], shape.read(row[5], row[6]), row[7]) for row in rows]
    return sorted(rows, key=itemgetter(1, 2))


def _load(
    engine: Engine,
    query: Query,
    chosen: Sequence[int],
    filter_: Filter,
    by_hand: Sequence[int],
    hit_chunks: set[int],
) -> Pool:
    """Columns of the candidates, episodes by (session, position), then notes (their rows negated)."""
    rows = _beside(engine.db, chosen, filter_)
    first_stage = set(chosen)
    note_rows = engine.db.rows_in("SELECT seq, at, text, terms FROM notes WHERE seq IN ({})", by_hand)
    rows += [(-seq, -seq, 0, at, None, shape.flags(text), terms) for seq, at, text, terms in sorted(note_rows)]
    n = len(rows)
    seqs, sessions, positions, at, speakers, shapes, terms = zip(*rows, strict=True) if rows else [()] * 7
    chunk_rows = engine.db.rows_in("SELECT id, episode FROM chunks WHERE episode IN ({})", seqs)
    chunk_rows += engine.db.rows_in("SELECT id, -note FROM chunks WHERE note IN ({}) ORDER BY note, id", by_hand)
    ids, owners = _scored(np.array(chunk_rows, np.int64).reshape(-1, 2), np.array(seqs, np.int64), hit_chunks)
    vectors = engine.index.get(ids)
    scores = vectors @ query.vector
    order = np.lexsort((-scores, owners))
    best = order[np.r_[True, np.diff(owners[order]) != 0]] if len(order) else order
    places = owners[best]
    dense = np.zeros(n, np.float32)
    best_vectors = np.zeros((n, engine.embedder.dim), np.float32)
    best_chunk = np.zeros(n, np.int64)
    dense[places], best_vectors[places], best_chunk[places] = scores[best], vectors[best], ids[best]
    tokens: dict[int, bytes | None] = {}
    if engine.embedder.has_tokens:
        tokens = dict(engine.db.rows_in("SELECT chunk, tokens FROM embeddings WHERE chunk IN ({})", ids[best].tolist()))
    candidates = Candidates(
        seq=np.array(seqs, np.int64),
        session=np.array(sessions, np.int64),
        position=np.array(positions, np.int64),
        at=np.array(at, np.float64) / 1e6,
        speaker=[name or "" for name in speakers],
        shape=np.array(shapes, np.uint8),
        dense=dense,
        vectors=best_vectors,
        first_stage=np.array([seq < 0 or seq in first_stage for seq in seqs], bool),
        tokens=[tokens.get(chunk) for chunk in best_chunk.tolist()],
        terms=list(terms),
    )
    return Pool(query, candidates, best_chunk, np.ones(n, bool))


def _scored(rows: np.ndarray, seqs: np.ndarray, hit_chunks: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """(chunk ids (C,), their records' places in `seqs` (C,)): of one record the first MAX_CHUNKS_SCORED and the hits.

    rows: (chunk id, record) (C, 2), those of one record together and in order.
    """
    ids, owners = rows.T
    begins = np.r_[True, np.diff(owners) != 0][: len(ids)]
    number = np.arange(len(ids)) - np.maximum.accumulate(np.where(begins, np.arange(len(ids)), 0))
    kept = number < MAX_CHUNKS_SCORED
    if not kept.all():
        kept |= np.isin(ids, list(hit_chunks))
    by_seq = np.argsort(seqs)
    return ids[kept], by_seq[np.searchsorted(seqs[by_seq], owners[kept])]


def _fused(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Reciprocal-rank fusion of rankings, best first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for place, seq in enumerate(ranking):
            scores[seq] = scores.get(seq, 0.0) + 1 / (RANK_OFFSET + place)
    return sorted(scores, key=lambda seq: (-scores[seq], seq))
