"""A-MEM: every turn becomes a note with keywords, tags and a context, linked to its kin, and old notes learn from new ones.

A note is {content, time, keywords, tags, context, embedding, links}; what is embedded is content, keywords, tags and context
together. A new note is compared with its `num_neighbours` nearest. Some of them it is linked to; others it makes
better understood, and these *evolve*: a new version with another context and other tags takes the old one's place. Reading
takes the nearest notes and, beside them, notes that they are linked to.

Paper: A-MEM: Agentic Memory for LLM Agents, arXiv:2502.12110 (2025), sections 3.1 to 3.4.
Differs: links are followed both ways and join the first versions of notes, so that evolving keeps them. An evolved note is
embedded at once, where the authors' code waits for 100 evolutions; its old version is kept, is recalled as of a time
before, and comes back when the episode that changed it is forgotten. A recall for k records gives at most `linked_share` of
the places to linked notes, where the paper adds up to k to k. The first note of all asks for no evolution. A turn said again
in the same words by the same speaker is one more source of its note. Names of those who speak leave the query before it is
embedded. A note whose fact a newer one contradicts is closed. What the language model answers is validated: only
neighbours that were shown can be linked or evolve.
Without a language model keywords, tags and context come from the built-in analyst; two notes are linked when they are near
and share a rare keyword or name; a neighbour evolves only when the new turn says what one of its phrases means ("option B is
the Lisbon flat").
Cost: 2 calls of the language model an episode; one vector a note and one for each evolution (2 bytes a dimension), 0 to
`num_neighbours` links. A recall is one scan of the vectors and four indexed look-ups.

Shapes: N new notes of a batch, D dimension of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.errors import RecollectError, SchemaBroken
from recollect.lm.meter import complete_all
from recollect.store import analyst, lexical, notes
from recollect.store.a_mem_box import Box, Member
from recollect.store.a_mem_prompts import (
    MAX_CHARS,
    Construction,
    Evolution,
    Update,
    construct_messages,
    evolve_messages,
)
from recollect.store.duplicates import digest, near_identical
from recollect.store.engine import Engine
from recollect.store.facts import Fact, facts
from recollect.store.hits import explain, note_hit
from recollect.store.meanings import meanings, speaks_of
from recollect.store.method import Draft, Request, Scope, view_of
from recollect.store.notes import NewNote
from recollect.store.records import Answer, Episode, Hit, Link, Note
from recollect.store.settling import close_older, fact_meta, new_note
from recollect.store.views import View

if TYPE_CHECKING:
    from recollect.lm import LanguageModel

KIND = "note"
LINKED = "linked"  # the relation of links
RARE_SHARE = 0.02  # of the episodes: a word that stands in more of them tells nothing


@dataclass
class AMem:
    """Notes that link and evolve.

    num_neighbours: nearest notes that a new one is compared with.
    linked_share: the most of what a recall returns that is linked to the rest, not found itself.
    num_keywords, num_tags: of a note that the analyst writes.
    least_cosine: of two notes that the analyst links.
    max_tokens: of a reply of the language model.
    """

    num_neighbours: int = 5  # paper's default
    linked_share: float = 0.5  # k found and k linked
    num_keywords: int = 5
    num_tags: int = 3
    least_cosine: float = 0.4
    max_tokens: int = 1_000  # paper's default
    lm: LanguageModel | None = None
    name = "a-mem"
    version = "1"

    # Writing

    def encode(self, engine: Engine, scope: Scope, episodes: Sequence[Episode]) -> Draft:
        """A note for each turn; then, one after the other, its links and what it changes in its neighbours."""
        draft = Draft()
        new: list[tuple[NewNote, Episode]] = []
        groups = self._without_repeats(engine, scope, episodes, draft)
        for group, made in zip(groups, self._construct(engine, scope, [group[0] for group in groups]), strict=True):
            if isinstance(made, Construction):
                new.append((self._new_note(group, made), group[0]))
            else:
                draft.failed |= {episode.id: str(made) for episode in group}
        stated = [(item, fact, said.at) for item, said in new if (fact := _first_fact(said)) is not None]
        close_older(engine, scope, self, KIND, stated)
        vectors = engine.embed_notes([item for item, _ in new])  # (N, D)
        box = Box(engine, View(scope.filter, self.name, (KIND,)))
        for (item, episode), vector in zip(new, vectors, strict=True):
            near = box.nearest(vector, self.num_neighbours)
            try:
                decision = (
                    self._decide(engine, item, episode, near) if near else Evolution(links=[], tags=[], updates=[])
                )
            except SchemaBroken as error:
                draft.failed |= {source: str(error) for source in item.note.sources}
                continue
            evolved = self._apply(item, episode, near, decision, draft)
            box.take(item, item.note.id, episode.at)
            for member, version in evolved:
                box.take(version, member.first, member.said_at, instead_of=member.note.id)
            draft.notes += [item, *(version for _, version in evolved)]
        versions = {old: item.note.id for item in draft.notes for old in item.replaces}
        for item in draft.notes:
            item.closes = tuple(dict.fromkeys(id_ for closed in item.closes for id_ in _with_later(closed, versions)))
        return draft

    def _without_repeats(
        self, engine: Engine, scope: Scope, episodes: Sequence[Episode], draft: Draft
    ) -> list[list[Episode]]:
        """The episodes to make notes of, each with those that repeat it; what repeats a stored note becomes its source."""
        marks = {episode.id: digest(_said(episode.speaker, episode.text)) for episode in episodes}
        known = notes.with_mark(engine.db, View(scope.filter, self.name, (KIND,)), set(marks.values()))
        firsts = notes.first_versions(engine.db, {note.id for found in known.values() for note in found.values()})
        groups: dict[bytes, list[list[Episode]]] = {}
        for episode in episodes:
            mark = marks[episode.id]
            stored = known.get(mark, {}).values()
            note = next((note for note in stored if _repeats(episode, note.meta.get("speaker"), note.text)), None)
            if note is not None:
                draft.sources += [(first, episode.id) for first in firsts.get(note.id, ())]
                continue
            same = groups.setdefault(mark, [])
            group = next((group for group in same if _repeats(episode, group[0].speaker, group[0].text)), None)
            if group is None:
                same.append([episode])
            else:
                group.append(episode)
        return [group for same in groups.values() for group in same]

    def _construct(
        self, engine: Engine, scope: Scope, episodes: Sequence[Episode]
    ) -> list[Construction | RecollectError]:
        """Keywords, context and tags of each episode, or why there are none. Raises Unavailable."""
        if self.lm is None:
            num, rarity = engine.db.num_episodes(scope.user), _frequency(engine, scope.user)
            return [
                Construction(
                    keywords=analyst.keywords(episode.text, self.num_keywords, frequency=rarity, num_documents=num),
                    context=analyst.gist(episode.text, speaker=episode.speaker, at=episode.at),
                    tags=analyst.tags(episode.text, self.num_tags),
                )
                for episode in episodes
            ]
        requests = [construct_messages(_shown(episode.speaker, episode.at, episode.text)) for episode in episodes]
        made: list[Construction | RecollectError] = []
        for reply in complete_all(self.lm, requests, Construction, max_tokens=self.max_tokens):
            if isinstance(reply, RecollectError) and not isinstance(reply, SchemaBroken):
                raise reply
            made.append(reply if isinstance(reply, RecollectError) else reply.parsed)
        return made

    def _new_note(self, group: Sequence[Episode], made: Construction) -> NewNote:
        episode = group[0]
        meta = _meta(episode.speaker, made.keywords, made.tags, made.context)
        fact = _first_fact(episode)
        meta |= fact_meta(fact) if fact is not None else {}
        note = new_note(
            self, KIND, episode.text, group, key=self.key_of(episode.text, meta), any_source=True, meta=meta
        )
        return NewNote(note, same=digest(_said(episode.speaker, episode.text)))

    def key_of(self, text: str, meta: Mapping[str, Any]) -> str:
        """What is embedded: content, keywords, tags and context together (section 3.1, equation 3)."""
        parts = [_said(meta["speaker"], text), ", ".join(meta["keywords"]), ", ".join(meta["tags"]), meta["context"]]
        return "\n".join(part for part in parts if part)

    def _decide(self, engine: Engine, item: NewNote, episode: Episode, near: Sequence[Member]) -> Evolution:
        """What is linked and what evolves. Raises SchemaBroken and Unavailable."""
        if self.lm is None:
            return self._decide_by_rule(engine, item.note, episode, near)
        new = _shown(episode.speaker, episode.at, episode.text) | _learned(item.note)
        neighbours = [
            _shown(member.note.meta.get("speaker"), member.said_at, member.note.text) | _learned(member.note)
            for member in near
        ]
        return self.lm.complete(evolve_messages(new, neighbours), Evolution, max_tokens=self.max_tokens).parsed

    def _decide_by_rule(self, engine: Engine, note: Note, episode: Episode, near: Sequence[Member]) -> Evolution:
        """Links to the near that share a rare word of the keywords or a name; contexts that gain what a phrase means."""
        telling = [_telling(note), *(_telling(member.note) for member in near)]
        counts = _frequency(engine, episode.user)(sorted(set().union(*telling)))
        most = max(2.0, RARE_SHARE * engine.db.num_episodes(episode.user))
        rare = {stem for stem, count in counts.items() if count <= most}
        links = [
            place
            for place, member in enumerate(near)
            if member.cosine >= self.least_cosine and telling[0] & telling[place + 1] & rare
        ]
        told_now = meanings(episode)
        updates = []
        for place, member in enumerate(near):
            told = [
                sentence
                for phrase, owner, sentence in told_now
                if speaks_of(member.note.text, member.note.meta.get("speaker"), phrase, owner)
            ]
            told = [sentence for sentence in told if sentence not in member.note.meta.get("context", "")]
            if told:
                context = " ".join([member.note.meta.get("context", ""), *told])
                updates.append(Update(index=place, context=context, tags=list(member.note.meta.get("tags", ()))))
        return Evolution(links=sorted({*links, *(update.index for update in updates)}), tags=[], updates=updates)

    def _apply(
        self, item: NewNote, episode: Episode, near: Sequence[Member], decision: Evolution, draft: Draft
    ) -> list[tuple[Member, NewNote]]:
        """Add the links to the draft and the tags to the new note; the neighbours that evolve, with their new versions."""
        for place in sorted(set(decision.links)):
            if 0 <= place < len(near):
                weight = max(near[place].cosine, 0.01)
                draft.links.append(Link(item.note.id, near[place].first, LINKED, weight, self.name))
        if decision.tags:
            meta = dict(item.note.meta) | {"tags": _clean(decision.tags)}
            item.note, item.embedded_by = replace(item.note, meta=meta, key=self.key_of(item.note.text, meta)), ""
        evolved: dict[int, NewNote] = {}
        for update in decision.updates:
            if not 0 <= update.index < len(near) or update.index in evolved or not update.context.strip():
                continue
            old = near[update.index].note
            meta = dict(old.meta) | {"tags": _clean(update.tags) or old.meta["tags"], "context": update.context.strip()}
            if meta == old.meta:
                continue
            own = old.sources[:1] if old.any_source else old.sources
            sources = (*own, *item.note.sources[:1])
            version = new_note(self, KIND, old.text, sources, key=self.key_of(old.text, meta), meta=meta)
            mark = digest(_said(old.meta.get("speaker"), old.text))
            before = near[update.index].item
            closer = old.closed_by if before is None else before.closed_by
            evolved[update.index] = NewNote(version, replaces=(old.id,), closed_by=closer, same=mark)
        return [(near[place], version) for place, version in evolved.items()]

    # Reading

    def recall(self, engine: Engine, request: Request) -> list[Hit]:
        """The nearest notes and, for up to `linked_share` of the k places, notes linked to them.

        A note found scores its cosine with the query; one that is linked, the cosine of the note that it is linked to times
        the weight of the link, if that is more.
        """
        view = view_of(self, request, [KIND])
        near = engine.nearest_notes(engine.query_vector(request.text, request.filter.user), view, request.k)
        with engine.db.snapshot():
            return self._hits(engine, request, view, {row: cosine for row, cosine, _ in near})

    def _hits(self, engine: Engine, request: Request, view: View, cosines: Mapping[int, float]) -> list[Hit]:
        """The hits for the nearest notes (row -> cosine, best first) and what they are linked to."""
        by_row = notes.by_rows(engine.db, cosines, request.filter.until)
        rows = [row for row in cosines if row in by_row]
        most = int(request.k * self.linked_share)
        found = rows[: request.k - most]
        linked = self._linked(engine, view, {by_row[row].id: cosines[row] for row in found})
        linked = dict([(row, score) for row, score in linked.items() if row not in found][:most])
        chosen = list(dict.fromkeys([*found, *linked, *rows]))[: request.k]
        by_row |= notes.by_rows(engine.db, linked, request.filter.until)
        own, lent = (np.array([scores.get(row, 0.0) for row in chosen]) for scores in (cosines, linked))
        scores = np.maximum(own, lent)
        firsts = notes.first_versions(engine.db, [by_row[row].id for row in chosen])
        origins = self._origins(engine, {ids[0] for ids in firsts.values()})
        hits = []
        for place in np.argsort(-scores, kind="stable"):
            note = by_row[chosen[place]]
            said, sources = origins[firsts[note.id][0]]
            reason = "cosine" if own[place] >= lent[place] else "link"
            why = explain({reason: scores}, {reason: 1.0}, int(place))
            hit = note_hit(note, float(scores[place]), why, said=said)
            hits.append(replace(hit, at=said.at, sources=tuple(dict.fromkeys((*sources, *hit.sources)))))
        return hits

    def _linked(self, engine: Engine, view: View, found: Mapping[str, float]) -> dict[int, float]:
        """The notes of the view that links lead to from the found ones (id -> cosine): row -> score, best first."""
        firsts = {ids[0]: id_ for id_, ids in notes.first_versions(engine.db, found).items()}
        lent: dict[str, float] = {}
        for link in notes.links_at(engine.db, firsts, view.filter.user, self.name):
            for here, there in self.ways_of(link):
                if here in firsts:
                    lent[there] = max(lent.get(there, 0.0), found[firsts[here]] * link.weight)
        later = notes.versions(engine.db, lent)
        scores = {row: lent[later[row][0]] for row in notes.among(engine.db, view, later)}
        return dict(sorted(scores.items(), key=lambda entry: (-entry[1], entry[0])))

    def ways_of(self, link: Link) -> list[tuple[str, str]]:
        """(from, to): the ways in which a link is followed."""
        return [(link.source, link.target), (link.target, link.source)]

    def _origins(self, engine: Engine, firsts: set[str]) -> dict[str, tuple[Episode, tuple[str, ...]]]:
        """For first versions by id: the episode that each is the note of, and all that say it."""
        found = [note for note in notes.by_ids(engine.db, firsts).values() if note.sources]
        episodes = engine.db.episodes_by_id({note.sources[0] for note in found})
        return {note.id: (episodes[note.sources[0]], note.sources) for note in found if note.sources[0] in episodes}

    # Quiet hours

    def consolidate(self, engine: Engine, scope: Scope) -> Draft:
        """Nothing: notes evolve when they are written, and are embedded anew at once."""
        return Draft()

    def rederive(self, engine: Engine, scope: Scope, notes: Sequence[Note]) -> Draft:
        """Nothing: an evolved note that loses a source gives way to its older version."""
        return Draft()

    def after_answer(self, engine: Engine, scope: Scope, question: str, answer: Answer) -> Draft:
        """Nothing is learned from an answer."""
        return Draft()


def _first_fact(episode: Episode) -> Fact | None:
    """The first fact of a turn that a newer one could end, or that ends others."""
    stated = facts(episode.text, speaker=episode.speaker, at=episode.at)
    return next((fact for fact in stated if fact.single or fact.ends), None)


def _with_later(id_: str, versions: Mapping[str, str]) -> list[str]:
    """A note and the versions that have taken its place in a draft."""
    ids = [id_]
    while ids[-1] in versions:
        ids.append(versions[ids[-1]])
    return ids


def _said(speaker: str | None, text: str) -> str:
    """The content of a note, as the paper's: who says what."""
    return f"{speaker} says: {text}" if speaker else text


