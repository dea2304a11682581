"""HippoRAG 2: passages and the phrases of what they say in one graph; a walk from the facts that fit finds what belongs together.

Of each episode, which is a passage, triples (subject, relation, object) are extracted. Each is kept as a fact, each subject
and object as a phrase, once however often it is said, with all the passages that say it. Phrases are joined when a fact
relates them, and when their vectors say that they are synonyms; passages are joined with their phrases. A question is
linked to the facts nearest to it; a recognition memory drops those that do not help; the walk (personalised PageRank)
starts at the phrases of those that are left, the rarer the phrase the likelier, and, weakly, at every passage, as like it
is to the question. The passages are ranked by how often the walk visits them. Where no fact is left, they are ranked by
cosine alone, and the hits say so.

Paper: From RAG to Memory: Non-Parametric Continual Learning for Large Language Models, arXiv:2502.14802 (2025); the walk
and the synonyms are those of HippoRAG, arXiv:2405.14831 (2024).
Differs:
- Normalising keeps letters of every script; `normalise_ascii` is the authors'.
- A phrase of several kept facts starts with the mean of their weights, as the paper says and the authors' code at first did not.
- The links of a synonym are searched once, when a phrase is new, and kept once a pair; so the graph does not depend on
  how the passages were cut into batches. Phrases whose numbers differ ("1963", "1964") are no synonyms.
- Facts are linked by cosine plus the share of the question's words, rare ones counting more, that they hold, where the
  paper has cosine of a large encoder alone; `word_weight=0` is the paper's. The weight was chosen on 100 MuSiQue questions.
- The recognition memory names facts by number, so that it cannot invent one. Without a language model a fact is kept when
  its score is at least `least_score`; when the model's reply cannot be used, too.
- A fact of which a person has said otherwise since is closed: it no longer leads anywhere, and its passage stays.
Cost: two calls of a language model a passage and one a question, or none; 15 notes and 40 kB a passage of a hundred words;
O(steps * links) a question, 30 ms for 2,000 such passages.

Shapes: N passages, M phrases, F facts, C parts of the start (a kept fact each, and the passages), D the embedder's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import log
from typing import TYPE_CHECKING

import numpy as np

from recollect.errors import RecollectError
from recollect.store import lexical, notes, openie
from recollect.store.database import TERM_DTYPE, VECTOR_DTYPE
from recollect.store.engine import Engine
from recollect.store.hipporag2_graph import FACT, PHRASE, SYNONYM, Graph, Graphs, Normalise
from recollect.store.hipporag2_prompts import recognise
from recollect.store.hits import episode_hit, note_hit
from recollect.store.method import Draft, Request, Scope
from recollect.store.notes import NewNote
from recollect.store.openie import OpenIECache
from recollect.store.records import EPISODE, Answer, Episode, Hit, Link, Note, Signal
from recollect.store.settling import Found, new_note, settle
from recollect.store.views import View

if TYPE_CHECKING:
    from recollect.lm import LanguageModel

NUM_CANDIDATES = 200  # facts, by cosine, whose words are looked at
BLOCK = 512  # phrases compared with all others at once
NAME_CHARS = 60  # of a fact in an explanation


def normalise(text: str) -> str:
    """A phrase as its node is named: case-folded, letters and digits of any script, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", folded).split())


def normalise_ascii(text: str) -> str:
    """The same as the authors' code has it: what is no ASCII letter or digit becomes a space."""
    return " ".join(re.sub(r"[^a-z0-9 ]", " ", text.lower()).split())


@dataclass(frozen=True, slots=True)
class Linked:
    """The facts that a question was linked to."""

    facts: np.ndarray  # int64 (K,), places in `Graph.facts`, best first
    scores: np.ndarray  # float64 (K,), cosines scaled so that they reach from 0 to 1 over all facts
    texts: tuple[str, ...]
    by: str = ""  # who recognised them: "language model" or "score"; where none is left, why
    fit: np.ndarray = field(default_factory=lambda: np.empty(0))  # float64 (K,), cosine and weighted share of words

    def only(self, kept: Sequence[int], by: str) -> Linked:
        """Those of the facts at some places."""
        rows = list(kept)
        return Linked(self.facts[rows], self.scores[rows], tuple(self.texts[row] for row in rows), by, self.fit[rows])


