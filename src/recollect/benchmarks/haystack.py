"""Tasks of recall from a long input: pass key, needle, key-value, number and MQAR, made to an exact number of tokens.

A text task is a haystack of prose with statements in it, and a question at the end whose answer stands in one of them.
The prose is a given text or made up from templates; it is cut at token borders, so that every prompt has the length asked
for. MQAR (Zoology, arXiv:2312.04927) is made of token numbers and needs no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import numpy as np

from recollect.errors import InvalidInput

NAMES = (
    "Anna Ben Clara David Emma Frank Grace Henry Ivy James Kate Leo Mary Noah Olive Peter Quinn Rose Sam Tom Una Victor Wanda Zoe"
).split()
THINGS = "colour animal fruit city number tree flower drink metal river month game bird dish song stone".split()
VALUES = (
    "red blue green black white silver violet amber tiger horse rabbit falcon otter badger apple pear cherry lemon plum Paris Rome "
    "Vienna Lisbon Oslo Cairo Delhi oak birch maple willow cedar rose tulip lily daisy tea coffee milk gold iron copper tin chess"
).split()
_WHO = "the miller,the old sailor,a tired clerk,my neighbour,the young doctor,the baker,her brother,the teacher,a stranger".split(
    ","
)
_DID = "walked to,came back from,looked at,talked about,waited near,wrote about,dreamed of,stayed away from".split(",")
_WHERE = "the harbour,the garden,the long road,the empty house,the market,the river,the church,the hills,the small shop".split(
    ","
)
_WHEN = "in the morning,before dinner,after the rain,that evening,on Sunday,late at night,at last,for a while".split(
    ","
)
_HOW = "and said nothing,with a lantern,and laughed,without a word,and thought of the sea,as people do,because it was cold".split(
    ","
)


class Tokenizer(Protocol):
    """What is needed of a tokenizer of transformers."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]:
        """Token numbers of a text."""
        ...

    def decode(self, token_ids: Any) -> str:
        """The text of token numbers."""
        ...


@dataclass(frozen=True)
class Prompt:
    """One question: the tokens of haystack and question, the answer, where it stood (0 first, 1 last), and how long the question is."""

    tokens: list[int]
    answer: str
    depth: float
    num_question_tokens: int

    def correct(self, reply: str) -> bool:
        """Whether the reply begins with the answer, blanks apart."""
        return reply.strip().startswith(self.answer)

    def parts(self) -> tuple[list[int], list[int]]:
        """The tokens of what is to be read, and those of the question."""
        cut = len(self.tokens) - self.num_question_tokens
        return self.tokens[:cut], self.tokens[cut:]


def prose(rng: Random) -> Iterator[str]:
    """Made sentences, without end."""
    while True:
        words = [rng.choice(part) for part in (_WHO, _DID, _WHERE, _WHEN, _HOW)]
        if rng.random() < 0.5:
            words.insert(0, words.pop(3) + ",")
        sentence = " ".join(words[: rng.randint(3, 5)])
        yield f"{sentence[0].upper()}{sentence[1:]}. "


