"""Made-up conversations of two people over months, in LoCoMo's schema, with questions whose evidence is known by turn.

Each person has traits and a temporal graph of events: something done with an object, on a day, mostly caused by an
earlier event. A session takes place a day or two after the next event that has not been told; each person tells what
is new, relative to that day ("two days ago"), and which object the cause was about; the rest is small talk. Questions
follow from the graph, by LoCoMo's categories:
    4 single-hop    what happened with an object, which object it was, who was there, a trait
    1 multi-hop     a list over two to four events of one person or of both, or the root of a chain of two causes
    2 temporal      the date of an event that was told relative to its session; which of two events came first
    3 open-domain   what somebody who did such things would probably like
    5 adversarial   an event or an object of one person, asked about the other
A question calls the action by other words than the turn that answers it, and the object, in half of the questions, by
another name. An object occurs in one event of a conversation; that of a cause is named again when its effect is told.

Paper: Evaluating Very Long-Term Conversational Memory of LLM Agents, arXiv:2402.17753 (2024), section 3.
Differs: templates in place of language models, so evidence is exact and the seed decides everything; captions of photos
are made from the events, and no photo exists; an event has at most one cause. `event_graph` is not in LoCoMo's schema.
Cost: a conversation of the default size has about 20 sessions, 300 turns and 31,000 characters; a hundred take 3 s.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

from recollect.benchmarks import conversation_tables as tables
from recollect.benchmarks.conversation_questions import Asker
from recollect.benchmarks.conversation_tables import Action, Theme, Trait
from recollect.errors import InvalidInput

FIRST_START = date(2022, 1, 1)  # the paper's range of first days
LAST_START = date(2023, 6, 1)
NUM_ROOTS = 3  # events without a cause that a graph begins with
MAX_CAUSE_DAYS = 30  # from a cause to its effect
NUM_THEMES = 5  # of one person
MAX_OF_THEME = 5  # events of one person, half of a theme's objects
MIN_TURNS, MAX_TURNS = 10, 20  # of a session


@dataclass(slots=True)
class Event:
    """Something that a person did, once."""

    id: str
    person: str
    theme: Theme
    action: Action
    names: tuple[str, ...]  # of the object; the first one is the one by which it is told
    day: date
    cause: Event | None
    companion: str  # "" for nobody
    told: str = ""  # id of the turn that tells it, "" as long as it has not been told

    @property
    def fact(self) -> str:
        """What happened, after the person's name."""
        return self.action.past.format(o=self.names[0])


@dataclass(slots=True)
class Fact:
    """A person's trait."""

    person: str
    trait: Trait
    value: str
    told: str = ""  # id of the turn that tells it


@dataclass(slots=True)
class Session:
    """A session's turns and what is told in them."""

    at: datetime
    turns: list[dict[str, Any]] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)  # person, fact, turn


def generate(
    num_conversations: int,
    seed: int = 0,
    *,
    num_events: int = 15,
    span_days: int = 240,
    num_sessions: int = 20,
    num_questions: int = 100,
    share_with_photos: float = 0.15,
    share_renamed: float = 0.5,
) -> Iterator[dict[str, Any]]:
    """`num_conversations` records in LoCoMo's schema; the n-th depends on the seed and n only.

    Each person lives through `num_events` events (at most 20) in `span_days`; those that do not fit into `num_sessions`
    sessions are never told or asked about. `num_questions` is the most questions of a conversation, in the paper's shares
    of categories, fewer if the events do not yield as many. `share_with_photos` of the turns that could share a photo do.
    `share_renamed` of the questions call an object by another name than the conversation does; with 1.0 full-text search
    finds next to nothing, with 0.0 nearly all of the single turns.
    Raises InvalidInput for more than 20 events or a span of less than 8 days.
    """
    if not 1 <= num_events <= 20:
        raise InvalidInput(f"num_events: must be from 1 to 20, not {num_events}.")
    if span_days < 8:
        raise InvalidInput(f"span_days: must be at least 8, not {span_days}.")
    for number in range(num_conversations):
        rng = random.Random(f"conversations/{seed}/{number}")
        people = tuple(rng.sample(tables.NAMES, 2))
        events = _events(rng, people, num_events, span_days)
        traits = [
            Fact(person, trait, value)
            for trait in tables.TRAITS
            for person, value in zip(people, rng.sample(trait.values, 2), strict=True)
        ]
        sessions = _sessions(rng, people, events, traits, num_sessions, share_with_photos)
        asker = Asker(rng, people, [event for event in events if event.told], traits, share_renamed)
        questions = asker.questions(num_questions)
        yield _record(f"made-{number:04d}", people, events, sessions, questions)


