"""Checks and repairs: `verify` finds what does not agree, `reindex` rebuilds every cache from the episodes and notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recollect.errors import StorageFailed
from recollect.store import lexical, shape
from recollect.store.database import TERM_DTYPE, Chunk, Database
from recollect.store.embedders import Embedder, make_embedder
from recollect.store.engine import Engine, embed_chunks
from recollect.store.episodes import Counts
from recollect.store.records import to_json

Progress = Callable[[int], None]
BATCH = 256
_SEARCHED = {"episodes": "text", "notes": "coalesce(key, text)"}  # what a record is found by


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not agree."""

    name: str
    count: int
    repaired: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` looked at and found."""

    checks: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def clean(self) -> bool:
        """True when nothing is left to repair."""
        return all(problem.repaired for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """This report as plain JSON values."""
        return to_json(self) | {"clean": self.clean}


_ORPHANS = {
    "episodes without chunks": (
        "SELECT seq FROM episodes e WHERE NOT EXISTS (SELECT 1 FROM chunks c WHERE c.episode = e.seq)",
        None,
    ),
    "notes without chunks": (
        "SELECT seq FROM notes n WHERE NOT EXISTS (SELECT 1 FROM chunks c WHERE c.note = n.seq)",
        None,
    ),
    "embeddings without a chunk": (
        "SELECT chunk FROM embeddings WHERE chunk NOT IN (SELECT id FROM chunks)",
        "DELETE FROM embeddings WHERE chunk NOT IN (SELECT id FROM chunks)",
    ),
    "chunks without a record": (
        "SELECT id FROM chunks WHERE (episode IS NOT NULL AND episode NOT IN (SELECT seq FROM episodes)) "
        "OR (note IS NOT NULL AND note NOT IN (SELECT seq FROM notes))",
        "DELETE FROM chunks WHERE (episode IS NOT NULL AND episode NOT IN (SELECT seq FROM episodes)) "
        "OR (note IS NOT NULL AND note NOT IN (SELECT seq FROM notes))",
    ),
    "note sources that do not exist": (
        "SELECT note FROM note_sources WHERE episode NOT IN (SELECT seq FROM episodes) OR note NOT IN (SELECT seq FROM notes)",
        "DELETE FROM note_sources WHERE episode NOT IN (SELECT seq FROM episodes) OR note NOT IN (SELECT seq FROM notes)",
    ),
    "links to records that do not exist": (
        "SELECT source FROM links WHERE (source NOT IN (SELECT id FROM episodes) AND source NOT IN (SELECT id FROM notes)) "
        "OR (target NOT IN (SELECT id FROM episodes) AND target NOT IN (SELECT id FROM notes))",
        "DELETE FROM links WHERE (source NOT IN (SELECT id FROM episodes) AND source NOT IN (SELECT id FROM notes)) "
        "OR (target NOT IN (SELECT id FROM episodes) AND target NOT IN (SELECT id FROM notes))",
    ),
    "sessions without records": (
        "SELECT ref FROM sessions WHERE ref NOT IN (SELECT session FROM episodes) AND ref NOT IN (SELECT session FROM notes)",
        "DELETE FROM sessions WHERE ref NOT IN (SELECT session FROM episodes) AND ref NOT IN (SELECT session FROM notes)",
    ),
}


def verify(engine: Engine, repair: bool) -> VerifyReport:
    """Look at every table, index and file; with `repair`, mend what is found."""
    db, problems, checks = engine.db, [], []

    def found(name: str, count: int, mend: Callable[[], Any] | None) -> None:
        checks.append(name)
        if count:
            if repair and mend is not None:
                mend()
            problems.append(Problem(name, count, repair and mend is not None))

    found("damaged pages", db.num_damaged(), None)
    for name, (query, statement) in _ORPHANS.items():
        count = db.rows(f"SELECT count(*) FROM ({query}) found")[0][0]
        found(name, count, (lambda sql=statement: db.run(sql)) if statement else (lambda: _rechunk(engine)))
    for table in ("episodes", "notes"):
        broken = 0 if db.read_only else db.texts.num_broken(table)
        found(f"full-text index of {table} out of step", broken, lambda name=table: db.texts.rebuild(name))
    found("counts of terms and speakers out of step", _counts_differ(db), lambda: rebuild_counts(db))
    found("missing vectors", engine.num_missing_vectors(), lambda: sum(engine.fill_missing_vectors()))
    found("vector index out of step", _index_differs(engine), lambda: (engine.index.drop(), engine.sync_index()))
    unfinished = int(not db.read_only and db.get_state("scrub") is not None)
    found("deletion not finished", unfinished, lambda: (engine.finish_erasing(), db.scrub(None)))
    return VerifyReport(tuple(checks), tuple(problems))


def _index_differs(engine: Engine) -> int:
    """How many rows of the vector index disagree with the database; what others write or erase meanwhile does not count."""
    differing: set[int] | None = None
    for _ in range(5):
        engine.finish_erasing()
        engine.sync_index()
        seen = set(engine.index.verify(engine.db.last_chunk(), engine.db.fetch_vectors).tolist())
        differing = seen if differing is None else differing & seen
        if not differing:
            return 0
    return len(differing or ())


def _recount(db: Database) -> Counts:
    counts, last = Counts(), 0
    while rows := db.rows(
        "SELECT e.seq, s.user, e.terms, e.speaker FROM episodes e JOIN sessions s ON s.ref = e.session WHERE e.seq > ? "
        "ORDER BY e.seq LIMIT 5000",
        (last,),
    ):
        for _, user, terms, speaker in rows:
            counts.take(user, np.frombuffer(terms, TERM_DTYPE), speaker)
        last = rows[-1][0]
    return counts


def _counts_differ(db: Database) -> int:
    """How many counts disagree with the episodes."""
    with db.snapshot():
        counts = _recount(db)
        kept_terms = {(user, term): n for user, term, n in db.rows("SELECT * FROM term_counts")}
        kept_voices = {(user, name): n for user, name, n in db.rows("SELECT * FROM speakers")}
        kept_totals = {ref: [n, m] for ref, n, m in db.rows("SELECT ref, num_episodes, num_terms FROM users") if n or m}
    wanted_terms = {(user, term): n for user, counter in counts.terms.items() for term, n in counter.items()}
    pairs: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
        (wanted_terms, kept_terms),
        (dict(counts.voices), kept_voices),
        (counts.totals, kept_totals),
    ]
    return sum(wanted.get(key) != kept.get(key) for wanted, kept in pairs for key in wanted.keys() | kept.keys())


def rebuild_counts(db: Database) -> None:
    """Count terms and speakers anew from the episodes."""
    with db.transaction():
        db.run("DELETE FROM term_counts")
        db.run("DELETE FROM speakers")
        db.run("UPDATE users SET num_episodes = 0, num_terms = 0")
        _recount(db).write(db, sign=1)


def _rechunk(engine: Engine) -> None:
    """Give every record that has no chunks its chunks and vectors."""
    db = engine.db
    for table, owner in (("episodes", "episode"), ("notes", "note")):
        for seq, text in db.rows(
            f"SELECT seq, {_SEARCHED[table]} FROM {table} WHERE seq NOT IN (SELECT {owner} FROM chunks WHERE {owner} > 0)"
        ):
            db.insert_chunks(owner, seq, engine.embed_text(text))


def reindex(engine: Engine, embedder: str | Embedder | None = None, progress: Progress | None = None) -> int:
    """Rebuild the full-text index, the counts, the embeddings and the vector index; returns the number of records.

    With another embedder, the new embeddings are made beside the old ones, batch by batch, while the old ones serve; when
    all are there they take their place in one transaction. A call after an interruption goes on where it stopped.
    """
    db = engine.db
    if db.read_only:
        raise StorageFailed(f"database {db.path}: is read-only, so its indexes cannot be rebuilt.")
    new = make_embedder(embedder) if embedder is not None else engine.embedder
    spec = embedder if isinstance(embedder, str) else (new.name if embedder is not None else None)
    for table in ("episodes", "notes"):
        _reread(db, table)
    for table in ("episodes", "notes"):
        db.texts.rebuild(table)
    rebuild_counts(db)
    if db.get_state("reindex") != new.name:
        with db.transaction():
            db.run("DELETE FROM next_chunks")
            db.set_state("reindex", new.name)
    while _embed_next(db, new, progress):
        pass
    with db.transaction():
        while _embed_next(db, new, progress):
            pass
        db.run("DELETE FROM chunks")
        db.run("INSERT INTO chunks SELECT id, episode, note, first, last FROM next_chunks")
        db.run(
            "INSERT INTO embeddings SELECT c.id, c.vector, CASE WHEN n.method IN (SELECT method FROM derivations) THEN NULL "
            "ELSE c.tokens END FROM next_chunks c LEFT JOIN notes n ON n.seq = c.note"
        )
        db.run("DELETE FROM next_chunks")
        db.set_state("reindex", None)
        db.run("DELETE FROM erasing")
        db.set_state("embedder", new.name)
        if spec is not None:
            db.set_state("embedder_spec", spec)
        for counter in ("epoch", "generation"):
            db.set_state(counter, str(int(db.get_state(counter) or 0) + 1))
    engine.index.drop()
    engine.use(new)
    engine.sync_index()
    engine.index.build_approximate()
    db.scrub(())
    return db.rows("SELECT (SELECT count(*) FROM episodes) + (SELECT count(*) FROM notes)")[0][0]


def _reread(db: Database, table: str) -> None:
    """Write anew what is kept of every text: its hashed stems and, of an episode's, its shape."""
    last = 0
    while rows := db.rows(
        f"SELECT seq, {_SEARCHED[table]} FROM {table} WHERE seq > ? ORDER BY seq LIMIT 5000", (last,)
    ):
        with db.transaction():
            db.run_many(
                f"UPDATE {table} SET terms = ? WHERE seq = ?",
                ((lexical.term_ids(text).astype(TERM_DTYPE).tobytes(), seq) for seq, text in rows),
            )
            if table == "episodes":
                db.run_many(
                    "UPDATE episodes SET shape = ? WHERE seq = ?", ((shape.shape(text), seq) for seq, text in rows)
                )
        last = rows[-1][0]


def _embed_next(db: Database, embedder: Embedder, progress: Progress | None) -> int:
    """Embed the next batch of records with the new embedder into `next_chunks`; the number of records done."""
    done = 0
    for table, owner in (("episodes", "episode"), ("notes", "note")):
        rows = db.rows(
            f"SELECT seq, {_SEARCHED[table]} FROM {table} WHERE seq > (SELECT coalesce(max({owner}), 0) FROM next_chunks) "
            f"ORDER BY seq LIMIT {BATCH}"
        )
        if not rows:
            continue
        chunks = [(seq, text, Chunk(first, last)) for seq, text in rows for first, last in embedder.split(text)]
        embed_chunks(embedder, [(chunk, text) for _, text, chunk in chunks])
        with db.transaction():
            db.run_many(
                f"INSERT INTO next_chunks ({owner}, first, last, vector, tokens) SELECT seq, ?, ?, ?, ? "
                f"FROM {table} WHERE seq = ?",
                (
                    (chunk.first, chunk.last, db.as_vector(chunk.vector), chunk.tokens, seq)
                    for seq, _, chunk in chunks
                    if chunk.vector is not None
                ),
            )
        done += len(rows)
        if progress is not None:
            progress(len(rows))
    return done