@dataclass
class HippoRAG2:
    """Passages ranked by a walk over the graph of what they say."""

    linking_top_k: int = 5  # facts that a question is linked to, and phrases that the walk starts from
    passage_node_weight: float = 0.05  # of the start, before it is scaled, for the passage nearest to the question
    damping: float = 0.5  # probability of walking on
    num_steps: int = 20  # of the walk; what is left out is less than a millionth
    synonymy_threshold: float = 0.8  # cosine
    max_synonyms: int = 100  # that a phrase gets when it is new
    relation_weight: float = 2.0  # of a fact that one passage says; the authors' code adds each edge in both directions
    word_weight: float = 1.0  # of the share of the question's words that a fact holds, beside its cosine
    least_score: float = 0.6  # cosine and weighted share of a fact that is kept without a language model
    max_tokens: int = 512  # of the recognition memory's reply
    normalise: Normalise = normalise
    triples: OpenIECache | None = None  # taken for the texts that it holds
    lm: LanguageModel | None = None
    graphs: Graphs = field(default_factory=Graphs, repr=False, compare=False)
    name = "hipporag2"
    version = "1"

    # Writing

    def encode(self, engine: Engine, scope: Scope, episodes: Sequence[Episode]) -> Draft:
        """Facts, phrases and synonyms of new passages."""
        failed: dict[str, str] = {}
        found: list[Found] = []
        extracted = openie.extract(episodes, self.lm, self.triples)
        for episode, read in zip(episodes, extracted, strict=True):
            if isinstance(read, RecollectError):
                failed[episode.id] = str(read)
                continue
            found += [Found(self._fact(triple, episode), episode.at, triple.fact) for triple in read]
        draft = settle(engine, scope, self, found)
        draft.failed = failed
        phrases = self._phrases(engine, scope, draft)
        draft.notes += phrases
        engine.embed_notes(draft.notes)
        known = self._known_phrases(engine, scope) if phrases else []
        new = [(item.note.id, item.note.text, item.chunks[0].vector) for item in phrases]
        draft.links = self._synonyms([*known, *new], len(known), engine.embedder.dim)
        return draft

    def _fact(self, triple: openie.Triple, episode: Episode) -> Note:
        meta: dict[str, object] = {"subject": triple.subject, "relation": triple.relation, "value": triple.object}
        if triple.fact is not None:
            meta["relation"] = triple.fact.relation
            meta |= {name: True for name in ("single", "ends") if getattr(triple.fact, name)}
        since = triple.fact.at if triple.fact is not None else None
        return new_note(self, FACT, triple.text, [episode], valid_from=since, any_source=True, meta=meta)

    def _phrases(self, engine: Engine, scope: Scope, draft: Draft) -> list[NewNote]:
        """New phrases of the draft's facts; those that are known get their further sources in the draft."""
        said: dict[str, list[str]] = defaultdict(list)  # phrase -> passages
        repeated = engine.db.rows_in("SELECT id, meta FROM notes WHERE id IN ({})", {id_ for id_, _ in draft.sources})
        meta_of = {id_: json.loads(meta) for id_, meta in repeated}
        stated = [(item.note.meta, item.note.sources) for item in draft.notes]
        stated += [(meta_of[id_], (source,)) for id_, source in draft.sources if id_ in meta_of]
        for meta, sources in stated:
            for phrase in filter(None, (self.normalise(meta["subject"]), self.normalise(meta["value"]))):
                said[phrase] += sources
        marks = {blake2b(phrase.encode(), digest_size=16).digest(): phrase for phrase in said}
        where, bound = View(scope.filter, self.name, (PHRASE,)).sql()
        known = engine.db.rows_in(
            "SELECT n.id, n.text FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
            f"WHERE {where} AND n.same IN ({{}})",
            marks,
            bound,
        )
        ids = {text: id_ for id_, text in known}
        draft.sources += [(ids[text], source) for text in said if text in ids for source in dict.fromkeys(said[text])]
        return [
            NewNote(new_note(self, PHRASE, phrase, said[phrase], any_source=True), scope.agent, same=mark)
            for mark, phrase in marks.items()
            if phrase not in ids
        ]

    def _synonyms(self, phrases: Sequence[tuple[str, str, bytes | None]], first: int, dim: int) -> list[Link]:
        """Links from each phrase (id, text, vector as it is kept) from `first` on to the nearest of those before it."""
        held = [vector if vector is not None else bytes(dim * VECTOR_DTYPE.itemsize) for _, _, vector in phrases]
        vectors = np.frombuffer(b"".join(held), VECTOR_DTYPE).astype(np.float32).reshape(-1, dim)
        links: list[Link] = []
        for start in range(first, len(phrases), BLOCK):
            cosines = vectors[start : start + BLOCK] @ vectors[: start + BLOCK].T
            near: dict[int, list[tuple[float, int]]] = defaultdict(list)
            # Rounded, as the last digit of a product depends on how many are made at once.
            for row, place in zip(*np.nonzero(cosines >= self.synonymy_threshold - 1e-4), strict=True):
                own, other, cosine = start + int(row), int(place), min(round(float(cosines[row, place]), 4), 1.0)
                apart = other >= own or cosine < self.synonymy_threshold
                if not apart and _may_be_synonyms(phrases[own][1], phrases[other][1]):
                    near[own].append((cosine, other))
            for own, found in near.items():
                links += [
                    Link(phrases[own][0], phrases[other][0], SYNONYM, cosine, self.name)
                    for cosine, other in sorted(found, key=lambda pair: (-pair[0], pair[1]))[: self.max_synonyms]
                ]
        return links

    def _known_phrases(self, engine: Engine, scope: Scope) -> list[tuple[str, str, bytes | None]]:
        """(id, text, vector as it is kept) of the phrases of a scope, in order of writing."""
        where, bound = View(scope.filter, self.name, (PHRASE,)).sql()
        return engine.db.rows(
            "SELECT n.id, n.text, e.vector FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
            f"JOIN chunks c ON c.note = n.seq JOIN embeddings e ON e.chunk = c.id WHERE {where} AND c.first = 0 "
            "ORDER BY n.seq",
            bound,
        )

    def consolidate(self, engine: Engine, scope: Scope) -> Draft:
        """Synonyms that were missed: of phrases that had no vector, or that two processes wrote at the same time."""
        there = {frozenset((link.source, link.target)) for link in notes.links(engine.db, scope.user, self.name)}
        links = self._synonyms(self._known_phrases(engine, scope), 0, engine.embedder.dim)
        return Draft(links=[link for link in links if frozenset((link.source, link.target)) not in there])

    def rederive(self, engine: Engine, scope: Scope, flagged: Sequence[Note]) -> Draft:
        """Nothing: each source alone carries a fact and a phrase, so none is ever flagged."""
        return Draft()

    def after_answer(self, engine: Engine, scope: Scope, question: str, answer: Answer) -> Draft:
        """Nothing is learned from answering."""
        return Draft()

    # Reading

    def recall(self, engine: Engine, request: Request) -> list[Hit]:
        """The k best passages, each with what of its visits came from which fact; facts, where only they are asked for."""
        query = engine.embed_query(request.text)[0]
        with engine.reading():
            graph = self.graphs.graph(engine, self.name, request.filter, self.normalise, self.relation_weight)
            cosines, chunks = _cosines(engine, graph, query)
            if request.kinds is not None and EPISODE not in request.kinds:
                return self._facts(engine, request, graph, cosines) if FACT in request.kinds else []
            linked = self._link(engine, request, graph, cosines, self.linking_top_k)
        near = _scaled(cosines[len(graph.facts) :])
        linked = self._recognise(request.text, linked)
        names = [*(f"fact: {text}"[:NAME_CHARS] for text in linked.texts), "cosine"]
        if len(linked.facts):
            start = self._start(graph, linked, near)  # (M + N, C)
            visits = graph.transitions.visits(start, self.damping, self.num_steps)[graph.num_phrases :]  # (N, C)
        else:
            start, visits, names = np.ones((1, 1)), near[:, None], [f"cosine ({linked.by})"]
        scores = visits.sum(axis=1)
        weights = start.sum(axis=0) / start.sum()
        order = np.argsort(-scores, kind="stable")
        return [
            replace(episode_hit(episode, float(scores[row]), _why(names, weights, visits, row), span), sources=sources)
            for row, episode, sources, span in self._shown(engine, graph, order, chunks[len(graph.facts) :], request.k)
        ]

    def _shown(
        self, engine: Engine, graph: Graph, order: np.ndarray, chunks: np.ndarray, k: int
    ) -> list[tuple[int, Episode, tuple[str, ...], tuple[int, int] | None]]:
        """(place, episode, ids, its best passage's characters) of the first k of an order; what says the same is one."""
        shown: dict[str, tuple[int, Episode, list[str]]] = {}
        for start in range(0, len(order), 2 * k):
            rows = order[start : start + 2 * k].tolist()
            loaded = engine.db.episodes(graph.passages[rows].tolist())
            for row in rows:
                episode = loaded.get(int(graph.passages[row]))  # None for one that was forgotten a moment ago
                if episode is None:
                    continue
                said = normalise(episode.text) or episode.id
                if said in shown:
                    shown[said][2].append(episode.id)
                elif len(shown) < k:
                    shown[said] = (row, episode, [episode.id])
            if len(shown) == k:
                break
        spans = engine.spans([int(chunks[row]) for row, _, _ in shown.values()])
        return [(row, episode, tuple(ids), spans.get(int(chunks[row]))) for row, episode, ids in shown.values()]

    def _link(self, engine: Engine, request: Request, graph: Graph, cosines: np.ndarray, k: int) -> Linked:
        """The k facts that fit a question best, by cosine and by the question's words."""
        cosines = cosines[: len(graph.facts)]
        if not len(cosines):
            return Linked(np.empty(0, np.int64), np.empty(0), (), "there are no facts")
        scaled = _scaled(cosines)
        facts = np.argsort(-cosines, kind="stable")[: max(NUM_CANDIDATES, k)]
        rows = graph.facts[facts].tolist()
        loaded = {
            row[0]: row[1:] for row in engine.db.rows_in("SELECT seq, text, terms FROM notes WHERE seq IN ({})", rows)
        }
        held = [np.frombuffer(loaded[row][1], TERM_DTYPE) for row in rows]
        words = lexical.term_ids(request.text)
        fit = cosines[facts] + self.word_weight * _shares(engine, request.filter.user, words, held)
        best = np.argsort(-fit, kind="stable")[:k]
        texts = tuple(loaded[rows[place]][0] for place in best)
        return Linked(facts[best], scaled[facts[best]], texts, fit=fit[best])

    def _recognise(self, question: str, linked: Linked) -> Linked:
        """The facts that help with the question, in the judgement of the language model, or by their score."""
        if not len(linked.facts):
            return linked
        kept, by = None, "score"
        if self.lm is not None:
            try:
                kept, by = recognise(self.lm, question, linked.texts, self.max_tokens), "language model"
            except RecollectError as error:
                by = f"score, as {type(error).__name__}"
        if kept is None:
            kept = np.flatnonzero(linked.fit >= self.least_score).tolist()
        return linked.only(kept, f"no fact kept by {by}" if not kept else by)

    def _start(self, graph: Graph, linked: Linked, near: np.ndarray) -> np.ndarray:
        """Where the walk starts, (M + N, C): a column for what each kept fact gives its phrases, and one for the passages."""
        start = np.zeros((graph.num_phrases + len(graph.passages), len(linked.facts) + 1))
        ends = graph.ends[linked.facts]  # (K, 2)
        for column, (pair, score) in enumerate(zip(ends, linked.scores, strict=True)):
            for phrase in set(pair.tolist()) - {-1}:
                start[phrase, column] = score / graph.num_passages_of[phrase]
        of_phrases = start[: graph.num_phrases]
        named = np.unique(ends[ends >= 0])
        times = np.array([(ends == phrase).any(axis=1).sum() for phrase in named])
        of_phrases[named] /= times[:, None]
        weights = of_phrases[named].sum(axis=1)
        of_phrases[named[np.lexsort((named, -weights))[self.linking_top_k :]]] = 0
        start[graph.num_phrases :, -1] = self.passage_node_weight * near
        return start

    def _facts(self, engine: Engine, request: Request, graph: Graph, cosines: np.ndarray) -> list[Hit]:
        """Facts as hits, with those of their sources that the request may see."""
        linked = self._link(engine, request, graph, cosines, request.k)
        found = notes.by_rows(engine.db, graph.facts[linked.facts].tolist(), request.filter.until)
        known = engine.db.episodes_by_id({source for note in found.values() for source in note.sources})
        rows = dict(engine.db.rows_in("SELECT id, seq FROM episodes WHERE id IN ({})", known))
        visible = {id_ for id_, seq in rows.items() if seq in set(graph.passages.tolist())}
        hits = []
        for place, row in enumerate(graph.facts[linked.facts].tolist()):
            sources = tuple(source for source in found[row].sources if source in visible)
            said = min((known[source] for source in sources), key=lambda episode: episode.at)
            why = (Signal("cosine and words", float(linked.fit[place]), 1.0, 1.0),)
            hit = note_hit(found[row], float(linked.fit[place]), why, said=said)
            hits.append(replace(hit, sources=sources, at=said.at))
        return hits


