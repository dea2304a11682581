"""What a memory costs: seconds, tokens, notes and bytes for each episode at write, milliseconds at read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.store.derivation import cost_of

if TYPE_CHECKING:
    from recollect.store.memory import Memory


@dataclass(frozen=True, slots=True)
class Ingest:
    """What filling one memory took."""

    episodes: int
    notes: int
    seconds: float
    num_bytes: int  # of the database and the index
    calls: int  # of a language model
    tokens: int  # in and out


def ingest_cost(memory: Memory, seconds: float) -> Ingest:
    """What a memory that was just filled, in `seconds`, has taken."""
    stats, cost = memory.stats(), cost_of(memory.method)
    return Ingest(
        stats.num_episodes,
        stats.num_notes,
        seconds,
        stats.database_bytes + stats.index_bytes,
        cost.calls,
        cost.input_tokens + cost.output_tokens,
    )


def mean_cost(parts: Sequence[Ingest]) -> dict[str, Any]:
    """The costs of several memories, for each episode."""
    count = max(sum(part.episodes for part in parts), 1)
    return {
        "num_episodes": sum(part.episodes for part in parts),
        "seconds_per_episode": sum(part.seconds for part in parts) / count,
        "notes_per_episode": sum(part.notes for part in parts) / count,
        "bytes_per_episode": sum(part.num_bytes for part in parts) / count,
        "calls_per_episode": sum(part.calls for part in parts) / count,
        "tokens_per_episode": sum(part.tokens for part in parts) / count,
    }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of some times, in milliseconds; zeros when there are none."""
    middle, high = np.percentile(np.asarray(seconds or [0.0]) * 1000, [50, 95]).tolist()
    return {"p50": middle, "p95": high}