def _record(
    name: str, people: Sequence[str], events: Sequence[Event], sessions: Sequence[Session], qa: list[dict[str, Any]]
) -> dict[str, Any]:
    conversation: dict[str, Any] = {"speaker_a": people[0], "speaker_b": people[1]}
    observation, summary = {}, {}
    for number, session in enumerate(sessions, 1):
        conversation[f"session_{number}_date_time"] = _date_time(session.at)
        conversation[f"session_{number}"] = session.turns
        observation[f"session_{number}_observation"] = {
            person: [[f"{person} {fact}.", turn] for who, fact, turn in session.facts if who == person]
            for person in people
        }
        summary[f"session_{number}_summary"] = (
            " ".join(f"{person} {fact}." for person, fact, _ in session.facts) or "Small talk."
        )
    graph = {
        person: [
            {
                "id": event.id,
                "event": event.fact,
                "object": list(event.names),
                "date": event.day.isoformat(),
                "caused_by": [event.cause.id] if event.cause else [],
                "told": event.told,
            }
            for event in events
            if event.person == person
        ]
        for person in people
    }
    return {
        "sample_id": name,
        "conversation": conversation,
        "qa": qa,
        "observation": observation,
        "session_summary": summary,
        "event_graph": graph,
    }


def _events(rng: random.Random, people: Sequence[str], num_events: int, span_days: int) -> list[Event]:
    """The events of both people by day; each after NUM_ROOTS follows from an earlier one of the same person."""
    start = FIRST_START + timedelta(days=rng.randrange((LAST_START - FIRST_START).days))
    objects = {theme.kind: rng.sample(theme.objects, len(theme.objects)) for theme in tables.THEMES}
    companions = rng.sample(tables.COMPANIONS, len(tables.COMPANIONS))
    events: list[Event] = []
    for person in people:
        days: list[date] = []
        causes: list[int | None] = []
        while len(days) < num_events:
            cause = rng.randrange(len(days)) if len(days) >= NUM_ROOTS else None
            after = (days[cause] - start).days if cause is not None else -1
            latest = 3 * span_days // 4 if cause is None else min(span_days, after + 1 + MAX_CAUSE_DAYS)
            if after + 1 < latest:
                days.append(start + timedelta(days=rng.randrange(after + 1, latest)))
                causes.append(cause)
        themes = rng.sample(tables.THEMES, NUM_THEMES)
        own: list[Event] = []
        for number, (day, cause) in enumerate(zip(days, causes, strict=True)):
            free = [theme for theme in themes if sum(event.theme is theme for event in own) < MAX_OF_THEME]
            theme = rng.choice(free)
            names = objects[theme.kind].pop()
            own.append(
                Event(
                    id=f"{person}-{number + 1}",
                    person=person,
                    theme=theme,
                    action=rng.choice(theme.actions),
                    names=tuple(rng.sample(names, len(names))),
                    day=day,
                    cause=own[cause] if cause is not None else None,
                    companion=companions.pop() if companions and rng.random() < 0.5 else "",
                )
            )
        events += own
    return sorted(events, key=lambda event: (event.day, event.id))


def _sessions(
    rng: random.Random,
    people: Sequence[str],
    events: Sequence[Event],
    traits: Sequence[Fact],
    num_sessions: int,
    share_with_photos: float,
) -> list[Session]:
    """Sessions in order until all events are told, or `num_sessions` are held; events and traits get their turns."""
    waiting = list(events)
    untold = rng.sample(traits, len(traits))
    sessions: list[Session] = []
    while waiting and len(sessions) < num_sessions:
        day = waiting[0].day + timedelta(days=rng.randint(1, 2))
        new = [event for event in waiting if event.day <= day]
        waiting = waiting[len(new) :]
        at = datetime.combine(day, time(rng.randint(9, 21), rng.randrange(60)))
        share = [untold.pop() for _ in range(min(len(untold), rng.randint(0, 2)))]
        sessions.append(_session(rng, people, len(sessions) + 1, at, new, share, share_with_photos))
    return sessions