def _cosines(engine: Engine, graph: Graph, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cosine of each fact and passage with a query by its nearest chunk, -1 for none; that chunk, 0 for none), (F + N,)."""
    count = len(graph.facts) + len(graph.passages)
    cosines, chunks = np.full(count, -1.0), np.zeros(count, np.int64)
    found, scores = engine.index.search(query, len(graph.chunks), allowed=graph.chunks)
    owners = graph.owners[np.searchsorted(graph.chunks, found)][::-1]  # the nearest last, so that it stays
    cosines[owners], chunks[owners] = scores[::-1], found[::-1]
    return cosines, chunks


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values moved and stretched to reach from 0 to 1; ones where all are the same."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    return (values - low) / (high - low) if high - low > 1e-9 else np.ones(len(values))


def _shares(engine: Engine, user: str, words: np.ndarray, held: Sequence[np.ndarray]) -> np.ndarray:
    """The share of a question's words, each counting by how rare it is among the passages, that each of some texts holds."""
    words = np.unique(words)
    num_passages = engine.db.num_episodes(user)
    counts = engine.db.document_frequency(user, words.tolist())
    rarity = np.array([log(1 + num_passages / max(counts.get(int(word), 0), 1)) for word in words])
    if not rarity.sum():
        return np.zeros(len(held))
    terms = np.concatenate(held)
    places = np.minimum(np.searchsorted(words, terms), len(words) - 1)
    texts = np.repeat(np.arange(len(held)), [len(part) for part in held])
    same = words[places] == terms
    texts, places = np.divmod(np.unique(texts[same] * len(words) + places[same]), len(words))  # a word counts once
    return np.bincount(texts, rarity[places], len(held)) / rarity.sum()


def _why(names: Sequence[str], weights: np.ndarray, visits: np.ndarray, row: int) -> tuple[Signal, ...]:
    """What each part of the start, of a weight (C,), has given to a passage's visits (N, C), largest share first."""
    whole = float(visits[row].sum())
    if not whole:  # the passage furthest from the question, which no walk reaches
        return (Signal(names[-1], 0.0, float(weights[-1]), 1.0),)
    spread = visits.std(axis=0)
    signals = [
        Signal(
            name,
            float((visits[row, part] - visits[:, part].mean()) / spread[part]) if spread[part] > 1e-12 else 0.0,
            float(weights[part]),
            float(visits[row, part] / whole),
        )
        for part, name in enumerate(names)
    ]
    return tuple(sorted((signal for signal in signals if signal.share > 0), key=lambda signal: -signal.share))


def _may_be_synonyms(one: str, other: str) -> bool:
    """Whether two phrases are long enough to be compared by their vectors, and do not differ in a number."""
    if min(len(re.sub(r"\W", "", text)) for text in (one, other)) <= 2:
        return False
    return re.findall(r"\d+", one) == re.findall(r"\d+", other)
