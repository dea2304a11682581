"""Made stories in the manner of bAbI: people go about rooms, take things and leave them, and a question needs some of it.

Kinds, with bAbI's numbers: `qa1` where a person is (one fact), `qa2` where a thing is (two), `qa3` where it was before (three),
`qa5` who gave what to whom, `qa6` yes or no, `qa7` how many things a person carries, `qa19` the way from room to room. Told in
lower-case words, a token each, with questions in between; the label is the answer, at the question mark.

Paper: Towards AI-Complete Question Answering, arXiv:1502.05698 (2015).
Differs: sentences and chances are our own, so that figures are not those of the published files; a story has as many questions
as fit, `qa19` one, whose answer is two words.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import torch

from recollect.benchmarks.state_tasks import IGNORED, Batch, Task
from recollect.errors import InvalidInput

PEOPLE = ("daniel", "john", "mary", "sandra")
ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
NUMBERS = ("none", "one", "two", "three")
GOES = ("went", "moved", "travelled", "journeyed")
STEPS = {"east": (1, 0), "north": (0, 1), "south": (0, -1), "west": (-1, 0)}
OTHER_WORDS = "before carrying did do dropped from gave give go got how in is left many no objects of received the there to took was"
OTHER_WORDS += " what where who yes you . ?"
BLANK = "_"
WORDS = (BLANK, *PEOPLE, *ROOMS, *THINGS, *NUMBERS, *GOES, *STEPS, *OTHER_WORDS.split())
Round = tuple[list[str], str, list[str]]  # sentences, the question, the words of its answer


class World:
    """Who is where and has what, as far as it was told."""

    def __init__(self, rng: Random):
        self.rng = rng
        self.rooms: dict[str, str] = {}  # of people
        self.held: dict[str, str] = {}  # things to who has them
        self.trails: dict[str, list[str]] = {}  # things to the rooms that they were in, the last one last

    def go(self, person: str, room: str) -> str:
        """The person goes to the room, with what they carry."""
        self.rooms[person] = room
        for thing, holder in self.held.items():
            if holder == person:
                self.trails[thing].append(room)
        return f"{person} {self.rng.choice(GOES)} to the {room} ."

    def wander(self) -> str:
        """Somebody goes elsewhere."""
        person = self.rng.choice(PEOPLE)
        return self.go(person, self.rng.choice([room for room in ROOMS if room != self.rooms.get(person)]))

    def handle(self) -> str:
        """Somebody takes what is in their room, or that was not seen yet, or leaves what they have."""
        takes = [
            (person, thing)
            for person, room in self.rooms.items()
            for thing in THINGS
            if thing not in self.held and self.trails.get(thing, [room])[-1] == room
        ]
        found = [*takes, *((person, thing) for thing, person in self.held.items())]
        if not found:
            return self.wander()
        person, thing = self.rng.choice(found)
        if self.held.get(thing) == person:
            del self.held[thing]
            return f"{person} {self.rng.choice(('dropped', 'left'))} the {thing} ."
        self.held[thing] = person
        self.trails.setdefault(thing, [self.rooms[person]])
        return f"{person} {self.rng.choice(('took', 'got'))} the {thing} there ."

    def event(self) -> str:
        """Somebody goes elsewhere, or takes or leaves something, at even chances."""
        return self.wander() if self.rng.random() < 0.5 else self.handle()

    def until(self, ready: Callable[[], object], at_least: int = 2) -> list[str]:
        """Events, `at_least` so many, until something is so."""
        told: list[str] = []
        while len(told) < at_least or not ready():
            told.append(self.event())
        return told


def _where(world: World) -> Round:
    told = [world.wander(), world.wander()]
    person = world.rng.choice(sorted(world.rooms))
    return told, f"where is {person} ?", [world.rooms[person]]


def _thing(world: World) -> Round:
    told = world.until(lambda: world.trails)
    thing = world.rng.choice(sorted(world.trails))
    return told, f"where is the {thing} ?", [world.trails[thing][-1]]


def _before(world: World) -> Round:
    def clear() -> list[str]:  # things that came to their room once, from another
        return [
            thing for thing, trail in sorted(world.trails.items()) if len(trail) > 1 and trail.count(trail[-1]) == 1
        ]

    told = world.until(clear)
    thing = world.rng.choice(clear())
    before, room = world.trails[thing][-2:]
    return told, f"where was the {thing} before the {room} ?", [before]


def _gave(world: World) -> Round:
    told = world.until(lambda: world.held)
    thing = world.rng.choice(sorted(world.held))
    giver = world.held[thing]
    other = world.rng.choice([person for person in PEOPLE if person != giver])
    if world.rooms.get(other) != world.rooms[giver]:
        told.append(world.go(other, world.rooms[giver]))
    told.append(f"{giver} gave the {thing} to {other} .")
    world.held[thing] = other
    question, answer = world.rng.choice(
        [
            (f"who gave the {thing} ?", giver),
            (f"who received the {thing} ?", other),
            (f"what did {giver} give to {other} ?", thing),
        ]
    )
    return told, question, [answer]


def _is_it_so(world: World) -> Round:
    told = [world.wander(), world.wander()]
    person = world.rng.choice(sorted(world.rooms))
    right = world.rng.random() < 0.5
    room = world.rooms[person]
    asked = room if right else world.rng.choice([other for other in ROOMS if other != room])
    return told, f"is {person} in the {asked} ?", ["yes" if right else "no"]


def _how_many(world: World) -> Round:
    told = world.until(lambda: world.trails)
    person = world.rng.choice(sorted(world.rooms))
    return told, f"how many objects is {person} carrying ?", [NUMBERS[list(world.held.values()).count(person)]]


def _way(world: World) -> Round:
    rng = world.rng
    rooms, at = rng.sample(ROOMS, 5), {}
    told: list[str] = []

    def put(room: str, near: str, step: str) -> bool:
        place = (at[near][0] + STEPS[step][0], at[near][1] + STEPS[step][1])
        if place in at.values():
            return False
        at[room] = place
        back = next(name for name, way in STEPS.items() if way == (-STEPS[step][0], -STEPS[step][1]))
        sentences = (f"the {room} is {step} of the {near} .", f"the {near} is {back} of the {room} .")
        told.append(rng.choice(sentences))
        return True

    at[rooms[0]] = (0, 0)
    path: list[str] = []
    for number in (1, 2):
        while not put(rooms[number], rooms[number - 1], step := rng.choice(sorted(STEPS))):
            pass
        path.append(step)
    for number in (3, 4):
        while not put(rooms[number], rng.choice(rooms[:number]), rng.choice(sorted(STEPS))):
            pass
    rng.shuffle(told)
    return told, f"how do you go from the {rooms[0]} to the {rooms[2]} ?", path


class Kind(NamedTuple):
    """How rounds are made, the fewest tokens that a story is drawn for, and how many answers there are."""

    make: Callable[[World], Round]
    shortest: int
    num_answers: int


KINDS = {
    "qa1": Kind(_where, 32, len(ROOMS)),
    "qa2": Kind(_thing, 64, len(ROOMS)),
    "qa3": Kind(_before, 96, len(ROOMS)),
    "qa5": Kind(_gave, 64, len(PEOPLE) + len(THINGS)),
    "qa6": Kind(_is_it_so, 32, 2),
    "qa7": Kind(_how_many, 64, len(NUMBERS)),
    "qa19": Kind(_way, 48, len(STEPS)),
}


def story(kind: str, length: int, rng: Random) -> list[tuple[str, str | None]]:
    """Words, each with the answer that is to be said at it: as many rounds of events and a question as fit into `length`."""
    words: list[tuple[str, str | None]] = []
    while not words:
        world = World(rng)
        while kind != "qa19" or not words:
            told, question, answer = KINDS[kind].make(world)
            text = [*" ".join([*told, question]).split(), *answer[:-1]]
            new: list[tuple[str, str | None]] = [(word, None) for word in text]
            for number, word in enumerate(answer):
                at = number - len(answer)
                new[at] = (new[at][0], word)
            if len(words) + len(new) > length:
                break
            words += new
    return words


def stories(kind: str = "qa1", length: int = 128) -> Task:
    """Stories of a kind of KINDS, blanks in front. Raises InvalidInput for an unknown kind, or too small a length."""
    if kind not in KINDS:
        raise InvalidInput(f"kind: {kind!r:.20} is not known; use one of {', '.join(KINDS)}.")
    if length < KINDS[kind].shortest:
        raise InvalidInput(f"length: {length} tokens hold no story of {kind}; use {KINDS[kind].shortest} or more.")
    numbers = {word: number for number, word in enumerate(WORDS)}

    def make(rows: int, seed: int) -> Batch:
        rng = Random(f"stories {seed}")
        tokens, labels = torch.zeros(rows, length, dtype=torch.int64), torch.full((rows, length), IGNORED)
        for row in range(rows):
            told = story(kind, length, rng)
            tokens[row, length - len(told) :] = torch.tensor([numbers[word] for word, _ in told])
            labels[row, length - len(told) :] = torch.tensor(
                [IGNORED if answer is None else numbers[answer] for _, answer in told]
            )
        return tokens, labels

    return Task(f"stories {kind}", len(WORDS), make)
