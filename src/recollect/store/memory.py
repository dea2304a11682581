"""The front door of the store: `recollect.open(path)` gives a Memory; everything a program does with it is a method of it."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.lm.meter import Metered
from recollect.store import browse, consolidation, derivation, figures, forgetting, graph, notes
from recollect.store.browse import History, Neighbourhood, Session, Timeline
from recollect.store.checks import (
    MAX_NAME_CHARS,
    Time,
    check_k,
    checked_episode,
    checked_name,
    checked_note,
    checked_text,
    query_text,
)
from recollect.store.consolidation import Consolidation, Run
from recollect.store.derivation import DeriveReport
from recollect.store.engine import Engine
from recollect.store.episodes import NewEpisode
from recollect.store.figures import Stats
from recollect.store.method import DEFAULT_METHOD, Method, Request, Scope, make_method, method_targets
from recollect.store.notes import NewNote
from recollect.store.records import (
    DEFAULT_USER,
    Answer,
    Episode,
    Hit,
    Link,
    Note,
    Receipt,
    parse_time,
    to_micros,
)
from recollect.store.repair import VerifyReport, reindex, verify
from recollect.store.transfer import ImportedRecords, export_records, import_records
from recollect.store.views import Filter

if TYPE_CHECKING:
    from recollect.lm import LanguageModel
    from recollect.store.embedders import Embedder

REST_S = 60.0  # after a language model was out of reach
Progress = Callable[[int], None]  # called with the number of items just done


@dataclass(frozen=True, slots=True)
class AddReport:
    """What `add_many` did."""

    added: int
    existing: int  # already stored: same scope, source id or content, and time


def open(
    path: str | os.PathLike[str] = ":memory:",
    *,
    user: str = DEFAULT_USER,
    agent: str | None = None,
    embedder: str | Embedder | None = None,
    method: str | Method | None = None,
    lm: LanguageModel | None = None,
) -> Memory:
    """Open a memory, made if there is none.

    path: a file, ":memory:" for one that ends with the process, or "postgresql://..." for a database on a server.
    user: whose memory it is; no call ever reads or writes another user's records.
    agent: narrows reads to, and marks writes as, one agent's.
    embedder: "minilm", "hashing", "sentence-transformers:NAME", "fastembed:NAME", "openai:MODEL@BASE_URL" or an instance;
        None takes the one that the database remembers, for a new one MiniLM where it is installed, else hashing.
    method: a name, see `recollect systems --home store`, or an instance; None takes the one that the database remembers,
        for a new one "episodic". The database remembers a name that is given. What another method derived is kept; what this
        one has still to derive is derived before the next recall, or by `derive`, which shows progress.
    lm: a language model for `answer` and for the steps of methods; without one the built-in reader and analyst do them.

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
        self.user = checked_name(user, "user") or DEFAULT_USER
        self.agent = checked_name(agent, "agent")
        if os.fspath(path) != ":memory:" and not os.fspath(path):
            raise InvalidInput("path: is empty; give the name of a file.")
        self.lm: Metered | None = Metered(lm) if lm is not None else None
        make_method(method)  # an unknown name is told before a file is made
        self.engine = Engine(path, embedder, self.user)
        self.method = make_method(method if method is not None else self._remembered_method(), self.lm)
        if isinstance(method, str):
            self._remember_method(method)
        self._rests_until = 0.0  # no deriving before this time (monotonic), after the language model was out of reach

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. What was added is already durable."""
        self.engine.close()

    def use_language_model(self, lm: LanguageModel | None) -> None:
        """Take up a language model, or none, for `answer` and for the steps of the method."""
        self.lm = Metered(lm) if lm is not None else None
        self.method.lm = self.lm

    def _remembered_method(self) -> str:
        """The method that the database was last opened with by name."""
        name = self.engine.db.get_state("method") or DEFAULT_METHOD
        return name if name in method_targets() else DEFAULT_METHOD

    def _remember_method(self, name: str) -> None:
        db = self.engine.db
        if not db.read_only and (db.get_state("method") or DEFAULT_METHOD) != name:
            db.set_state("method", name)

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
        new = NewEpisode.of(checked_episode(item, self.user, self.agent))
        self._write([new])
        if found := self.engine.db.existing([new.key]):
            id_ = found[new.key][0]
            return new.episode if id_ == new.episode.id else browse.episode(self.engine.db, self._filter(), id_)
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
                batch.append(NewEpisode.of(checked_episode(item, self.user, self.agent)))
            except InvalidInput as error:
                raise InvalidInput(f"item {number}: {error}") from None
            if len(batch) == batch_size:
                flush()
        if batch:
            flush()
        self.engine.tend_index(added)
        return AddReport(added, existing)

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
        if added:
            self._catch_up()
        return added

    def _catch_up(self) -> None:
        """Let the method read what it has not read; when its language model is out of reach, say so and rest a minute."""
        db = self.engine.db
        if db.read_only or time.monotonic() < self._rests_until or not derivation.is_behind(db, self.method, self.user):
            return
        report = self._after(derivation.derive(self.engine, self.method, self.user))
        if report.stopped:
            warnings.warn(f"kept, but not all derived by {self.method.name}: {report.stopped}", stacklevel=4)

    def _after(self, report: DeriveReport) -> DeriveReport:
        self._rests_until = time.monotonic() + REST_S if report.stopped else 0.0
        return report

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
        note = checked_note(text, kind, sources, valid_from, valid_to, method, method_version, meta)
        if note.method in method_targets():
            raise InvalidInput(
                f"method: {note.method!r} derives its notes itself; give the name of what wrote this one."
            )
        item = NewNote(note, self.agent)
        with self.engine.writing_notes([item], tokens=True):
            notes.insert(self.engine.db, [item], self.user)
        kept = self.get(note.id)
        assert isinstance(kept, Note)
        return kept

    def link(self, source: str, target: str, relation: str, *, weight: float = 1.0, method: str = "user") -> Link:
        """Join two records of this user (episodes or notes); an existing link gets the new weight."""
        if not isinstance(weight, int | float) or not np.isfinite(weight):
            raise InvalidInput(f"weight: {weight!r:.40} is not a finite number.")
        link = Link(source, target, checked_text(relation, "relation", MAX_NAME_CHARS), float(weight), method)
        notes.insert_links(self.engine.db, [link], self.user)
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
        check_k(k)
        text = query_text(query)
        if isinstance(kinds, str):
            kinds = [kinds]
        filter_ = self._filter(at=at, before=before, after=after, session=session, speaker=speaker)
        asked_at = parse_time(at) if at is not None else datetime.now().astimezone()
        request = Request(text, k, asked_at, filter_, frozenset(kinds) if kinds is not None else None)
        self._catch_up()
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
            session=checked_name(session, "session"),
            speaker=checked_name(speaker, "speaker"),
            until=None if at is None else to_micros(parse_time(at))[0],
            after=first,
            before=end,
        )

    def answer(self, question: str, k: int = 10, *, at: Time | None = None) -> Answer:
        """Answer a question from what is remembered, with citations; abstains when the evidence is weak.

        k: how many memories to read. at: as things were known then. Reads with the language model when there is one.
        """
        from recollect.store.reader import ExtractiveReader, LanguageModelReader
        from recollect.store.rounds import turn_by_turn

        start = time.perf_counter()
        asked_at = parse_time(at) if at is not None else datetime.now().astimezone()
        hits = self.recall(question, k, at=at)
        if self.lm is not None:
            answer = LanguageModelReader(self.lm).read(query_text(question), hits, asked_at)
        else:  # who said what matters to it, so a note of several turns is read turn by turn
            answer = ExtractiveReader().read(query_text(question), turn_by_turn(self.engine, hits), asked_at)
        answer = replace(answer, hits=tuple(hits), seconds=time.perf_counter() - start)
        if at is None and not answer.abstained and not self.engine.db.read_only:
            derivation.learn(self.engine, self.method, Scope(self.user, self.agent), question, answer)
        return answer

    def get(self, id_: str) -> Episode | Note:
        """One record by its id. Raises NotFound."""
        return browse.record(self.engine.db, self._filter(), id_)

    def history(self, id_: str) -> History:
        """What is known about one record: its sources, what was derived from it, its links, the turns around it.

        Raises NotFound.
        """
        return browse.history(self.engine.db, self._filter(), id_)

    def related(self, id_: str, k: int = 10) -> list[tuple[Episode | Note, float]]:
        """The k records that links lead to from one record, closest first, with their share of a random walk's visits.

        Links are followed both ways (personalised PageRank, see `graph.py`). Raises NotFound and InvalidInput.
        """
        check_k(k)
        self.get(id_)
        return [(self.get(name), visits) for name, visits in graph.related(self.engine.db, self.user, id_, k)]

    def episodes(
        self,
        *,
        at: Time | None = None,
        before: Time | None = None,
        after: Time | None = None,
        session: str | None = None,
        speaker: str | None = None,
        source_id: str | None = None,
        following: str | None = None,
    ) -> Iterator[Episode]:
        """All episodes that the conditions let through, in the order in which they were written.

        following: only those written after the episode with this id, to go on where a page ended. Raises NotFound.
        """
        filter_ = self._filter(at=at, before=before, after=after, session=session, speaker=speaker)
        extra, values = "", []
        if source_id is not None:
            extra, values = "AND e.source_id = ?", [checked_name(source_id, "source_id")]
        if following is not None:
            extra += " AND e.seq > (SELECT seq FROM episodes WHERE id = ?)"
            values.append(browse.episode(self.engine.db, self._filter(), following).id)
        return (episode for _, episode in self.engine.db.episodes_where(filter_, extra, values))

    def latest(self, limit: int = 50, *, at: Time | None = None, following: str | None = None) -> list[Episode]:
        """What was said last, latest first. at: as it was then. following: an id, to go on where a page ended."""
        return browse.latest(self.engine.db, self._filter(at=at), following, limit)

    def sessions(self, limit: int = 50, *, following: str | None = None) -> list[Session]:
        """The named conversations, latest first. following: the `cursor` of the last one of a page, to go on after it."""
        return browse.sessions(self.engine.db, self._filter(), following, limit)

    def timeline(self, num_parts: int = 60) -> Timeline:
        """How many episodes were said when, in equal stretches of time from the first to the last."""
        return browse.timeline(self.engine.db, self._filter(), num_parts)

    def notes(
        self, limit: int = 50, *, method: str | None = None, kind: str | None = None, following: str | None = None
    ) -> list[Note]:
        """Live notes, the last written first. following: an id, to go on where a page ended. Raises NotFound."""
        return browse.latest_notes(self.engine.db, self._filter(), method, kind, following, limit)

    def neighbourhood(self, id_: str | None = None, limit: int = 40) -> Neighbourhood:
        """A record and up to `limit` others at most two links, or steps to and from sources, away.

        id_: None is a record that many links meet in. Raises NotFound, also where nothing is remembered.
        """
        if id_ is None:
            id_ = browse.crossing(self.engine.db, self._filter())
            if id_ is None:
                raise NotFound("id: nothing is remembered yet.")
        self.get(id_)
        return browse.neighbourhood(self.engine.db, self._filter(), id_, limit)

    def stats(self) -> Stats:
        """Figures of this memory."""
        return figures.stats(self.engine, self.method, self._filter())

    # Deriving

    def derive(self, *, again: bool = False, retry: bool = False, progress: Progress | None = None) -> DeriveReport:
        """Let the method read the episodes that it has not read; resumable, each batch is durable when done.

        again: forget first what it had derived for this user, so that all is made anew, such as with a language model now.
        retry: try again the episodes whose derivation failed. progress: called with the number of episodes just read.
        """
        if again:
            derivation.reset(self.engine, self.method.name, self.user)
        return self._after(derivation.derive(self.engine, self.method, self.user, retry=retry, progress=progress))

    def sync(self) -> None:
        """Bring the derived notes and the vector index up to date now, as the next recall would."""
        self._catch_up()
        self.engine.sync_index()

    def num_underived(self) -> int:
        """How many episodes of this user the method has still to read."""
        return derivation.num_pending(self.engine.db, self.method, self.user)

    def consolidate(self, *, dry_run: bool = False) -> Consolidation:
        """Let the method tidy its notes: merge, revise, close. One transaction that `undo` takes back; sources stay.

        What had failed to derive is tried again first. dry_run: only say what would change.
        Raises Unavailable when the language model cannot be reached.
        """
        if not dry_run:
            self.derive(retry=True)
        return consolidation.consolidate(self.engine, self.method, self.user, self.agent, dry_run)

    def consolidations(self) -> list[Run]:
        """The consolidations that stand, newest first."""
        return consolidation.runs(self.engine.db, self.user)

    def undo(self, run: int | None = None) -> list[Run]:
        """Undo a consolidation (default: the last), and those that its method did after it. Raises NotFound."""
        return consolidation.undo(self.engine, self.user, run)

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
        conditions = {"ids": ids, "session": session, "user": user, "before": before, "query": query}
        given = [name for name, value in conditions.items() if value is not None]
        if len(given) != 1:
            raise InvalidInput(
                f"forget: give exactly one of ids, session, user, before or query; got {', '.join(given) or 'none'}."
            )
        if user is not None and user != self.user:
            raise InvalidInput(
                f"user: this memory is bound to {self.user!r:.60}; open it for the user to be forgotten."
            )
        db = self.engine.db
        filter_ = Filter(self.user) if user is not None else self._filter(session=session, before=before)
        seqs, note_rows = forgetting.chosen(db, filter_, ids, query, with_notes=user is not None)
        if dry_run:
            return forgetting.foretold(db, seqs, note_rows)
        gone = forgetting.delete(db, seqs, note_rows)
        traces = gone["traces"] + derivation.rederive_flagged(self.engine, self.method, self.user)
        files = self.engine.finish_erasing()
        complete = db.scrub(traces)
        return forgetting.receipt(gone, files, complete)

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
        with self.engine.db.everyone():
            return reindex(self.engine, embedder, progress)

    def verify(self, *, repair: bool = False) -> VerifyReport:
        """Look for orphans, stale indexes and missing vectors; with `repair`, mend what is found."""
        with self.engine.db.everyone():
            return verify(self.engine, repair)
