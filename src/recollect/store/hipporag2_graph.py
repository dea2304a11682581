"""HippoRAG 2's graph in memory: phrases and passages as nodes, joined by what the facts say, and where each vector lies.

`Records` keeps a scope's facts, their sources and the synonyms as columns, and reads what was written since at each recall;
when something was forgotten, closed or derived again, it is read anew. `Records.graph` makes the graph of those passages
that a request may see, as of a time: a fact counts for each of these passages that carries it, a fact that was closed
leads nowhere, and a phrase without a passage is not there. So the graph is the same however its passages came in.

Cost: about 10 microseconds a note to read, 1 a link for a graph; 60 bytes a note and 24 a link of memory.

Shapes: N passages, M phrases, F facts, S pairs of a fact and a passage that carries it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recollect.store.database import Database
from recollect.store.engine import Engine
from recollect.store.graph import Transitions
from recollect.store.views import Filter

PHRASE, FACT, SYNONYM = "phrase", "fact", "synonym"
NEVER = 2**62  # a time after all others, microseconds
KEPT = 4  # scopes, and graphs of each, that are remembered

Normalise = Callable[[str], str]


@dataclass(slots=True)
class Graph:
    """What one request may see. Nodes are the M phrases, then the N passages."""

    transitions: Transitions
    passages: np.ndarray  # int64 (N,), rows of episodes
    facts: np.ndarray  # int64 (F,), rows of notes that hold
    ends: np.ndarray  # int64 (F, 2), the phrases of a fact; -1 for none
    num_passages_of: np.ndarray  # int64 (M,), passages that a phrase stands in
    num_phrases: int
    chunks: np.ndarray  # sorted ids of the chunks of facts and passages
    owners: np.ndarray  # for each chunk: a place in `facts`, or F and a place in `passages`


class Column:
    """A column of numbers that grows."""

    def __init__(self) -> None:
        self.values = np.empty(0, np.int64)

    def extend(self, values: list[int]) -> None:
        if values:
            self.values = np.concatenate([self.values, np.array(values, np.int64)])


@dataclass(slots=True)
class Records:
    """What the graphs of one scope are made of, in order of writing."""

    state: tuple[Any, ...] = ()  # while it is the same, there is nothing new but what was appended
    upto: int = 0  # the last episode that the method has read
    last_episode: int = 0
    last_note: int = 0
    changed: int = 0  # how often something was appended
    phrases: dict[str, int] = field(default_factory=dict)  # text -> number
    node_of: dict[str, int] = field(default_factory=dict)  # id of a phrase's note -> number
    passages: Column = field(default_factory=Column)  # (N,) rows of episodes
    facts: Column = field(default_factory=Column)  # (F,) rows of notes
    subjects: Column = field(default_factory=Column)  # (F,) numbers of phrases
    objects: Column = field(default_factory=Column)  # (F,) numbers of phrases, -1 for none
    closed_at: Column = field(default_factory=Column)  # (F,) when its end became known, NEVER while it holds
    carried: Column = field(default_factory=Column)  # (S,) rows of notes
    carriers: Column = field(default_factory=Column)  # (S,) rows of episodes
    chunks: dict[str, tuple[Column, Column]] = field(
        default_factory=lambda: {owner: (Column(), Column()) for owner in ("note", "episode")}
    )  # ids of chunks, rows of their owners
    synonyms: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))  # two phrases and the cosine
    graphs: OrderedDict[Filter, tuple[int, Graph]] = field(default_factory=OrderedDict)

    def read(self, db: Database, scope: Filter, method: str, normalise: Normalise) -> None:
        """Append what the scope (a user, perhaps one agent) holds and is not here yet."""
        where, values = scope.sql("r")
        # CROSS JOIN keeps SQLite to the order of the tables: what is new is a short range of rows.
        source = "FROM {0} r CROSS JOIN sessions s ON s.ref = r.session CROSS JOIN users u ON u.ref = s.user "
        episodes, notes = source.format("episodes"), source.format("notes")
        own, bound = f"{where} AND r.method = ?", [*values, method]
        mark = db.rows(
            "SELECT upto FROM derivations d JOIN users u ON u.ref = d.user WHERE d.method = ? AND u.name = ?",
            (method, scope.user),
        )
        upto = mark[0][0] if mark else 0
        fresh = db.rows(
            f"SELECT r.seq {episodes} WHERE {where} AND r.seq > ? ORDER BY r.seq", [*values, self.last_episode]
        )
        made = db.rows(
            "SELECT r.seq, r.id, r.kind, r.text, r.meta, CASE WHEN r.closed_by IS NULL THEN NULL "
            f"ELSE (SELECT c.at FROM notes c WHERE c.seq = r.closed_by) END {notes} WHERE {own} AND r.stale = 0 "
            "AND r.replaced_by IS NULL AND r.seq > ? ORDER BY r.seq",
            [*bound, self.last_note],
        )
        pairs = db.rows(
            f"SELECT ns.note, ns.episode {notes} CROSS JOIN note_sources ns ON ns.note = r.seq WHERE {own} AND r.kind = ? "
            "AND r.seq > ? ORDER BY ns.note, ns.episode",
            [*bound, FACT, self.last_note],
        )
        again = source.replace(" r ", " r ON r.seq = ns.note ", 1).format("note_sources ns CROSS JOIN notes")
        pairs += db.rows(
            f"SELECT ns.note, ns.episode {again} WHERE ns.episode > ? AND {own} AND r.kind = ? "
            "AND r.seq <= ? ORDER BY ns.note, ns.episode",
            [self.upto, *bound, FACT, self.last_note],
        )
        for owner, table, condition, these, last in (
            ("episode", episodes, where, values, self.last_episode),
            ("note", notes, f"{own} AND r.kind = '{FACT}'", bound, self.last_note),
        ):
            rows = db.rows(
                f"SELECT c.id, c.{owner} {table} CROSS JOIN chunks c ON c.{owner} = r.seq WHERE {condition} AND r.seq > ?",
                [*these, last],
            )
            for column, part in zip(self.chunks[owner], zip(*rows, strict=True) if rows else (), strict=False):
                column.extend(list(part))
        self.passages.extend([row[0] for row in fresh])
        self.carried.extend([row[0] for row in pairs])
        self.carriers.extend([row[1] for row in pairs])
        self._take_notes(made, normalise)
        if made:
            self._take_synonyms(db, scope.user, method)
        self.upto = upto
        self.last_episode = fresh[-1][0] if fresh else self.last_episode
        self.last_note = made[-1][0] if made else self.last_note
        self.changed += bool(fresh or made or pairs)

    def _take_notes(self, made: list[tuple], normalise: Normalise) -> None:
        columns: list[list[int]] = [[], [], [], []]
        for seq, id_, kind, text, meta, closed_at in made:
            if kind == PHRASE:
                self.node_of[id_] = self._number(text)
            elif kind == FACT:
                said = json.loads(meta)
                ends = (self._number(normalise(said[part])) for part in ("subject", "value"))
                row = (seq, *ends, NEVER if closed_at is None else closed_at)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        for column, values in zip((self.facts, self.subjects, self.objects, self.closed_at), columns, strict=True):
            column.extend(values)

    def _number(self, phrase: str) -> int:
        return self.phrases.setdefault(phrase, len(self.phrases)) if phrase else -1

    def _take_synonyms(self, db: Database, user: str, method: str) -> None:
        rows = db.rows(
            "SELECT l.source, l.target, l.weight FROM links l JOIN users u ON u.ref = l.user "
            "WHERE u.name = ? AND l.method = ? AND l.relation = ? ORDER BY l.source, l.target",
            (user, method, SYNONYM),
        )
        known = [
            (self.node_of[one], self.node_of[other], weight)
            for one, other, weight in rows
            if one in self.node_of and other in self.node_of
        ]
        self.synonyms = np.array(known, np.float64).reshape(-1, 3)

    def graph(self, db: Database, filter_: Filter, relation_weight: float) -> Graph:
        """The graph of what a filter lets through; the last ones are remembered."""
        known = self.graphs.get(filter_)
        if known is None or known[0] != self.changed:
            narrow = filter_ != Filter(filter_.user, filter_.agent)
            self.graphs[filter_] = (
                self.changed,
                self._build(_allowed(db, filter_) if narrow else None, filter_, relation_weight),
            )
        self.graphs.move_to_end(filter_)
        while len(self.graphs) > KEPT:
            self.graphs.popitem(last=False)
        return self.graphs[filter_][1]

    def _build(self, allowed: np.ndarray | None, filter_: Filter, relation_weight: float) -> Graph:
        passages = self.passages.values
        if allowed is not None:
            passages = np.intersect1d(passages, allowed, assume_unique=True)
        num_phrases, num_nodes = len(self.phrases), len(self.phrases) + len(passages)
        fact = _places(self.facts.values, self.carried.values)  # (S,)
        passage = _places(passages, self.carriers.values)  # (S,)
        seen = (fact >= 0) & (passage >= 0)
        fact, passage = np.divmod(np.unique(fact[seen] * num_nodes + passage[seen]), max(num_nodes, 1))
        holds = self.closed_at.values > (NEVER - 1 if filter_.until is None else filter_.until)  # (F,)
        ends = np.stack([self.subjects.values, self.objects.values], axis=1)  # (F, 2)

        both = np.concatenate([ends[fact, 0], ends[fact, 1]])
        context = np.unique(both[both >= 0] * num_nodes + np.concatenate([passage, passage])[both >= 0])
        phrase, place = np.divmod(context, num_nodes)
        num_passages_of = np.bincount(phrase, minlength=num_phrases)

        related = ends[fact[holds[fact]]]  # a row for each passage that says it
        related = np.sort(related[(related >= 0).all(axis=1) & (related[:, 0] != related[:, 1])], axis=1)
        pairs, counts = np.unique(related[:, 0] * num_nodes + related[:, 1], return_counts=True)
        near = self.synonyms[(num_passages_of[self.synonyms[:, :2].astype(np.int64)] > 0).all(axis=1)]
        near_pairs, first = np.unique(np.sort(near[:, :2].astype(np.int64), axis=1) @ [num_nodes, 1], return_index=True)
        own = ~np.isin(pairs, near_pairs)  # a synonym edge takes the place of a relation edge, as in the authors' code
        one, other = np.divmod(np.concatenate([pairs[own], near_pairs]), num_nodes)
        weights = np.concatenate([relation_weight * counts[own], near[first, 2], np.ones(len(context))])
        one, other = np.concatenate([one, phrase]), np.concatenate([other, num_phrases + place])
        transitions = Transitions(
            np.concatenate([one, other]), np.concatenate([other, one]), np.concatenate([weights, weights]), num_nodes
        )

        shown = np.flatnonzero(holds & (np.bincount(fact, minlength=len(holds)) > 0))
        facts = self.facts.values[shown]
        return Graph(
            transitions,
            passages,
            facts,
            ends[shown],
            num_passages_of,
            num_phrases,
            *self._chunks_of(facts, passages),
        )

    def _chunks_of(self, facts: np.ndarray, passages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids, owners = [], []
        for owner, rows, first in (("note", facts, 0), ("episode", passages, len(facts))):
            chunks, places = self.chunks[owner][0].values, _places(rows, self.chunks[owner][1].values)
            ids.append(chunks[places >= 0])
            owners.append(places[places >= 0] + first)
        order = np.argsort(np.concatenate(ids))
        return np.concatenate(ids)[order], np.concatenate(owners)[order]


def _places(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted row stands in sorted `rows`, -1 where it does not."""
    places = np.searchsorted(rows, wanted)
    places[places == len(rows)] = 0
    return np.where(rows[places] == wanted, places, -1) if len(rows) else np.full(len(wanted), -1)


