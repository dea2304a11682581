"""The front door of the store: `recollect.open(path)` gives a Memory; everything a program does with it is a method of it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.store import forgetting, fulltext, lexical
from recollect.store.engine import Engine
from recollect.store.graph import pagerank
from recollect.store.method import Method, Request, make_method
from recollect.store.records import (
    DEFAULT_USER,
    EPISODE,
    Answer,
    Episode,
    Hit,
    Link,
    Note,
    Receipt,
    parse_time,
    to_json,
    to_micros,
)
from recollect.store.repair import VerifyReport, reindex, verify
from recollect.store.sqlite import Filter, NewEpisode
from recollect.store.transfer import ImportedRecords, export_records, import_records

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.embedders import Embedder

MAX_TEXT_CHARS = 64 * 2**20
MAX_NAME_CHARS = 1000
MAX_META_CHARS = 2**20
MAX_K = 10_000
Time = str | date | datetime
Progress = Callable[[int], None]  # called with the number of items just done


@dataclass(frozen=True, slots=True)
class AddReport:
    """What `add_many` did."""

    added: int
    existing: int  # already stored: same scope, source id or content, and time


@dataclass(frozen=True, slots=True)
class History:
    """All that is known about one record."""

    record: Episode | Note
    notes: tuple[Note, ...]  # derived from it
    sources: tuple[Episode, ...]  # that it was derived from
    links: tuple[Link, ...]
    before: tuple[Episode, ...]  # the two turns before it in its conversation
    after: tuple[Episode, ...]  # the two turns after it

    def to_json(self) -> dict[str, Any]:
        """This history as plain JSON values."""
        return to_json(self)


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a memory, for the user that it is bound to, and of its files."""

    num_episodes: int
    num_notes: int
    num_links: int
    num_sessions: int
    first_at: datetime | None
    last_at: datetime | None
    speakers: Mapping[str, int]
    embedder: str
    method: str
    num_missing_vectors: int
    index_note: str | None  # what would make searching faster, if anything
    database_bytes: int  # of the whole file, all users
    index_bytes: int
    bytes_per_episode: float  # (database + index) / episodes of all users

    def to_json(self) -> dict[str, Any]:
        """These figures as plain JSON values."""
        return to_json(self)


def open(
    path: str | os.PathLike[str] = ":memory:",
    *,
    user: str = DEFAULT_USER,
    agent: str | None = None,
    embedder: str | Embedder | None = None,
    method: str | Method | None = None,
    lm: LanguageModel | None = None,
) -> Memory:
    """Open a memory, creating the file if there is none.

    path: a file, or ":memory:" for one that ends with the process.
    user: whose memory it is; no call ever reads or writes another user's records.
    agent: narrows reads to, and marks writes as, one agent's.
    embedder: "minilm", "hashing", "sentence-transformers:NAME", "fastembed:NAME", "openai:MODEL@BASE_URL" or an instance;
        None takes the one that the database remembers, for a new one MiniLM where it is installed, else hashing.
    method: "episodic" (default) or an instance.
    lm: a language model for `answer`; without one the built-in extractive reader answers.

    Raises InvalidInput, Conflict (another embedder made the vectors), StorageFailed or Unavailable.
    """
    return Memory(path, user=user, agent=agent, embedder=embedder, method=method, lm=lm)


