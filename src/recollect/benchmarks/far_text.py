"""Texts in which what comes later depends on what was read far before: made ones, and novels.

A made document says facts and stretches of random tokens in its first third and again in its second half, a window or more
later, with made prose between; a task of demonstrations gives words one of a few labels. In novels, what is told far apart is
held together by names: `far_names` marks those last seen further back than a window, and `Chapters` makes choices of the true
next chapter among later ones of the same book (after ChapterBreak, arXiv:2204.10878).
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from recollect.benchmarks.haystack import Haystacks, needle
from recollect.errors import NotFound

_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b")  # a word with a capital within a sentence
_CHAPTER = re.compile(r"^[ \t]*(?:CHAPTER|Chapter)\b.{0,80}$", re.MULTILINE)


def made_document(
    haystacks: Haystacks, rng: Random, window_tokens: int, vocabulary: int, first: int = 3
) -> tuple[list[int], list[bool]]:
    """(tokens, which of them repeat what left the window): a document of six windows.

    A fact and a stretch of random tokens, numbers `first` to `vocabulary` - 1, for every 32 tokens of a window are said in
    the first two windows. In the last three, facts are asked for and stretches begun; the answers and the rest are marked.
    """
    length, count = 6 * window_tokens, max(window_tokens // 32, 1)
    facts: dict[str, tuple[str, str]] = {}
    while len(facts) < count:
        said, _, question, answer = needle(rng, window_tokens)
        facts.setdefault(question, (said[0], f" {answer}."))
    stretches = [[rng.randrange(first, vocabulary) for _ in range(16)] for _ in range(count)]
    early = [haystacks.encode(said) for said, _ in facts.values()] + stretches
    late = [(haystacks.encode(question), haystacks.encode(answer)) for question, (_, answer) in facts.items()]
    late += [(stretch[:3], stretch[3:]) for stretch in stretches]
    tokens, marks = list(haystacks.first), [False] * len(haystacks.first)

    def fill(end: int) -> None:
        prose = haystacks.filler(max(end - len(tokens), 0), rng)
        tokens.extend(prose)
        marks.extend([False] * len(prose))

    rng.shuffle(early)
    rng.shuffle(late)
    for number, said in enumerate(early):
        fill(2 * window_tokens * (number + 1) // len(early) - len(said))
        tokens += said
        marks += [False] * len(said)
    fill(3 * window_tokens)
    for number, (cue, answer) in enumerate(late):
        fill(3 * window_tokens * (number + 1) // len(late) + 3 * window_tokens - len(cue) - len(answer))
        tokens += cue + answer
        marks += [False] * len(cue) + [True] * len(answer)
    return tokens[:length], marks[:length]


@dataclass(frozen=True)
class Lesson:
    """A task learned from demonstrations alone: each word has one of a few labels.

    `demonstrations` [n] are lists of tokens, word, label and a mark of the end; `words` and `answers` are asked for.
    """

    demonstrations: list[list[int]]
    words: list[int]
    answers: list[int]
    labels: list[int]


def lesson(rng: Random, num_words: int, num_labels: int, vocabulary: int, first: int = 3) -> Lesson:
    """A lesson on words, labels and a mark that are tokens drawn from numbers `first` to `vocabulary` - 1."""
    drawn = rng.sample(range(first, vocabulary), num_words + num_labels + 1)
    words, labels, end = drawn[:num_words], drawn[num_words:-1], drawn[-1]
    answers = [labels[number % num_labels] for number in range(num_words)]
    pairs = list(zip(words, answers, strict=True))
    rng.shuffle(pairs)
    return Lesson([[word, label, end] for word, label in pairs], words, answers, labels)


def novels(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    """(title, text) of each novel in `novels/<part>.jsonl.xz` of a data folder. Raises NotFound without it."""
    for place in (folder, folder / "data"):
        path = place / "novels" / f"{part}.jsonl.xz"
        if path.is_file():
            with lzma.open(path, "rt", encoding="utf-8") as file:
                for line in file:
                    item = json.loads(line)
                    yield item["title"], item["text"]
            return
    raise NotFound(f"data: there is no novels/{part}.jsonl.xz in {folder}.")


def has_novels(folder: Path | None) -> bool:
    """Whether a data folder has novels."""
    return folder is not None and any(
        (place / "novels" / "train.jsonl.xz").is_file() for place in (folder, folder / "data")
    )


def far_names(text: str, offsets: Sequence[tuple[int, int]], near: int, far: int) -> list[bool]:
    """Which tokens belong to a name last seen more than `near` and at most `far` tokens ago.

    `offsets` are each token's first character and the one after its last.
    """
    start_of: dict[int, int] = {}  # character to token
    for number, (start, end) in enumerate(offsets):
        for character in range(start, end):
            start_of.setdefault(character, number)
    marks, seen = [False] * len(offsets), {}
    for found in _NAME.finditer(text):
        if found.start() not in start_of:
            continue
        token, word = start_of[found.start()], found.group()
        if near < token - seen.get(word, token) <= far:
            for number in range(token, start_of.get(found.end() - 1, token) + 1):
                marks[number] = True
        seen[word] = token
    return marks


@dataclass(frozen=True)
class Choice:
    """What was read up to a chapter's end, and openings of chapters, of which the first is the true next one."""

    prefix: list[int]
    openings: list[list[int]]


def chapter_choices(
    text: str, tokenizer: Any, prefix_tokens: int, opening_tokens: int, num_choices: int, rng: Random
) -> Iterator[Choice]:
    """A choice for each chapter of a novel that has enough before it, and enough chapters behind it to draw from.

    Headings are left out, so that no number gives the answer away. `tokenizer` has `encode(text)`, giving token numbers.
    """
    heads = list(_CHAPTER.finditer(text))
    bodies = [text[head.end() : after.start()] for head, after in pairwise(heads)]
    tokens = [tokenizer.encode(body) for body in bodies]
    before: list[int] = []
    for number, body in enumerate(tokens):
        others = [each[:opening_tokens] for each in tokens[number + 1 :] if len(each) >= opening_tokens]
        if len(before) >= prefix_tokens and len(body) >= opening_tokens and len(others) >= num_choices - 1:
            yield Choice(before[-prefix_tokens:], [body[:opening_tokens], *rng.sample(others, num_choices - 1)])
        before = (before + body)[-prefix_tokens:]
