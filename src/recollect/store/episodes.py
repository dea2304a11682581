"""Episodes on their way into the database, and the counts of terms and speakers that a recall weighs words by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recollect.store import lexical
from recollect.store.checks import episode_key
from recollect.store.database import TERM_DTYPE, Chunk, Database, dump_meta
from recollect.store.records import Episode, to_micros


@dataclass(slots=True)
class NewEpisode:
    """An episode on its way into the database."""

    episode: Episode
    key: bytes
    terms: np.ndarray  # uint32
    shape: int | None = None  # from shape.shape; None: made where it is read
    chunks: list[Chunk] = field(default_factory=list)

    @classmethod
    def of(cls, episode: Episode) -> NewEpisode:
        """An episode with the key by which it is stored once and the terms of its text."""
        return cls(episode, episode_key(episode), lexical.term_ids(episode.text))


@dataclass(slots=True)
class Counts:
    """What episodes add to their users' counts: episodes that hold a term, episodes and terms, episodes of a speaker."""

    terms: dict[int, Counter[int]] = field(default_factory=dict)  # by the row of the user
    totals: dict[int, list[int]] = field(default_factory=dict)
    voices: Counter[tuple[int, str]] = field(default_factory=Counter)

    def take(self, user: int, terms: np.ndarray, speaker: str | None) -> None:
        """Count one episode of a user."""
        self.terms.setdefault(user, Counter()).update(set(terms.tolist()))
        total = self.totals.setdefault(user, [0, 0])
        total[0] += 1
        total[1] += len(terms)
        if speaker:
            self.voices[user, speaker] += 1

    def write(self, db: Database, sign: int) -> None:
        """Add (sign 1) these counts to those in the database, or take them away (sign -1)."""
        for user, (num_episodes, num_terms) in self.totals.items():
            db.run(
                "UPDATE users SET num_episodes = num_episodes + ?, num_terms = num_terms + ? WHERE ref = ?",
                (sign * num_episodes, sign * num_terms, user),
            )
        terms = [(user, term, sign * n) for user, counter in self.terms.items() for term, n in sorted(counter.items())]
        db.add_counts("term_counts", "term", terms)
        db.add_counts("speakers", "speaker", [(user, name, sign * n) for (user, name), n in self.voices.items()])
        if sign < 0:
            for table in ("term_counts", "speakers"):
                rows = ((user,) for user in self.totals)
                db.run_many(f"DELETE FROM {table} WHERE user = ? AND num_episodes <= 0", rows)


def insert(db: Database, items: Sequence[NewEpisode]) -> int:
    """Write episodes with their index entries in one transaction, but for those whose key exists; how many were written."""
    added = 0
    with db.transaction():
        present = set(db.existing([item.key for item in items]))
        users: dict[str, int] = {}
        sessions: dict[tuple, tuple[int, int]] = {}
        counts = Counts()
        embeddings: list[tuple] = []
        texts: list[tuple] = []
        for item in items:
            if item.key in present:
                continue
            present.add(item.key)
            episode = item.episode
            user = users.get(episode.user)
            if user is None:
                user = users[episode.user] = db.user(episode.user)
            place = (user, episode.agent, episode.session)
            if place not in sessions:
                ref = db.session(*place)
                last = db.rows("SELECT coalesce(max(position), -1) FROM episodes WHERE session = ?", (ref,))[0][0]
                sessions[place] = (ref, last)
            ref, position = sessions[place]
            sessions[place] = (ref, position + 1)
            seq = db.insert(
                "INSERT INTO episodes (id, key, session, position, at, at_offset, recorded, recorded_offset, speaker, "
                "source_id, text, meta, terms, shape) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    episode.id,
                    item.key,
                    ref,
                    position + 1,
                    *to_micros(episode.at),
                    *to_micros(episode.recorded_at),
                    episode.speaker,
                    episode.source_id,
                    episode.text,
                    dump_meta(episode.meta),
                    item.terms.astype(TERM_DTYPE).tobytes(),
                    item.shape,
                ),
            )
            texts.append((seq, episode.text, user))
            embeddings += db.insert_chunk_rows("episode", seq, item.chunks)
            counts.take(user, item.terms, episode.speaker)
            added += 1
        db.texts.insert("episodes", texts)
        db.run_many("INSERT INTO embeddings VALUES (?, ?, ?)", embeddings)
        counts.write(db, sign=1)
    return added
