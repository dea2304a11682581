"""Think-in-Memory: keep conclusions, not turns; think once, after reading, and tidy the thoughts by forgetting and merging.

A thought is (head, relation, tail) told as one sentence, with its time and the turns that it comes from. Thoughts are
recalled before an answer, and after it what was concluded becomes a thought too (post-thinking). Three operations keep them
in order: insert; forget, which ends what a later thought contradicts; merge, which says several tails of one head and
relation in one sentence. Retrieval hashes thoughts into buckets by their embeddings.

Paper: Think-in-Memory: Recalling and Post-thinking Enable LLMs with Long-Term Memory, arXiv:2311.08719 (2023), section 3.
Differs: forget and merge work on thoughts of one head, whatever their buckets, as thoughts that contradict each other often
hash apart (`group_by="bucket"` does as the paper does). What is forgotten is closed and what is merged replaced, so that both
are recalled as of a time before and come back when their cause is forgotten; what a language model holds untrue is not
forgotten unless a later thought says so. A thought has a time, and a contradiction ends what was said before it. Each turn
is thought about by itself. Below `flat_below` thoughts every one is compared, which is then quicker and misses none. More
than one bucket is looked into, which the paper's single bucket needs to find what it should.
Without a language model thoughts are the facts that the built-in analyst reads, and the gist of each sentence in which it
reads none; contradictions and repeats are found by rule; merging joins short tails of lasting relations ("likes", not
"went to"); after an answer the sentences that it was read from are kept under the question.
Cost: 1 call of the language model a turn and an answer, 2 a group that grew; 2 bytes a dimension of a thought's vector. A
recall is one scan of the vectors, or of the share in the buckets probed.

Shapes: N thoughts, D dimension of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel

from recollect.errors import InvalidInput, RecollectError, SchemaBroken
from recollect.lm.meter import complete_all
from recollect.store import analyst, consolidation, lexical, notes, tim_prompts
from recollect.store.buckets import Buckets, Hashed
from recollect.store.duplicates import digest
from recollect.store.engine import Engine
from recollect.store.english import sentences
from recollect.store.facts import Fact, contradicts, facts
from recollect.store.hits import explain, note_hit
from recollect.store.method import Draft, Request, Scope, view_of
from recollect.store.notes import NewNote
from recollect.store.records import Answer, Episode, Hit, Note
from recollect.store.settling import Found, fact_note, fact_of, new_note, settle
from recollect.store.thoughts import bundles_of, contradicted, facts_of, join, says_all
from recollect.store.views import View

if TYPE_CHECKING:
    from recollect.lm import LanguageModel

THOUGHT, CONCLUSION = "thought", "conclusion"
LEAST_TERMS = 3  # of a sentence whose gist is kept
MAX_GONE_SHARE = 0.1  # of the hashed thoughts that may have ended before the buckets are made anew


@dataclass
class ThinkInMemory:
    """Thoughts, inserted, forgotten and merged.

    num_buckets: of the hash, even; 0 compares every thought. num_probes: buckets looked into. num_tables: hashes.
    flat_below: thoughts below which every one is compared.
    group_by: what thoughts are tidied together: those of one head, or of one bucket as in the paper; then nothing is
        forgotten before quiet hours.
    max_joined: tails in one merged thought. max_group: thoughts that the language model tidies at a time.
    max_dropped_share: the most of a group that the language model may forget, and of the words that a merged sentence may
        lose; what goes further is rejected.
    max_tokens: of a reply of the language model. seed: of the hash.
    """

    num_buckets: int = 64  # the paper does not say
    num_probes: int = 16  # the paper looks into one
    num_tables: int = 1
    flat_below: int = 10_000
    group_by: Literal["head", "bucket"] = "head"
    max_joined: int = 8
    max_group: int = 40
    max_dropped_share: float = 0.5
    max_tokens: int = 1_000
    seed: int = 0
    lm: LanguageModel | None = None
    name = "tim"
    version = "1"
    _hashed: dict[View, Hashed] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_buckets % 2 or self.num_buckets < 0:
            raise InvalidInput(
                f"num_buckets: {self.num_buckets} is not an even number; use 0 to compare every thought."
            )

    # Post-thinking: insert

    def encode(self, engine: Engine, scope: Scope, episodes: Sequence[Episode]) -> Draft:
        """The thoughts of each turn; repeats become sources, and what they contradict is closed."""
        found: list[Found] = []
        failed: dict[str, str] = {}
        for episode, thoughts in zip(episodes, self._think(episodes), strict=True):
            if isinstance(thoughts, RecollectError):
                failed[episode.id] = str(thoughts)
            else:
                found += thoughts
        return self._insert(engine, scope, found, failed)

    def _think(self, episodes: Sequence[Episode]) -> list[list[Found] | RecollectError]:
        """The thoughts of each episode, or why there are none. Raises Unavailable."""
        if self.lm is None:
            return [self._think_by_rule(episode) for episode in episodes]
        replies = self._ask([tim_prompts.think_messages(episode) for episode in episodes], tim_prompts.Thoughts)
        return [
            reply
            if isinstance(reply, RecollectError)
            else [fact_note(self, THOUGHT, fact, episode) for fact in facts_of(reply)]
            for episode, reply in zip(episodes, replies, strict=True)
        ]

    def _think_by_rule(self, episode: Episode) -> list[Found]:
        """The facts of a turn, and the gist of each sentence that states none, is no question and says enough."""
        stated = facts(episode.text, speaker=episode.speaker, at=episode.at)
        found = [fact_note(self, THOUGHT, fact, episode) for fact in stated]
        for first, last in sentences(episode.text):
            sentence = episode.text[first:last]
            read = any(fact.first < last and first < fact.last for fact in stated)
            if not read and not sentence.endswith("?") and len(set(lexical.terms(sentence))) >= LEAST_TERMS:
                gist = analyst.gist(sentence, speaker=episode.speaker, at=episode.at)
                found.append(Found(new_note(self, THOUGHT, gist, [episode], any_source=True), episode.at))
        return found

    def _insert(self, engine: Engine, scope: Scope, found: Sequence[Found], failed: Mapping[str, str]) -> Draft:
        if self.group_by == "bucket":
            found = [replace(item, fact=None) for item in found]  # settled without closing anything
        with engine.db.snapshot():
            draft = settle(engine, scope, self, found)
            self._part_from_joined(engine, scope, draft, {item.note.id: item.said_at for item in found})
            self._close_conclusions(engine, scope, draft)
            self._close_first_versions(engine, draft.notes)
        draft.failed |= failed
        return draft

    def _part_from_joined(self, engine: Engine, scope: Scope, draft: Draft, said_at: Mapping[str, datetime]) -> None:
        """Where a new thought contradicts a part of a merged one, say the rest of that anew."""
        told = [(item, fact) for item in draft.notes if self.group_by == "head" and (fact := fact_of(item.note))]
        view = View(scope.filter, self.name, (THOUGHT,), holding=True)
        about = notes.about(engine.db, view, {fact.subject.casefold() for _, fact in told}).values()
        joined = [note for note in about if "joined" in note.meta]
        firsts = notes.first_versions(engine.db, [note.id for note in joined])
        parts = notes.by_ids(engine.db, {id_ for ids in firsts.values() for id_ in ids})
        for note in joined:
            held = [part for id_ in firsts[note.id] if (part := parts[id_]).closed_by is None]
            for item, fact in told:
                ended = [
                    part
                    for part in held
                    if part.at is not None
                    and part.at <= said_at[item.note.id]
                    and (old := fact_of(part))
                    and contradicts(fact, old)
                ]
                if not ended:
                    continue
                item.closes = (*item.closes, *(part.id for part in ended))
                held = [part for part in held if part not in ended]
                if not held:
                    item.replaces = (*item.replaces, note.id)
                    break
                rest = self._joined(held, join(held), (*note.sources, *item.note.sources), replaces=[note])
                draft.notes.append(rest)
                note = rest.note

    def _close_conclusions(self, engine: Engine, scope: Scope, draft: Draft) -> None:
        """A conclusion that rests on a thought that is closed now, and speaks of its tail, is closed with it."""
        closed = notes.by_ids(engine.db, {id_ for item in draft.notes for id_ in item.closes})
        view = View(scope.filter, self.name, (CONCLUSION,), holding=True)
        resting = notes.derived_from(engine.db, view, {id_ for note in closed.values() for id_ in note.sources})
        for item in draft.notes:
            for old in (closed[id_] for id_ in item.closes if id_ in closed):
                tail = set(lexical.terms(str(old.meta.get("value", ""))))
                item.closes += tuple(
                    note.id
                    for note in resting.values()
                    if set(note.sources) & set(old.sources) and tail <= set(lexical.terms(note.text))
                )

    def _close_first_versions(self, engine: Engine, items: Sequence[NewNote]) -> None:
        """What is closed is closed in its first versions too, as which a narrow request sees it."""
        firsts = notes.first_versions(engine.db, {id_ for item in items for id_ in item.closes})
        for item in items:
            ids = (id_ for closed in item.closes for id_ in (closed, *firsts.get(closed, ())))
            item.closes = tuple(dict.fromkeys(ids))

    def after_answer(self, engine: Engine, scope: Scope, question: str, answer: Answer) -> Draft:
        """What was concluded, as thoughts that rest on all episodes that the answer quotes."""
        sources = tuple(dict.fromkeys(quote.episode_id for quote in answer.quotes))
        if answer.abstained or not sources:
            return Draft()
        said_at = max(quote.at for quote in answer.quotes)
        if self.lm is None:
            told = " ".join(dict.fromkeys(" ".join(quote.text.split()) for quote in answer.quotes))
            concluded = [
                (Fact(question.strip(), "is answered by", answer.text, told, True, None, False, 0, 0), question)
            ]
        else:
            quotes = [(quote.speaker or "unknown", quote.at, quote.text) for quote in answer.quotes]
            (reply,) = self._ask([tim_prompts.conclude_messages(question, answer.text, quotes)], tim_prompts.Thoughts)
            concluded = [] if isinstance(reply, RecollectError) else [(fact, "") for fact in facts_of(reply)]
        found = []
        for fact, asked in concluded:
            meta = {"question": question, "answer": answer.text, "subject": fact.subject, "relation": fact.relation}
            meta |= {"value": fact.value} | ({"single": True} if fact.single else {})
            key = f"{asked} {fact.text}".strip()
            note = new_note(self, CONCLUSION, fact.text, sources, key=key, valid_from=fact.at, meta=meta)
            found.append(Found(note, said_at, fact))
        return settle(engine, scope, self, found)

    # Recalling

    def recall(self, engine: Engine, request: Request) -> list[Hit]:
        """The k thoughts nearest to the query that hold, best first; what says the same as a better one is left out."""
        view = replace(view_of(self, request, (THOUGHT, CONCLUSION)), holding=True)
        vector = engine.embed([request.text], "query")[0]
        found = self._nearest(engine, view, vector, 2 * request.k)
        by_row = notes.by_rows(engine.db, [row for row, _ in found], request.filter.until)
        places: dict[str, int] = {}  # the first of each text
        for place, (row, _) in enumerate(found):
            if row in by_row:
                places.setdefault(by_row[row].text.casefold(), place)
        kept = list(places.values())[: request.k]
        cosines = np.array([cosine for _, cosine in found])
        said = engine.db.episodes_by_id({id_ for place in kept for id_ in by_row[found[place][0]].sources[:1]})
        hits = []
        for place in kept:
            note = by_row[found[place][0]]
            alone = note.any_source or len(note.sources) == 1
            why = explain({"cosine": cosines}, {"cosine": 1.0}, place)
            hits.append(note_hit(note, found[place][1], why, said=said.get(note.sources[0]) if alone else None))
        return hits

    def _nearest(self, engine: Engine, view: View, vector: np.ndarray, k: int) -> list[tuple[int, float]]:
        """(row, cosine) of the k nearest thoughts of a view, by hash where there are many and nothing narrows the view."""
        allowed = engine.note_chunks(view)
        plain = view.filter.whole_scope and view.filter.until is None and not view.first
        if plain and self.num_buckets and len(allowed) >= self.flat_below:
            chunks, cosines = self._hash(engine, view, allowed).search(vector, k, self.num_probes, allowed)
            owner = dict(engine.db.rows_in("SELECT id, note FROM chunks WHERE id IN ({})", chunks.tolist()))
            found: dict[int, float] = {}
            for chunk, cosine in zip(chunks.tolist(), cosines.tolist(), strict=True):
                if chunk in owner:
                    found.setdefault(owner[chunk], cosine)
            if len(found) >= min(k, len(allowed)):
                return list(found.items())
        return [(row, cosine) for row, cosine, _ in engine.nearest_notes(vector, view, k)]

    def _hash(self, engine: Engine, view: View, allowed: np.ndarray) -> Hashed:
        """The buckets of a view, with what was added since; made anew when much has ended or the vectors changed."""
        engine.sync_index()
        of, epoch = f"{engine.db.get_state('generation')} {engine.embedder.name}", engine.db.get_state("epoch")
        known = self._hashed.get(view)
        if known is not None and known.of == of:
            num_old = int(np.searchsorted(allowed, known.ids[-1], side="right"))
            whole = known.epoch == epoch or bool(np.isin(allowed[:num_old], known.ids, assume_unique=True).all())
            num_gone = len(known.ids) - num_old
            if whole and num_gone <= MAX_GONE_SHARE * len(allowed) and len(allowed) <= 2 * known.num_first:
                known.epoch = epoch
                if num_old < len(allowed):
                    known.buckets.add(engine.index.get(allowed[num_old:]))
                    known.ids = np.concatenate([known.ids, allowed[num_old:]])
                return known
        buckets = Buckets(engine.index.get(allowed), self.num_buckets, self.num_tables, self.seed)
        self._hashed[view] = Hashed(of, epoch, allowed, buckets, len(allowed))
        return self._hashed[view]

    # Quiet hours: forget and merge

    def consolidate(self, engine: Engine, scope: Scope) -> Draft:
        """Forget, then merge, in each group of thoughts that hold."""
        held = notes.seen(engine.db, View(scope.filter, self.name, (THOUGHT,), holding=True))
        groups = self._groups(engine, scope, held)
        ended: dict[str, Note] = {}
        for pairs in self._forget(groups):
            ended |= pairs
        for id_ in list(ended):
            while ended[id_].id in ended:  # what contradicts it was contradicted in turn
                ended[id_] = ended[ended[id_].id]
        confirmed: dict[str, NewNote] = {}
        for id_, because in ended.items():
            item = confirmed.setdefault(because.id, self._again(because))
            item.closes = (*item.closes, id_)
        left = [[note for note in group if note.id not in ended and note.id not in confirmed] for group in groups]
        self._close_first_versions(engine, list(confirmed.values()))
        return Draft([*confirmed.values(), *self._merge(engine, left)])

    def _groups(self, engine: Engine, scope: Scope, held: Mapping[int, Note]) -> list[list[Note]]:
        """The thoughts that are tidied together, oldest first in each group; for a language model only groups that grew."""
        told = {row: note for row, note in held.items() if "subject" in note.meta}
        groups: dict[Any, list[Note]] = {}
        if self.group_by == "bucket" and told:
            vectors = engine.embed([note.key or note.text for note in told.values()])
            marks = Buckets(vectors, self.num_buckets or 2, 1, self.seed).of(vectors)[:, 0].tolist()
        else:
            marks = [str(note.meta["subject"]).casefold() for note in told.values()]
        for mark, note in zip(marks, told.values(), strict=True):
            groups.setdefault(mark, []).append(note)
        found = [
            sorted(group, key=lambda note: note.at or note.recorded_at) for group in groups.values() if len(group) > 1
        ]
        if self.lm is None:
            return found
        runs = [run for run in consolidation.runs(engine.db, scope.user) if run.method == self.name]
        grown = [group for group in found if not runs or any(note.recorded_at > runs[0].at for note in group)]
        size = self.max_group
        parts = [group[first : first + size] for group in grown for first in range(0, len(group), size)]
        return [part for part in parts if len(part) > 1]

    def _forget(self, groups: Sequence[Sequence[Note]]) -> list[dict[str, Note]]:
        """For each group: the thoughts that hold no longer, by id, each with the later thought that contradicts it."""
        if self.lm is None:
            by_bucket = groups if self.group_by == "bucket" else ()  # by head, all of it was closed when it was said
            return [contradicted(group) for group in by_bucket]
        asked = [tim_prompts.group_messages(tim_prompts.FORGET, group) for group in groups]
        found = []
        for group, reply in zip(groups, self._ask(asked, tim_prompts.Contradictions), strict=True):
            pairs: dict[str, Note] = {}
            for item in () if isinstance(reply, RecollectError) else reply.contradictions:
                if 0 <= item.id < item.because < len(group):  # ids are in order of time
                    pairs.setdefault(group[item.id].id, group[item.because])
            found.append(pairs if len(pairs) <= self.max_dropped_share * len(group) else {})
        return found

    def _merge(self, engine: Engine, groups: Sequence[Sequence[Note]]) -> list[NewNote]:
        """Thoughts that say as one what several of a group say, whose place they take."""
        groups = [group for group in groups if len(group) > 1]
        firsts = notes.first_versions(engine.db, [note.id for group in groups for note in group])
        parts = notes.by_ids(engine.db, {id_ for ids in firsts.values() for id_ in ids})

        def parts_of(chosen: Iterable[Note]) -> list[Note]:
            found = [parts[id_] for note in chosen for id_ in firsts.get(note.id, ()) if id_ in parts]
            return [part for part in found if part.closed_by is None]

        merged = []
        if self.lm is None:
            bundles = [bundle for group in groups for bundle in bundles_of(group, parts_of, self.max_joined)]
            merged = [(bundle, join(parts_of(bundle))) for bundle in bundles]
        else:
            asked = [tim_prompts.group_messages(tim_prompts.MERGE, group) for group in groups]
            for group, reply in zip(groups, self._ask(asked, tim_prompts.Merged), strict=True):
                taken: set[int] = set()
                for item in () if isinstance(reply, RecollectError) else reply.merged:
                    ids = sorted({id_ for id_ in item.ids if 0 <= id_ < len(group)} - taken)
                    chosen = [group[id_] for id_ in ids]
                    if len(chosen) > 1 and says_all(item.sentence, chosen, self.max_dropped_share):
                        taken |= set(ids)
                        merged.append((chosen, item.sentence))
        return [
            self._joined(parts_of(chosen), sentence, [id_ for note in chosen for id_ in note.sources], chosen)
            for chosen, sentence in merged
            if parts_of(chosen)
        ]

    def _joined(
        self, parts: Sequence[Note], sentence: str, sources: Iterable[str], replaces: Iterable[Note]
    ) -> NewNote:
        """A thought that says what several parts say, in the place of others; it rests on all their sources."""
        head = parts[0].meta["subject"]
        note = new_note(self, THOUGHT, sentence, tuple(sources), meta={"subject": head, "joined": len(parts)})
        return NewNote(note, replaces=tuple(old.id for old in replaces), same=digest(sentence))

    def _again(self, note: Note) -> NewNote:
        """A new version of a thought that says what it said."""
        version = new_note(
            self, note.kind, note.text, note.sources,
            key=note.key, valid_from=note.valid_from, any_source=note.any_source, meta=note.meta,
        )  # fmt: skip
        return NewNote(version, replaces=(note.id,), same=digest(note.text))

    def rederive(self, engine: Engine, scope: Scope, notes: Sequence[Note]) -> Draft:
        """Nothing: merged thoughts give way to those that they replaced, and a conclusion goes with its evidence."""
        return Draft()

    def _ask(self, requests: Sequence[Any], schema: type[BaseModel]) -> list[Any]:
        """For each request the object of the schema, or the SchemaBroken. Raises Unavailable."""
        assert self.lm is not None
        replies = complete_all(self.lm, requests, schema, max_tokens=self.max_tokens)
        for reply in replies:
            if isinstance(reply, RecollectError) and not isinstance(reply, SchemaBroken):
                raise reply
        return [reply if isinstance(reply, RecollectError) else reply.parsed for reply in replies]