def _allowed(db: Database, filter_: Filter) -> np.ndarray:
    where, values = filter_.sql("e")
    rows = db.rows(
        f"SELECT e.seq FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user WHERE {where}",
        values,
    )
    return np.sort(np.fromiter((row[0] for row in rows), np.int64, len(rows)))


class Graphs:
    """The records of the last scopes that were asked about, brought up to the database at each call."""

    def __init__(self) -> None:
        self._records: OrderedDict[tuple, Records] = OrderedDict()

    def graph(
        self, engine: Engine, method: str, filter_: Filter, normalise: Normalise, relation_weight: float
    ) -> Graph:
        """The graph that a request may see; to be called within `Engine.reading`."""
        db, scope = engine.db, Filter(filter_.user, filter_.agent)
        key, state = (db.uuid, scope), _state(db, method)
        records = self._records.get(key)
        if records is None or records.state != state:
            records = self._records[key] = Records(state)
        records.read(db, scope, method, normalise)
        self._records.move_to_end(key)
        while len(self._records) > KEPT:
            self._records.popitem(last=False)
        return records.graph(db, filter_, relation_weight)


def _state(db: Database, method: str) -> tuple[Any, ...]:
    """Changes with everything that is not an appended note, or a source that a newly read episode has become."""
    waiting = db.rows(
        "SELECT count(*), CAST(sum(episode) AS BIGINT), CAST(sum(attempts) AS BIGINT) FROM underived WHERE method = ?",
        (method,),
    )
    return (db.get_state("epoch"), db.get_state("generation"), *waiting[0])
