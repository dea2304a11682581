"""Settling: what is new is held against what is there. Said again, it is one more source; changed, it closes the older.

Both need no language model. Near-identical notes are found by a hash that they share (`duplicates`), facts that a newer one
ends by their subject (`facts.contradicts`). A fact that was said earlier than what contradicts it is closed at once, so that
the order in which conversations are imported does not matter.

Cost: two indexed look-ups for each statement of a batch, whatever the number of its notes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from recollect.store import notes
from recollect.store.checks import new_id
from recollect.store.duplicates import digest, near_identical
from recollect.store.engine import Engine
from recollect.store.facts import Fact, contradicts, same_fact
from recollect.store.method import Draft, Method, Scope
from recollect.store.notes import NewNote
from recollect.store.records import Episode, Note
from recollect.store.views import View


@dataclass(slots=True)
class Found:
    """A note that a method has derived and that is still to be settled."""

    note: Note
    said_at: datetime  # the time of what it was derived from
    fact: Fact | None = None


def new_note(method: Method, kind: str, text: str, sources: Sequence[Episode | str], **more: Any) -> Note:
    """A note of a method. `more`: further fields of `Note`. Its version names the language model that had a hand in it."""
    now = datetime.now().astimezone()
    version = f"{method.version}, {method.lm.name}" if method.lm is not None else method.version
    ids = tuple(dict.fromkeys(source if isinstance(source, str) else source.id for source in sources))
    return Note("no_" + new_id(now), kind, text, method.name, version, ids, now, **more)


def fact_note(method: Method, kind: str, fact: Fact, episode: Episode, meta: Mapping[str, Any] | None = None) -> Found:
    """A fact as a note, that each episode which states it carries alone."""
    kept = dict(meta or {}) | fact_meta(fact)
    note = new_note(method, kind, fact.text, [episode], valid_from=fact.at, any_source=True, meta=kept)
    return Found(note, episode.at, fact)


def fact_meta(fact: Fact) -> dict[str, Any]:
    """A fact as metadata of the note that states it; the inverse of `fact_of`."""
    kept: dict[str, Any] = {"subject": fact.subject, "relation": fact.relation, "value": fact.value}
    return kept | {name: True for name in ("single", "ends") if getattr(fact, name)}


def fact_of(note: Note) -> Fact | None:
    """The fact that a note holds in its metadata, or None."""
    meta = note.meta
    if not isinstance(meta.get("subject"), str) or not isinstance(meta.get("relation"), str):
        return None
    value = str(meta.get("value", ""))
    single, ends = bool(meta.get("single")), bool(meta.get("ends"))
    return Fact(meta["subject"], meta["relation"], value, note.text, single, note.valid_from, ends, 0, len(note.text))


def settle(engine: Engine, scope: Scope, method: Method, found: Sequence[Found]) -> Draft:
    """The draft of new notes, held against the live notes of the same method and kind, and against each other."""
    draft = Draft()
    marks = [digest(item.note.text) for item in found]
    subjects = {item.fact.subject.casefold() for item in found if item.fact is not None}
    view = View(scope.filter, method.name, tuple(sorted({item.note.kind for item in found})))
    known = _by_column(engine, view, "same", set(marks))
    about = _by_column(engine, view, "about", subjects)
    fresh: dict[bytes, list[tuple[Found, NewNote]]] = defaultdict(list)  # by mark
    stated: dict[str, list[tuple[Found, NewNote]]] = defaultdict(list)  # by subject, in order of time
    for item, mark in sorted(zip(found, marks, strict=True), key=lambda pair: pair[0].said_at):
        again = next((new for _, new in fresh[mark] if _same(item, new.note)), None)
        if again is not None:
            sources = tuple(dict.fromkeys((*again.note.sources, *item.note.sources)))
            again.note = replace(again.note, sources=sources, any_source=True)
            continue
        old = next((note for note in known[mark] if _same(item, note)), None)
        if old is not None:
            draft.sources += [(old.id, source) for source in item.note.sources]
            continue
        new = NewNote(item.note, scope.agent, same=mark)
        if item.fact is not None:
            subject = item.fact.subject.casefold()
            others = stated[subject.replace("\u2019", "'")]
            _close(item, item.fact, new, about[subject], others)
            others.append((item, new))
        fresh[mark].append((item, new))
        draft.notes.append(new)
    return draft


def close_older(
    engine: Engine, scope: Scope, method: Method, kind: str, stated: Sequence[tuple[NewNote, Fact, datetime]]
) -> None:
    """Let new notes, each with the fact that it states and when it was said, end older ones, or be ended by later ones."""
    about = _by_column(
        engine, View(scope.filter, method.name, (kind,)), "about", {fact.subject.casefold() for _, fact, _ in stated}
    )
    before: dict[str, list[tuple[Found, NewNote]]] = defaultdict(list)
    for new, fact, said_at in sorted(stated, key=lambda entry: entry[2]):
        item, subject = Found(new.note, said_at, fact), fact.subject.casefold()
        others = before[subject.replace("\u2019", "'")]
        _close(item, fact, new, about[subject], others)
        others.append((item, new))


def _same(item: Found, other: Note) -> bool:
    return item.note.kind == other.kind and other.closed_by is None and near_identical(item.note.text, other.text)


def _close(
    item: Found, fact: Fact, new: NewNote, known: Sequence[Note], stated: Sequence[tuple[Found, NewNote]]
) -> None:
    """End what the new fact contradicts and was said before it, or the new fact by what was said after it."""
    closes = []
    for other, other_new in stated:
        same_kind = other.fact is not None and other.note.kind == item.note.kind and other_new.closed_by is None
        if same_kind and other.fact is not None and contradicts(fact, other.fact):
            closes.append(other.note.id)
    for note in known:
        old = fact_of(note) if note.kind == item.note.kind else None
        if old is None or note.closed_by is not None or note.at is None:
            continue
        if note.at <= item.said_at and contradicts(fact, old):
            closes.append(note.id)
        elif note.at > item.said_at and new.closed_by is None and contradicts(old, fact):
            new.closed_by = note.id
    new.closes = tuple(closes)


def _by_column(engine: Engine, view: View, column: str, values: Iterable[Any]) -> dict[Any, list[Note]]:
    """Live notes of a view by an indexed column, in order of writing."""
    where, bound = view.sql()
    rows = engine.db.rows_in(
        f"SELECT n.seq, n.{column} FROM notes n JOIN sessions s ON s.ref = n.session JOIN users u ON u.ref = s.user "
        f"WHERE {where} AND n.{column} IN ({{}})",
        values,
        bound,
    )
    loaded = notes.by_rows(engine.db, [seq for seq, _ in rows])
    found: dict[Any, list[Note]] = defaultdict(list)
    for seq, value in sorted(rows):
        if seq in loaded:
            found[value].append(loaded[seq])
    return found


def merge_same_facts(engine: Engine, scope: Scope, method: Method, kind: str) -> Draft:
    """A draft that joins the facts of a kind that say the same about the same subject; the newest wording stays."""
    by_subject: dict[str, list[tuple[Note, Fact]]] = {}
    for note in notes.seen(engine.db, View(scope.filter, method.name, (kind,))).values():
        fact = fact_of(note)
        if fact is not None and note.closed_by is None:
            by_subject.setdefault(fact.subject.casefold(), []).append((note, fact))
    draft = Draft()
    for stated in by_subject.values():
        groups: list[list[tuple[Note, Fact]]] = []
        for note, fact in stated:
            group = next((group for group in groups if same_fact(group[0][1], fact)), None)
            if group is None:
                groups.append([(note, fact)])
            else:
                group.append((note, fact))
        for group in groups:
            if len(group) > 1:
                newest = group[-1][0]
                sources = [source for note, _ in group for source in note.sources]
                joined = new_note(
                    method,
                    kind,
                    newest.text,
                    sources,
                    valid_from=newest.valid_from,
                    any_source=True,
                    meta=newest.meta,
                    key=newest.key,
                )
                draft.notes.append(
                    NewNote(joined, scope.agent, tuple(note.id for note, _ in group), same=digest(joined.text))
                )
    return draft
