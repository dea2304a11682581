"""Hits: a recalled record with its explanation, as it is handed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recollect.store.records import EPISODE, Episode, Hit, Note, Signal


def episode_hit(
    episode: Episode, score: float, why: Sequence[Signal] = (), excerpt: tuple[int, int] | None = None
) -> Hit:
    """An episode as a hit. `excerpt`: characters of its best passage, left out when that is the whole text."""
    return Hit(
        id=episode.id,
        kind=EPISODE,
        text=episode.text,
        at=episode.at,
        score=score,
        why=tuple(why),
        sources=(episode.id,),
        speaker=episode.speaker,
        session=episode.session,
        source_id=episode.source_id,
        meta=episode.meta,
        excerpt=excerpt if excerpt != (0, len(episode.text)) else None,
    )


def note_hit(
    note: Note,
    score: float,
    why: Sequence[Signal] = (),
    *,
    said: Episode | None = None,
    text: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Hit:
    """A note as a hit. `said`: the episode that it is the note of, for the speaker and the session, when there is one.

    text, meta: what the reader is shown, where that is not the note's own.
    """
    return Hit(
        id=note.id,
        kind=note.kind,
        text=note.text if text is None else text,
        at=note.at or note.valid_from or note.recorded_at,
        score=score,
        why=tuple(why),
        sources=note.sources,
        speaker=said.speaker if said else None,
        session=said.session if said else None,
        source_id=said.source_id if said else None,
        meta=note.meta if meta is None else meta,
        valid_from=note.valid_from,
        valid_to=note.valid_to,
    )


def explain(signals: Mapping[str, np.ndarray], weights: Mapping[str, float], row: int) -> tuple[Signal, ...]:
    """The explanation of one candidate of a weighted sum of `signals` (name -> values (N,)), largest share first.

    Values are standardised over the candidates, as in every explanation.
    """
    parts = []
    for name, values in signals.items():
        spread = float(values.std())
        value = float(values[row] - values.mean()) / spread if spread > 1e-9 else 0.0
        parts.append((name, value, weights[name], abs(weights[name] * value)))
    total = sum(part[3] for part in parts)
    return tuple(
        Signal(name, value, weight, size / total if total else 0.0)
        for name, value, weight, size in sorted(parts, key=lambda part: -part[3])
    )