def _digits(rng: Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


Made = tuple[list[str], int, str, str]  # statements, which of them is asked for, question, answer


def passkey(rng: Random, room: int) -> Made:
    """One pass key of five digits (InfiniteBench's Retrieve.PassKey, arXiv:2402.13718)."""
    key = _digits(rng, 5)
    said = f"\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
    return [said], 0, "\nWhat is the pass key? The pass key is", key


def number(rng: Random, room: int) -> Made:
    """One key of ten digits in which neighbours repeat (InfiniteBench's Retrieve.Number)."""
    key = _digits(rng, 5)
    for place in sorted((rng.randrange(5) for _ in range(5)), reverse=True):
        key = key[: place + 1] + key[place:]
    said = f"\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
    return [said], 0, "\nWhat is the pass key? The pass key is", key


def needle(rng: Random, room: int) -> Made:
    """One fact about one person."""
    name, thing, value = rng.choice(NAMES), rng.choice(THINGS), rng.choice(VALUES)
    question = f"\nWhat is {name}'s favourite {thing}? {name}'s favourite {thing} is"
    return [f"\n{name}'s favourite {thing} is {value}.\n"], 0, question, value


def key_value(rng: Random, room: int) -> Made:
    """A pair of key and value for every 128 tokens, at least two; one is asked for."""
    pairs = {}
    while len(pairs) < max(2, room // 128):
        pairs["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(3))] = _digits(rng, 4)
    asked = rng.randrange(len(pairs))
    key, value = list(pairs.items())[asked]
    return [f"\nkey {key}: {value}\n" for key, value in pairs.items()], asked, f"\nvalue of key {key}?", value


TASKS: dict[str, Callable[[Random, int], Made]] = {
    "passkey": passkey,
    "needle": needle,
    "key-value": key_value,
    "number": number,
}


class Haystacks:
    """Makes prompts of exact length. `text` is the prose to hide things in; None: made sentences."""

    def __init__(self, tokenizer: Tokenizer, first: int | None = None, text: str | None = None, seed: int = 0):
        self.tokenizer, self.first = tokenizer, [] if first is None else [first]
        self._rng = Random(f"haystack {seed}")
        self._sentences = prose(self._rng)
        self._given = self.encode(text) if text is not None else []
        if text is not None and not self._given:
            raise InvalidInput("haystack: the text is empty.")
        self._made: list[int] = []

    @property
    def source(self) -> str:
        """What the prose is: "given" or "made"."""
        return "given" if self._given else "made"

    def prompt(self, task: str, length: int, rng: Random, depth: float | None = None) -> Prompt:
        """A prompt of exactly `length` tokens; what is asked for stands at `depth` (None: anywhere).

        Raises InvalidInput for an unknown task or when the statements leave no room.
        """
        if task not in TASKS:
            raise InvalidInput(f"task: {task!r:.20} is not known; use one of {', '.join(TASKS)}, mqar.")
        said, asked, question, answer = TASKS[task](rng, length)
        statements, end = [self.encode(each) for each in said], self.encode(question)
        room = length - len(self.first) - len(end) - sum(map(len, statements))
        if room < 0:
            raise InvalidInput(
                f"length: {length} tokens cannot hold the statements of {task}; use {length - room} or more."
            )
        filler = self.filler(room, rng)
        depths = [rng.random() for _ in statements]
        if depth is not None:
            depths[asked] = depth
        tokens, done = list(self.first), 0
        for place in sorted(range(len(statements)), key=lambda each: depths[each]):
            cut = round(depths[place] * room)
            tokens += filler[done:cut] + statements[place]
            done = cut
        return Prompt(tokens + filler[done:] + end, answer, depths[asked], len(end))

    def filler(self, length: int, rng: Random) -> list[int]:
        """A stretch of the prose, from a place drawn at random."""
        if self._given:
            source = self._given * (length // len(self._given) + 2)
        else:
            while len(self._made) < 2 * length + 64:
                self._made += self.encode("".join(next(self._sentences) for _ in range(200)))
            source = self._made
        start = rng.randrange(len(source) - length)
        return source[start : start + length]

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, nothing added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def mqar(
    rows: int,
    length: int,
    num_pairs: int,
    vocabulary: int,
    seed: int = 0,
    power: float = 0.01,
    first: int = 0,
    fill: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Multi-query associative recall: (tokens, labels), both int64 [rows, length]; -100 where nothing is to be predicted.

    Keys are drawn without repetition from [first + 1, first + vocabulary / 2), values from the upper half. Positions 0 to
    2 * num_pairs - 1 hold key, value, key, value ...; each key stands once more in one of the two-token slots that follow,
    slot i with a chance proportional to power * i ** (power - 1), and its label there is the value. The rest is token
    `first`, or random with `fill`. Raises InvalidInput unless 4 * num_pairs <= length and num_pairs < vocabulary / 2.
    """
    if 4 * num_pairs > length or num_pairs >= vocabulary // 2 or num_pairs < 1:
        raise InvalidInput(
            f"num_pairs: {num_pairs} does not fit; use at most {min(length // 4, vocabulary // 2 - 1)} for this length and vocabulary."
        )
    rng = np.random.default_rng(seed)
    half, slots = vocabulary // 2, (length - 2 * num_pairs) // 2
    tokens = np.full((rows, length), first, dtype=np.int64)
    labels = np.full((rows, length), -100, dtype=np.int64)
    keys = first + 1 + rng.random((rows, half - 1)).argsort(1)[:, :num_pairs]
    values = first + half + rng.random((rows, vocabulary - half)).argsort(1)[:, :num_pairs]
    tokens[:, 0 : 2 * num_pairs : 2], tokens[:, 1 : 2 * num_pairs : 2] = keys, values
    # the largest of log chances with Gumbel noise are a draw without repetition
    noisy = (power - 1.0) * np.log(np.arange(1, slots + 1)) + rng.gumbel(size=(rows, slots))
    at = 2 * num_pairs + 2 * (-noisy).argsort(1)[:, :num_pairs]
    np.put_along_axis(tokens, at, keys, 1)
    np.put_along_axis(labels, at, values, 1)
    if fill:
        empty = tokens == first
        tokens[empty] = rng.integers(first, first + vocabulary, int(empty.sum()))
    return tokens, labels


def parse_lengths(lengths: str) -> list[int]:
    """Lengths such as "512,1k,64k,1M" as numbers of tokens (1k is 1,024), ascending. Raises InvalidInput."""
    found = set()
    for part in lengths.split(","):
        unit = {"k": 1024, "M": 1024 * 1024}.get(part.strip()[-1:], 1)
        digits = part.strip() if unit == 1 else part.strip()[:-1]
        if not digits.isdigit() or int(digits) < 1:
            raise InvalidInput(f"lengths: {part!r:.20} is not a length; write 512, 4k or 1M.")
        found.add(int(digits) * unit)
    return sorted(found)


def parse_names(names: str, known: Sequence[str], field: str) -> list[str]:
    """Names with commas between them, each one of `known`. Raises InvalidInput."""
    found = list(dict.fromkeys(part.strip() for part in names.split(",")))
    for name in found:
        if name not in known:
            raise InvalidInput(f"{field}: {name!r:.30} is not known; use some of {', '.join(known)}.")
    return found
