"""Which records a read may see: episodes through a filter, notes through a view, and how each says so in SQL.

No read leaves the user out, so that none crosses users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BY_HAND = "user"  # stands for every note that was written by a program or a person, not derived by a method


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records a read may see. The user is never left out; every other condition narrows further."""

    user: str
    agent: str | None = None
    session: str | None = None
    speaker: str | None = None
    until: int | None = None  # at <= until, microseconds: what was known then
    after: int | None = None  # at >= after
    before: int | None = None  # at < before

    def sql(self, alias: str) -> tuple[str, list[Any]]:
        """A WHERE condition over the table `alias` (episodes or notes) joined with `s` (sessions) and `u` (users)."""
        conditions = ["u.name = ?"]
        values: list[Any] = [self.user]
        for condition, value in (
            ("s.agent = ?", self.agent),
            ("s.name = ?", self.session),
            (f"{alias}.at <= ?", self.until),
            (f"{alias}.at >= ?", self.after),
            (f"{alias}.at < ?", self.before),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if self.speaker is not None:
            said = "casefold(e.speaker) = casefold(?)"
            if alias == "n":
                said = f"n.seq IN (SELECT note FROM note_sources ns JOIN episodes e ON e.seq = ns.episode WHERE {said})"
            conditions.append(said)
            values.append(self.speaker)
        return " AND ".join(conditions), values

    @property
    def whole_user(self) -> bool:
        """True when nothing but the user narrows the view."""
        return self == Filter(self.user)

    @property
    def whole_scope(self) -> bool:
        """True when nothing but the user, the agent and the time of asking narrows the view."""
        return self == Filter(self.user, self.agent, until=self.until)


@dataclass(frozen=True, slots=True)
class View:
    """Which notes a read may see: those of one method, of some kinds (none given: all), through a filter, that are live.

    first: as they were first derived, whatever took their place. A revised note tells what was said elsewhere too, so this
    is how notes are seen where only a session, a speaker or a stretch of time may be.
    holding: without those that another note has closed.
    """

    filter: Filter
    method: str
    kinds: tuple[str, ...] = ()
    first: bool = False
    holding: bool = False

    def sql(self) -> tuple[str, list[Any]]:
        """A WHERE condition over `n` (notes) joined with `s` (sessions) and `u` (users)."""
        where, values = self.filter.sql("n")
        if self.method == BY_HAND:
            where += " AND n.method NOT IN (SELECT method FROM derivations) AND n.stale = 0"
        else:
            where += " AND n.method = ? AND n.stale = 0"
            values.append(self.method)
        if self.kinds:
            where += f" AND n.kind IN ({','.join('?' * len(self.kinds))})"
            values += self.kinds
        if self.first:
            where += " AND NOT EXISTS (SELECT 1 FROM notes o WHERE o.replaced_by = n.seq)"
        for column in ([] if self.first else ["replaced_by"]) + (["closed_by"] if self.holding else []):
            if self.filter.until is None:
                where += f" AND n.{column} IS NULL"
            else:
                where += f" AND (n.{column} IS NULL OR (SELECT r.at FROM notes r WHERE r.seq = n.{column}) > ?)"
                values.append(self.filter.until)
        return where, values


@dataclass(frozen=True, slots=True)
class Selection:
    """Chunks as a condition that the database itself looks for: over `c` (chunks), `e`, `s` and `u` of an episode."""

    filter: Filter
