"""The box of A-MEM's notes while a batch is read: what is stored and what the draft adds, as it will be when it is written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from recollect.store import notes
from recollect.store.engine import Engine
from recollect.store.notes import NewNote
from recollect.store.records import Note
from recollect.store.views import View


@dataclass(slots=True)
class Member:
    """A live note while a batch is read: stored already, or of the draft."""

    note: Note
    first: str  # id of its first version
    said_at: datetime
    item: NewNote | None = None  # None for one that is stored
    cosine: float = 0.0  # with the new note


@dataclass
class Box:
    """The live notes of a scope as they will be when the draft is written."""

    engine: Engine
    view: View
    members: list[Member] = field(default_factory=list)  # of the draft
    gone: set[str] = field(default_factory=set)  # ids whose place was taken in the draft

    def nearest(self, vector: np.ndarray, k: int) -> list[Member]:
        """The k notes nearest to a unit vector (D,), best first."""
        db = self.engine.db
        found = self.engine.nearest_notes(vector, self.view, k + len(self.gone))
        with db.snapshot():
            stored = notes.by_rows(db, [row for row, _, _ in found])
            kept = [(stored[row], cosine) for row, cosine, _ in found if row in stored]
            kept = [(note, cosine) for note, cosine in kept if note.id not in self.gone][:k]
            firsts = notes.first_versions(db, [note.id for note, _ in kept])
            origins = notes.by_ids(db, {firsts[note.id][0] for note, _ in kept})
        near = [
            Member(note, first := firsts[note.id][0], origins[first].at or note.recorded_at, cosine=cosine)
            for note, cosine in kept
        ]
        if self.members:
            cosines = self.engine.embed_notes([member.item for member in self.members if member.item]) @ vector
            near += [replace(member, cosine=float(c)) for member, c in zip(self.members, cosines, strict=True)]
        return sorted(near, key=lambda member: -member.cosine)[:k]

    def take(self, item: NewNote, first: str, said_at: datetime, instead_of: str | None = None) -> None:
        """Put a note of the draft into the box."""
        if instead_of is not None:
            self.gone.add(instead_of)
            self.members = [member for member in self.members if member.note.id != instead_of]
        self.members.append(Member(item.note, first, said_at, item))
