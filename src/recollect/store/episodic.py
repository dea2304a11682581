"""Episodic: the default method. It keeps what was said word for word and ranks it by a fusion of signals.

Nothing is derived at write, so no language model is needed and nothing can be distorted; all the work is in reading. The
engine's first stage (BM25, cosine, and the turns beside them in the conversation) gives up to a few hundred candidates;
`fusion.Fusion` weighs their signals. A query that speaks of a time ("last May", "two weeks ago", "before I moved") is
resolved against the time at which it was asked; what lies within is preferred, never demanded.

Paper: none; the recipe is ours. Its parts: BM25 (Robertson et al. 1994), sentence embeddings (Reimers and Gurevych,
arXiv:1908.10084), late interaction (Khattab and Zaharia, arXiv:2004.12832).
Cost: one pass of the encoder over the query, one scan of the vectors, one full-text query, O(candidates) for the rest.

Shapes: N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from recollect.store import lexical, notes
from recollect.store.engine import Engine
from recollect.store.fusion import Fusion
from recollect.store.hits import episode_hit, note_hit
from recollect.store.method import Draft, Request, Scope
from recollect.store.records import Episode, Hit
from recollect.store.views import Filter
from recollect.store.windows import query_window

if TYPE_CHECKING:
    from recollect.lm import LanguageModel


@dataclass
class Episodic:
    """Verbatim episodes, ranked by fused signals.

    without: id of a benchmark conversation; the ranking weights are then those that were fitted without it.
    reads_time: whether a time that the query speaks of is read.
    """

    without: str | None = None
    reads_time: bool = True
    lm: LanguageModel | None = None  # not used
    name = "episodic"
    version = "1"

    @cached_property
    def fusion(self) -> Fusion:
        """The weights of the signals."""
        return Fusion.load(without=self.without)

    def encode(self, engine: Engine, scope: Scope, episodes: Sequence[Episode]) -> Draft:
        """Nothing is derived: an episode is its own memory."""
        return Draft()

    def recall(self, engine: Engine, request: Request) -> list[Hit]:
        """The k best records, best first; ties go to the newer one."""
        window, text = self._window(engine, request) if self.reads_time else (None, request.text)
        pool = engine.pool(replace(request, text=text), window)
        candidates = pool.candidates
        if not len(candidates.seq):
            return []
        ranking = self.fusion.rank(pool.query, candidates)
        order = np.lexsort((-candidates.at, -ranking.scores))
        hits = []
        for row in order:
            seq = int(candidates.seq[row])
            if len(hits) == request.k:
                break
            if not pool.eligible[row]:
                continue
            hits.append((seq, float(ranking.scores[row]), ranking.explain(int(row)), int(pool.chunk[row])))
        return self._hits(engine, request, hits)

    def _window(self, engine: Engine, request: Request) -> tuple[Filter | None, str]:
        """(the filter narrowed to the time that the query speaks of, None when it speaks of none; the query to rank by).

        An event ("before I moved") is found by recalling it; its time is that of the best hit. What came before it was
        said without its words, so they leave the query; what came after it is often told together with it.
        """
        window, text = query_window(request.text, request.asked_at), request.text
        start, end = window.start, window.end
        if window.anchor and window.relation != "during":
            found = self.recall(engine, replace(request, text=window.anchor, k=1))
            if found and window.relation == "before":
                end = min(found[0].at, end or found[0].at)
                text = text.replace(window.anchor, " ")
            elif found:
                start = max(found[0].at, start or found[0].at)
        if start is None and end is None:
            return None, request.text
        after, before = request.filter.after, request.filter.before
        if start is not None:
            after = max(int(start.timestamp() * 1e6), after if after is not None else -(2**62))
        if end is not None:
            before = min(int(end.timestamp() * 1e6), before if before is not None else 2**62)
        return replace(request.filter, after=after, before=before), text if lexical.terms(text) else request.text

    def _hits(self, engine: Engine, request: Request, ranked: Sequence[tuple]) -> list[Hit]:
        """Hits for (row, negative for a note; score; why; chunk); what another process forgot a moment ago is left out."""
        episodes = engine.db.episodes([seq for seq, *_ in ranked if seq > 0])
        by_hand = notes.by_rows(engine.db, [-seq for seq, *_ in ranked if seq < 0], request.filter.until)
        spans = engine.spans([chunk for _, _, _, chunk in ranked if chunk])
        hits = []
        for seq, score, why, chunk in ranked:
            if seq in episodes:
                hits.append(episode_hit(episodes[seq], score, why, spans.get(chunk)))
            elif -seq in by_hand:
                hits.append(note_hit(by_hand[-seq], score, why))
        return hits
