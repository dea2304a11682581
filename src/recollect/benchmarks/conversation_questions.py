"""Questions about a made conversation, by LoCoMo's categories: each follows from its events, and names the turns that tell them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from recollect.benchmarks import conversation_tables as tables

if TYPE_CHECKING:
    from recollect.benchmarks.conversations import Event, Fact

T = TypeVar("T")
SHARES = {4: 0.36, 1: 0.15, 2: 0.21, 3: 0.04, 5: 0.24}  # of the questions, by category, the paper's


@dataclass(slots=True)
class Asker:
    """Makes the questions about one conversation; `events` are those that were told."""

    rng: random.Random
    people: Sequence[str]
    events: Sequence[Event]
    traits: Sequence[Fact]
    share_renamed: float

    def questions(self, num_questions: int) -> list[dict[str, Any]]:
        """At most `num_questions`, in the paper's shares; those of a category drawn from all that the events yield."""
        makers = {4: self.single, 1: self.multi, 2: self.temporal, 3: self.open, 5: self.adversarial}
        asked: list[dict[str, Any]] = []
        for category, share in SHARES.items():
            made = makers[category]()
            drawn = self.rng.sample(made, min(len(made), round(share * num_questions)))
            asked += [entry | {"category": category} for entry in drawn]
        return self.rng.sample(asked, len(asked))

    def single(self) -> list[dict[str, Any]]:
        """What happened with an object, who was there, which object it was if there was one; a trait."""
        made = []
        for event in self.events:
            text = self.pick(event.theme.what).format(x=event.person, o=self.name(event))
            made.append(_entry(text, event.fact, [event]))
            if event.companion:
                text = self.pick(tables.ASKED_WHO).format(x=event.person, a=self.deed(event))
                made.append(_entry(text, event.companion, [event]))
            if sum((e.person, e.action) == (event.person, event.action) for e in self.events) == 1:
                text = f"Which {event.theme.kind} did {event.person} {self.pick(event.action.asked)}?"
                made.append(_entry(text, event.names[0], [event]))
        for trait in self.traits:
            if trait.told:
                made.append(_entry(self.pick(trait.trait.asked).format(x=trait.person), trait.value, [trait]))
        return made

    def multi(self) -> list[dict[str, Any]]:
        """All of one person's objects of a theme, or of both people's; what caused the cause of an event."""
        made = []
        groups = self.groups()
        for (person, _), group in groups.items():
            if 2 <= len(group) <= 4:
                made.append(_list(self.pick(group[0].theme.many).format(x=person), group))
        first, second = self.people
        for theme in tables.THEMES:
            parts = groups.get((first, theme.kind), []), groups.get((second, theme.kind), [])
            if all(parts) and len(parts[0]) + len(parts[1]) <= 4:
                made.append(_list(self.pick(theme.both).format(x=first, y=second), parts[0] + parts[1]))
        for event in self.events:
            cause = event.cause
            root = cause.cause if cause else None
            if cause and root:
                text = self.pick(tables.ASKED_ROOT).format(x=event.person, a=self.deed(event))
                made.append(_entry(text, root.fact, [root, cause, event]))
        return made

    def temporal(self) -> list[dict[str, Any]]:
        """The date of each event; for some pairs which was first."""
        made = []
        for event in self.events:
            text = self.pick(tables.ASKED_WHEN).format(x=event.person, a=self.deed(event))
            made.append(_entry(text, _day(event.day), [event]))
        for person in self.people:
            own = [event for event in self.events if event.person == person]
            for first, second in zip(own[::4], own[2::4], strict=False):
                if first.day < second.day:
                    a, b = self.rng.sample([self.deed(first), self.deed(second)], 2)
                    text = self.pick(tables.ASKED_ORDER).format(x=person, a=a, b=b)
                    made.append(_entry(text, first.fact, [first, second]))
        return made

    def open(self) -> list[dict[str, Any]]:
        """What somebody would probably like, who did what these events tell."""
        return [
            _entry(
                f"Would {person} {group[0].theme.suits}?",
                "Likely yes; " + ", ".join(event.fact for event in group),
                group,
            )
            for (person, _), group in self.groups().items()
        ]

    def adversarial(self) -> list[dict[str, Any]]:
        """What the other person did with an object, or when; evidence is the turn that the question distorts."""
        made = []
        for event in self.events:
            other = next(person for person in self.people if person != event.person)
            forms = [
                (self.pick(event.theme.what).format(x=other, o=self.name(event)), event.fact),
                (self.pick(tables.ASKED_WHEN).format(x=other, a=self.deed(event)), _day(event.day)),
            ]
            text, answer = self.pick(forms)
            made.append({"question": text, "adversarial_answer": answer, "evidence": [event.told]})
        return made

    def groups(self) -> dict[tuple[str, str], list[Event]]:
        """The events by person and theme."""
        groups: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for event in self.events:
            groups[event.person, event.theme.kind].append(event)
        return groups

    def name(self, event: Event) -> str:
        """A name of the event's object for a question."""
        return self.rng.choice(event.names[1:]) if self.rng.random() < self.share_renamed else event.names[0]

    def deed(self, event: Event) -> str:
        """What the person did, as an infinitive with its object."""
        return f"{self.pick(event.action.asked)} {self.name(event)}"

    def pick(self, choices: Sequence[T]) -> T:
        """One of them."""
        return self.rng.choice(choices)


def _list(question: str, group: Sequence[Event]) -> dict[str, Any]:
    return _entry(question, ", ".join(event.names[0] for event in group), group)


def _entry(question: str, answer: str, evidence: Sequence[Event | Fact]) -> dict[str, Any]:
    return {"question": question, "answer": answer, "evidence": [item.told for item in evidence]}


def _day(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"