def _repeats(episode: Episode, speaker: Any, text: str) -> bool:
    return speaker == episode.speaker and near_identical(episode.text, text)


def _shown(speaker: Any, at: datetime, text: str) -> dict[str, Any]:
    """A turn as the language model sees it."""
    return {"speaker": speaker or "unknown", "time": f"{at:%A %Y-%m-%d %H:%M}", "text": text[:MAX_CHARS]}


def _learned(note: Note) -> dict[str, Any]:
    return {name: note.meta.get(name) for name in ("context", "keywords", "tags")}


def _meta(speaker: str | None, keywords: Sequence[str], tags: Sequence[str], context: str) -> dict[str, Any]:
    return {"speaker": speaker, "keywords": _clean(keywords), "tags": _clean(tags), "context": context.strip()}


def _clean(words: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))


def _telling(note: Note) -> set[str]:
    """The stems of a note's keywords."""
    return set(lexical.terms(" ".join(note.meta.get("keywords", ()))))


def _frequency(engine: Engine, user: str) -> Callable[[list[str]], dict[str, int]]:
    """In how many of a user's episodes each of some stems stands."""

    def count(stems: list[str]) -> dict[str, int]:
        ids = {stem: lexical.term_id(stem) for stem in stems}
        counts = engine.db.document_frequency(user, ids.values())
        return {stem: counts.get(id_, 0) for stem, id_ in ids.items()}

    return count