def _session(
    rng: random.Random,
    people: Sequence[str],
    number: int,
    at: datetime,
    events: Sequence[Event],
    traits: Sequence[Fact],
    share_with_photos: float,
) -> Session:
    """One session: a greeting, news and small talk in turn, a goodbye."""
    session = Session(at)
    speakers = rng.sample(people, 2)
    news: dict[str, list[Event | Fact]] = {
        person: [item for item in (*events, *traits) if item.person == person] for person in people
    }
    num_turns = max(rng.randint(MIN_TURNS, MAX_TURNS), 4 + 2 * max(len(items) for items in news.values()))
    places: dict[int, Event | Fact] = {}
    for offset, person in enumerate(speakers):
        slots = [turn for turn in range(2, num_turns - 2) if turn % 2 == offset]
        places |= dict(zip(sorted(rng.sample(slots, len(news[person]))), news[person], strict=True))
    reply = ""
    for turn in range(num_turns):
        person, other = speakers[turn % 2], speakers[1 - turn % 2]
        id_ = f"D{number}:{turn + 1}"
        item = places.get(turn)
        caption = ""
        if item is not None:
            item.told = id_
        if isinstance(item, Event):
            session.facts.append((person, item.fact, id_))
            text, caption = _tell(rng, item, at.date()), f"a photo of {item.names[0]}"
        elif item is not None:
            session.facts.append((person, item.trait.fact.format(v=item.value), id_))
            text = _sentence(rng.choice(item.trait.told).format(v=item.value)) + " " + _small_talk(rng)
        elif turn < 2:
            text = rng.choice(tables.ANSWERS if turn else tables.GREETINGS).format(y=other) + " " + _small_talk(rng)
        elif turn >= num_turns - 2:
            text = rng.choice(tables.GOODBYES).format(y=other)
        else:
            text, caption = _small_talk(rng), f"a photo of {rng.choice(tables.VIEWS)}"
        if item is None or rng.random() < 0.5:
            text = f"{reply} {text}".strip()
        reply = rng.choice(tables.REACTIONS) if isinstance(item, Event) else ""
        entry = {"speaker": person, "dia_id": id_, "text": text}
        if caption and rng.random() < share_with_photos:
            entry["blip_caption"] = caption
        session.turns.append(entry)
    return session


def _tell(rng: random.Random, event: Event, today: date) -> str:
    """What a person says about an event: what, when, with whom, why; most of it in any order."""
    parts = [rng.choice(event.action.told).format(o=event.names[0])]
    details = [rng.choice(tables.TOLD_WHEN).format(w=_relative(rng, event.day, today))]
    if event.companion:
        details.append(rng.choice(tables.JOINED).format(c=event.companion))
    if event.cause is not None:
        details.append(rng.choice(tables.CAUSES).format(o=event.cause.names[0]))
    if rng.random() < 0.5:
        details.append(rng.choice(tables.FOLLOW_UPS))
    return " ".join(map(_sentence, parts + rng.sample(details, len(details))))


def _relative(rng: random.Random, day: date, today: date) -> str:
    """A day as it is called on another one that is not earlier: "yesterday", "three days ago", "last Friday"."""
    days = (today - day).days
    forms = {0: ["today", "this morning"], 1: ["yesterday"]}.get(days) or [_ago(days)]
    if 1 < days < 7 and day.weekday() > today.weekday():  # in last week
        forms.append(f"last {day:%A}")
    return rng.choice(forms)


def _ago(days: int) -> str:
    return f"{tables.NUMBER_WORDS[days] if days < len(tables.NUMBER_WORDS) else days} days ago"


def _small_talk(rng: random.Random) -> str:
    """One or two sentences about nothing, and perhaps a question back."""
    lines = rng.sample(tables.SMALL_TALK, rng.randint(1, 2))
    fill = {name: rng.sample(choices, 2) for name, choices in tables.FILL.items()}
    said = [
        _sentence(line.format(**{name: choices[number] for name, choices in fill.items()}))
        for number, line in enumerate(lines)
    ]
    return " ".join([*said, rng.choice(tables.FOLLOW_UPS)] if rng.random() < 0.5 else said)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _date_time(at: datetime) -> str:
    """A time as LoCoMo writes it: 1:56 pm on 8 May, 2023."""
    return f"{at.hour % 12 or 12}:{at:%M} {'am' if at.hour < 12 else 'pm'} on {at.day} {at:%B}, {at.year}"
