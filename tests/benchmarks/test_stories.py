"""Stories in the manner of bAbI: every answer found again by reading the words, and that none of them gives itself away."""

from __future__ import annotations

from random import Random

import pytest
import torch

from recollect.benchmarks.state_tasks import IGNORED
from recollect.benchmarks.stories import GOES, KINDS, NUMBERS, STEPS, WORDS, stories, story
from recollect.errors import InvalidInput


def read(words):
    """What a careful reader answers at each question mark of a story about people and things."""
    rooms, held, trails, gifts, answers = {}, {}, {}, [], []
    for sentence in " ".join(words).replace("?", "? .").split(" ."):
        said = [word for word in sentence.split() if word not in ("the", "there")]
        match said:
            case [who, verb, "to", room] if verb in GOES:
                rooms[who] = room
                for thing in (thing for thing, holder in held.items() if holder == who):
                    trails[thing].append(room)
            case [who, "took" | "got", thing]:
                assert thing not in held
                assert trails.setdefault(thing, [rooms[who]])[-1] == rooms[who]
                held[thing] = who
            case [who, "dropped" | "left", thing]:
                assert held.pop(thing) == who
            case [giver, "gave", thing, "to", other]:
                assert held[thing] == giver
                assert rooms[giver] == rooms[other]
                held[thing] = other
                gifts.append((giver, thing, other))
            case ["where", "is", name, "?"]:
                answers.append(rooms[name] if name in rooms else trails[name][-1])
            case ["where", "was", thing, "before", room, "?"]:
                assert trails[thing].count(room) == 1
                answers.append(trails[thing][trails[thing].index(room) - 1])
            case ["who", "gave", thing, "?"]:
                answers.append(next(giver for giver, given, _ in reversed(gifts) if given == thing))
            case ["who", "received", thing, "?"]:
                answers.append(next(other for _, given, other in reversed(gifts) if given == thing))
            case ["what", "did", giver, "give", "to", other, "?"]:
                answers.append(next(thing for one, thing, two in reversed(gifts) if (one, two) == (giver, other)))
            case ["is", who, "in", room, "?"]:
                answers.append("yes" if rooms[who] == room else "no")
            case ["how", "many", "objects", "is", who, "carrying", "?"]:
                answers.append(NUMBERS[list(held.values()).count(who)])
            case []:
                pass
            case _:
                raise AssertionError(said)
    return answers


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qa19"])
def test_every_answer_is_that_of_a_careful_reader(kind):
    several = 0
    for seed in range(60):
        told = story(kind, 160, Random(seed))
        asked = [(word, answer) for word, answer in told if answer is not None]
        assert {word for word, _ in asked} == {"?"}
        assert [answer for _, answer in asked] == read([word for word, _ in told])
        several += len(asked) > 1
    assert several > 30


def test_the_way_is_found_on_the_map():
    for seed in range(60):
        words, answers = zip(*story("qa19", 60, Random(seed)), strict=True)
        *told, question = " ".join(words).split(" . ")
        left = [sentence.split() for sentence in told]
        at = {left[0][6]: (0, 0)}
        while left:
            for one in left:
                room, near, (x, y) = one[1], one[6], STEPS[one[3]]
                if near in at:
                    at[room] = (at[near][0] + x, at[near][1] + y)
                elif room in at:
                    at[near] = (at[room][0] - x, at[room][1] - y)
                else:
                    continue
                left.remove(one)
                break
        assert len(set(at.values())) == 5
        asked = question.split()
        first, second = (answer for answer in answers if answer)
        assert asked[-2:] == ["?", first]
        assert answers[-2:] == (first, second)
        start, end = at[asked[6]], at[asked[9]]
        assert (start[0] + STEPS[first][0] + STEPS[second][0], start[1] + STEPS[first][1] + STEPS[second][1]) == end


@pytest.mark.parametrize("kind", KINDS)
def test_batches_follow_from_their_seed_and_no_answer_is_always_right(kind):
    task = stories(kind, 128)
    tokens, labels = task.make(40, 1)
    again, other = task.make(40, 1), task.make(40, 2)
    assert torch.equal(tokens, again[0])
    assert torch.equal(labels, again[1])
    assert not torch.equal(tokens, other[0])
    assert int(tokens.max()) < task.vocabulary == len(set(WORDS))
    said = labels[labels != IGNORED]
    assert ((labels != IGNORED).sum(1) > 0).all()
    assert said.bincount().max() < 0.75 * len(said)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="kind: 'qa20' is not known; use one of qa1, "):
        stories("qa20")
    with pytest.raises(InvalidInput, match="length: 31 tokens hold no story of qa1; use 32 or more"):
        stories("qa1", 31)