class Memory:
    """A long-term memory, bound to one user. A context manager; safe to use from several threads and processes."""

    def __init__(
        self,
        path: str | os.PathLike[str] = ":memory:",
        *,
        user: str = DEFAULT_USER,
        agent: str | None = None,
        embedder: str | Embedder | None = None,
        method: str | Method | None = None,
        lm: LanguageModel | None = None,
    ):
        self.user = _name(user, "user") or DEFAULT_USER
        self.agent = _name(agent, "agent")
        self.method = make_method(method)
        self.lm = lm
        if os.fspath(path) != ":memory:" and not os.fspath(path):
            raise InvalidInput("path: is empty; give the name of a file.")
        if str(path).startswith(("postgres://", "postgresql://")):
            raise InvalidInput("path: PostgreSQL is not supported by this version; give the name of a file.")
        self.engine = Engine(path, embedder)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. What was added is already durable."""
        self.engine.close()

    # Writing

    def add(
        self,
        text: str,
        *,
        speaker: str | None = None,
        session: str | None = None,
        at: Time | None = None,
        source_id: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Episode:
        """Remember one thing that was said or written; durable when this returns.

        at: when it was said (default now). source_id: its id where it came from; the same scope, source id (or content) and
        time twice is stored once, and the stored episode is returned.
        Raises InvalidInput, naming the field; Conflict when the source id is stored with another text.
        """
        item = {"text": text, "speaker": speaker, "session": session, "at": at, "source_id": source_id, "meta": meta}
        new = self._new_episode(item)
        self._write([new])
        if found := self.engine.db.existing([new.key]):
            id_ = found[new.key][0]
            return new.episode if id_ == new.episode.id else self._get_episode(id_)
        return new.episode

    def add_many(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        batch_size: int = 256,
        progress: Progress | None = None,
    ) -> AddReport:
        """Remember many things. Each item is a mapping with the arguments of `add`; each batch is durable when done.

        An item that cannot be used raises InvalidInput with its number; the batches before it are kept, so that a repeated
        call goes on where it stopped.
        """
        if batch_size < 1:
            raise InvalidInput("batch_size: must be at least 1.")
        added = existing = 0
        batch: list[NewEpisode] = []

        def flush() -> None:
            nonlocal added, existing
            written = self._write(batch)
            added += written
            existing += len(batch) - written
            if progress is not None:
                progress(len(batch))
            batch.clear()

        for number, item in enumerate(items):
            try:
                batch.append(self._new_episode(item))
            except InvalidInput as error:
                raise InvalidInput(f"item {number}: {error}") from None
            if len(batch) == batch_size:
                flush()
        if batch:
            flush()
        self.engine.settle(added)
        return AddReport(added, existing)

    def _new_episode(self, item: Mapping[str, Any]) -> NewEpisode:
        if not isinstance(item, Mapping):
            raise InvalidInput(f"item: expected a mapping with at least `text`, got {type(item).__name__}.")
        unknown = set(item) - {"text", "speaker", "session", "at", "source_id", "meta"}
        if unknown:
            raise InvalidInput(
                f"{min(unknown)}: unknown field; known are text, speaker, session, at, source_id and meta."
            )
        text = _text(item.get("text"), "text", MAX_TEXT_CHARS)
        now = datetime.now().astimezone()
        at = parse_time(item["at"]) if item.get("at") is not None else now
        speaker = _name(item.get("speaker"), "speaker")
        session = _name(item.get("session"), "session")
        source_id = _name(item.get("source_id"), "source_id")
        episode = Episode(
            id="ep_" + new_id(now),
            text=text,
            at=at,
            recorded_at=now,
            speaker=speaker,
            session=session,
            user=self.user,
            agent=self.agent,
            source_id=source_id,
            meta=_meta(item.get("meta")),
        )
        return NewEpisode(episode, episode_key(episode), lexical.term_ids(text))

    def _write(self, items: Sequence[NewEpisode]) -> int:
        stored = self.engine.db.existing([item.key for item in items])
        for item in items:
            if item.key in stored and stored[item.key][1] != item.episode.text:
                raise Conflict(
                    f"source_id: {item.episode.source_id!r:.60} is stored with another text; episodes never change, so give "
                    "the new version an id or a time of its own."
                )
        fresh = [item for item in items if item.key not in stored]
        added = self.engine.write(fresh) if fresh else 0
        self.method.encode(self.engine, [item.episode for item in fresh])
        return added

    def note(
        self,
        text: str,
        *,
        kind: str,
        sources: Sequence[str],
        valid_from: Time | None = None,
        valid_to: Time | None = None,
        method: str = "user",
        method_version: str = "1",
        meta: Mapping[str, Any] | None = None,
    ) -> Note:
        """Write a note derived from episodes, such as a fact or a summary.

        sources: ids of the episodes that it rests on; when all of them are forgotten it goes with them.
        Raises InvalidInput, also for a source that is not an episode of this user.
        """
        now = datetime.now().astimezone()
        if kind == EPISODE:
            raise InvalidInput("kind: 'episode' is taken; name what the note is, such as 'fact' or 'summary'.")
        start = parse_time(valid_from, "valid_from") if valid_from is not None else None
        end = parse_time(valid_to, "valid_to") if valid_to is not None else None
        if start and end and end < start:
            raise InvalidInput("valid_to: is earlier than valid_from.")
        note = Note(
            id="no_" + new_id(now),
            kind=_text(kind, "kind", MAX_NAME_CHARS),
            text=_text(text, "text", MAX_TEXT_CHARS),
            method=_text(method, "method", MAX_NAME_CHARS),
            method_version=_text(method_version, "method_version", MAX_NAME_CHARS),
            sources=tuple(dict.fromkeys(sources)),
            recorded_at=now,
            valid_from=start,
            valid_to=end,
            meta=_meta(meta),
        )
        chunks = self.engine.embed_text(note.text)
        self.engine.db.insert_note(note, self.user, self.agent, lexical.term_ids(note.text), chunks)
        return note

    def link(self, source: str, target: str, relation: str, *, weight: float = 1.0, method: str = "user") -> Link:
        """Join two records of this user (episodes or notes); an existing link gets the new weight."""
        if not isinstance(weight, int | float) or not np.isfinite(weight):
            raise InvalidInput(f"weight: {weight!r:.40} is not a finite number.")
        link = Link(source, target, _text(relation, "relation", MAX_NAME_CHARS), float(weight), method)
        self.engine.db.insert_links([link], self.user)
        return link

    # Reading

    def recall(
        self,
        query: str,
        k: int = 10,
        *,
        at: Time | None = None,
        before: Time | None = None,
        after: Time | None = None,
        session: str | None = None,
        speaker: str | None = None,
        kinds: Iterable[str] | None = None,
    ) -> list[Hit]:
        """The k memories that answer a query best, best first, each with its explanation.

        at: recall as things were known then: only what had been said by that time, and "last week" means the week before it.
        before, after: only what was said before, or at and after, these times.
        session, speaker: only these. kinds: only these, such as {"episode", "fact"}; None is all.
        Raises InvalidInput, naming the field.
        """
        _check_k(k)
        text = query_text(query)
        if isinstance(kinds, str):
            kinds = [kinds]
        filter_ = self._filter(at=at, before=before, after=after, session=session, speaker=speaker)
        asked_at = parse_time(at) if at is not None else datetime.now().astimezone()
        request = Request(text, k, asked_at, filter_, frozenset(kinds) if kinds is not None else None)
        return self.method.recall(self.engine, request)

    def _filter(
        self,
        *,
        at: Time | None = None,
        before: Time | None = None,
        after: Time | None = None,
        session: str | None = None,
        speaker: str | None = None,
    ) -> Filter:
        first = None if after is None else to_micros(parse_time(after, "after"))[0]
        end = None if before is None else to_micros(parse_time(before, "before"))[0]
        if first is not None and end is not None and first >= end:
            raise InvalidInput("after: is not earlier than `before`, so nothing can match.")
        return Filter(
            user=self.user,
            agent=self.agent,
            session=_name(session, "session"),
            speaker=_name(speaker, "speaker"),
            until=None if at is None else to_micros(parse_time(at))[0],
            after=first,
            before=end,
        )

    def answer(self, question: str, k: int = 10, *, at: Time | None = None) -> Answer:
        """Answer a question from what is remembered, with citations; abstains when the evidence is weak.

        k: how many memories to read. at: as things were known then. Reads with the language model when there is one.
        """
        from recollect.store.reader import ExtractiveReader, LanguageModelReader

        start = time.perf_counter()
        asked_at = parse_time(at) if at is not None else datetime.now().astimezone()
        hits = self.recall(question, k, at=at)
        reader = LanguageModelReader(self.lm) if self.lm is not None else ExtractiveReader()
        answer = reader.read(query_text(question), hits, asked_at)
        return Answer(**{**_fields(answer), "hits": tuple(hits), "seconds": time.perf_counter() - start})

    def get(self, id_: str) -> Episode | Note:
        """One record by its id. Raises NotFound."""
        if str(id_).startswith("no_"):
            for note in self.engine.db.notes_where(self._filter(), "AND n.id = ?", (id_,)).values():
                return note
            raise NotFound(f"id: there is no note {id_!r:.60} of this user.")
        return self._get_episode(id_)

    def _get_episode(self, id_: str) -> Episode:
        for _, episode in self.engine.db.episodes_where(self._filter(), "AND e.id = ?", (id_,)):
            return episode
        raise NotFound(f"id: there is no episode {id_!r:.60} of this user.")

    def history(self, id_: str) -> History:
        """What is known about one record: its sources, what was derived from it, its links, the turns around it.

        Raises NotFound.
        """
        record, db = self.get(id_), self.engine.db
        links = tuple(db.links_of(id_, self.user))
        if isinstance(record, Note):
            sources = [self._get_episode(source) for source in record.sources]
            return History(record, (), tuple(sources), links, (), ())
        derived = db.notes_where(
            self._filter(),
            "AND n.seq IN (SELECT note FROM note_sources ns JOIN episodes e ON e.seq = ns.episode WHERE e.id = ?)",
            (id_,),
        )
        session, position = db.rows("SELECT session, position FROM episodes WHERE id = ?", (id_,))[0]
        around: list[list[Episode]] = []
        for comparison, order in (("<", "DESC"), (">", "ASC")):
            seqs = [
                row[0]
                for row in db.rows(
                    f"SELECT seq FROM episodes WHERE session = ? AND position {comparison} ? ORDER BY position {order} LIMIT 2",
                    (session, position),
                )
            ]
            found = db.episodes(seqs)
            around.append([found[seq] for seq in seqs if seq in found])
        return History(record, tuple(derived.values()), (), links, tuple(reversed(around[0])), tuple(around[1]))

    def related(self, id_: str, k: int = 10) -> list[tuple[Episode | Note, float]]:
        """The k records that links lead to from one record, closest first, with their share of a random walk's visits.

        Links are followed both ways (personalised PageRank, see `graph.py`). Raises NotFound and InvalidInput.
        """
        _check_k(k)
        self.get(id_)
        links = self.engine.db.rows(
            "SELECT source, target, weight FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ? AND weight > 0",
            (self.user,),
        )
        nodes = {
            name: number for number, name in enumerate(sorted({id_, *(end for link in links for end in link[:2])}))
        }
        one, other = (np.array([nodes[link[end]] for link in links], np.int64) for end in (0, 1))
        weights = np.array([link[2] for link in links] * 2, np.float64)
        seeds = np.zeros(len(nodes))
        seeds[nodes[id_]] = 1
        visits = pagerank(np.concatenate([one, other]), np.concatenate([other, one]), weights, seeds)
        names = list(nodes)
        order = [row for row in np.argsort(-visits, kind="stable") if visits[row] > 1e-12 and names[row] != id_][:k]
        return [(self.get(names[row]), float(visits[row])) for row in order]

    def episodes(
        self,
        *,
        at: Time | None = None,
        before: Time | None = None,
        after: Time | None = None,
        session: str | None = None,
        speaker: str | None = None,
    ) -> Iterator[Episode]:
        """All episodes that the conditions let through, in the order in which they were written."""
        filter_ = self._filter(at=at, before=before, after=after, session=session, speaker=speaker)
        return (episode for _, episode in self.engine.db.episodes_where(filter_))

    def stats(self) -> Stats:
        """Figures of this memory."""
        db = self.engine.db
        where, values = self._filter().sql("e")
        joined = "FROM episodes e JOIN sessions s ON s.ref = e.session JOIN users u ON u.ref = s.user"
        count, sessions = db.rows(
            f"SELECT count(*), count(DISTINCT CASE WHEN s.name <> '' THEN s.ref END) {joined} WHERE {where}", values
        )[0]
        ends = db.rows(f"SELECT e.seq {joined} WHERE {where} ORDER BY e.at LIMIT 1", values)
        ends += db.rows(f"SELECT e.seq {joined} WHERE {where} ORDER BY e.at DESC LIMIT 1", values)
        edge = db.episodes([row[0] for row in ends])
        speakers = db.rows(
            f"SELECT e.speaker, count(*) {joined} WHERE {where} AND e.speaker IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 100",
            values,
        )
        where, values = self._filter().sql("n")
        notes = db.rows(
            f"SELECT count(*) FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user WHERE {where}",
            values,
        )[0][0]
        links = db.rows("SELECT count(*) FROM links l JOIN users u ON u.ref = l.user WHERE u.name = ?", (self.user,))[
            0
        ][0]
        everyone = db.rows("SELECT count(*) FROM episodes")[0][0]
        database_bytes, index_bytes = db.size_bytes(), self.engine.index.size_bytes()
        return Stats(
            num_episodes=count,
            num_notes=notes,
            num_links=links,
            num_sessions=sessions,
            first_at=edge[ends[0][0]].at if ends else None,
            last_at=edge[ends[1][0]].at if ends else None,
            speakers=dict(speakers),
            embedder=self.engine.embedder.name,
            method=self.method.name,
            num_missing_vectors=self.engine.num_missing_vectors(),
            index_note=self.engine.index.note,
            database_bytes=database_bytes,
            index_bytes=index_bytes,
            bytes_per_episode=(database_bytes + index_bytes) / max(everyone, 1),
        )

    # Forgetting

    def forget(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        session: str | None = None,
        user: str | None = None,
        before: Time | None = None,
        query: str | None = None,
        dry_run: bool = False,
    ) -> Receipt:
        """Delete for good: rows, what was derived only from them, index entries, vectors, and their bytes in the files.

        Give exactly one of: ids; session; user (must be the one this memory is bound to: everything of theirs goes);
        before (all that was said earlier); query (every episode that holds all of its words, common words aside).
        dry_run: only say what would go. Raises InvalidInput, or NotFound when an id is not this user's.
        """
        given = [
            name
            for name, value in _pairs(ids=ids, session=session, user=user, before=before, query=query)
            if value is not None
        ]
        if len(given) != 1:
            raise InvalidInput(
                f"forget: give exactly one of ids, session, user, before or query; got {', '.join(given) or 'none'}."
            )
        db = self.engine.db
        seqs, notes = self._chosen(ids, session, user, before, query)
        if dry_run:
            found = db.episodes(seqs)
            kept = db.notes(notes)
            return _receipt(
                {
                    "episodes": [found[seq].id for seq in seqs if seq in found],
                    "notes": [note.id for note in kept.values()],
                },
                [],
            )
        gone = forgetting.delete(db, seqs, notes)
        files = self.engine.finish_erasing()
        complete = forgetting.scrub(db, gone["traces"])
        return _receipt(gone, files, complete)

    def _chosen(self, ids: Any, session: Any, user: Any, before: Any, query: Any) -> tuple[list[int], list[int]]:
        """(episode rows, note rows) that a call of `forget` names."""
        db = self.engine.db
        if ids is not None:
            wanted = [ids] if isinstance(ids, str) else list(ids)
            found: dict[str, list[int]] = {"e": [], "n": []}
            for id_ in dict.fromkeys(wanted):
                record = self.get(id_)
                table, alias = ("notes", "n") if isinstance(record, Note) else ("episodes", "e")
                found[alias].append(db.rows(f"SELECT seq FROM {table} WHERE id = ?", (id_,))[0][0])
            return found["e"], found["n"]
        if user is not None:
            if user != self.user:
                raise InvalidInput(
                    f"user: this memory is bound to {self.user!r:.60}; open it for the user to be forgotten."
                )
            whole = Filter(self.user)
            return [seq for seq, _ in db.episodes_where(whole)], list(db.notes_where(whole))
        if query is not None:
            if not fulltext.phrase_of_all(query_text(query)):
                raise InvalidInput("query: holds no words to look for.")
            return fulltext.search_all(db, query_text(query), self._filter()), []
        filter_ = self._filter(session=session, before=before)
        return [seq for seq, _ in db.episodes_where(filter_)], []

    # Care

    def export(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> int:
        """Write everything of this user as plain JSONL; returns the number of records. Vectors are not written.

        The file appears whole or not at all. Raises InvalidInput when it cannot be written.
        """
        return export_records(self, Path(path), progress)

    def import_(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> ImportedRecords:
        """Restore what `export` wrote, ids and times and all, for the user of this memory; what exists is passed over."""
        return import_records(self, Path(path), progress)

    def reindex(self, *, embedder: str | Embedder | None = None, progress: Progress | None = None) -> int:
        """Rebuild every index from the episodes, with another embedder if one is given; returns the number of records.

        An interrupted change of embedder goes on where it stopped when called again.
        """
        return reindex(self.engine, embedder, progress)

    def verify(self, *, repair: bool = False) -> VerifyReport:
        """Look for orphans, stale indexes and missing vectors; with `repair`, mend what is found."""
        return verify(self.engine, repair)


def episode_key(episode: Episode) -> bytes:
    """What makes an episode the same: its scope, its source id or else its content, and its time.

    A time that was not given (it equals the time of recording) does not count beside a source id.
    """
    content = [episode.source_id] if episode.source_id else ["", episode.speaker, episode.text]
    given = not episode.source_id or episode.at != episode.recorded_at
    when = to_micros(episode.at)[0] if given else None
    identity = [episode.user, episode.agent, episode.session, content, when]
    return hashlib.sha256(json.dumps(identity).encode()).digest()[:16]


def query_text(query: Any) -> str:
    """A query as clean text: lone surrogates replaced, NULs gone. Raises InvalidInput when it is empty or not text."""
    if not isinstance(query, str):
        raise InvalidInput(f"query: expected text, got {type(query).__name__}.")
    text = query.encode("utf-8", "replace").decode().replace("\0", " ").strip()
    if not text:
        raise InvalidInput("query: is empty.")
    return text


def _check_k(k: Any) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        raise InvalidInput(f"k: expected a whole number from 1 to {MAX_K}, got {k!r:.40}.")


def _text(value: Any, name: str, max_chars: int) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: expected text, got {type(value).__name__}.")
    if not value.strip():
        raise InvalidInput(f"{name}: is empty.")
    if len(value) > max_chars:
        raise InvalidInput(f"{name}: has {len(value)} characters; the limit is {max_chars}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}: character {error.start} is half of a surrogate pair, which is not valid Unicode; replace it."
        ) from None
    return value


def _name(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name, MAX_NAME_CHARS)


def _meta(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"meta: expected a mapping, got {type(value).__name__}.")
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"meta: cannot be written as JSON ({error}).") from None
    if len(text) > MAX_META_CHARS:
        raise InvalidInput(f"meta: is {len(text)} characters as JSON; the limit is {MAX_META_CHARS}.")
    return json.loads(text)


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(now: datetime) -> str:
    """26 characters, sortable by time: 48 bits of milliseconds and 80 random bits (the layout of a ULID)."""
    number = (int(now.timestamp() * 1000) & (2**48 - 1)) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def _pairs(**values: Any) -> list[tuple[str, Any]]:
    return list(values.items())


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _receipt(gone: Mapping[str, Any], files: Sequence[str], complete: bool = True) -> Receipt:
    return Receipt(
        episodes=tuple(gone["episodes"]),
        notes=tuple(gone["notes"]),
        flagged_notes=tuple(gone.get("flagged", ())),
        num_links=gone.get("num_links", 0),
        num_vectors=gone.get("num_vectors", 0),
        num_token_vectors=gone.get("num_token_vectors", 0),
        num_index_entries=gone.get("num_index_entries", 0),
        index_files=tuple(files),
        at=datetime.now(UTC).astimezone(),
        complete=complete,
    )
