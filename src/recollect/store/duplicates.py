"""Near-identical texts: the same content in other clothes, told from texts that only look alike.

Two texts are near-identical when they hold the same content words, up to case, punctuation, contractions, fillers,
common words without a meaning of their own, word order, singular and plural, British and American spelling, and slips
of the pen; and when neither numbers, negation, persons, time of the verbs, quantity, direction ("from", "to") nor the
order of names differ, and neither says more than the other. The test is strict: it forgoes paraphrases ("I own a dog",
"I have a dog") so as never to merge what says something else.

Grouping gives each text a key that all its near-identical texts share (the consonants of its content words), so only
texts with an equal key are compared: time grows linearly with the number of texts.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from recollect.store.english import MAX_CHARS, NEGATIONS, expand, is_irregular_past, words_of
from recollect.store.evidence import stems
from recollect.store.lexical import STOP_WORDS

LEAST_COSINE = 0.6  # of the texts' vectors; below it nothing is near-identical
MAX_COMPARED = 64  # groups with an equal key that a text is compared with

_FILLERS = re.compile(
    r"\b(?:by the way|btw|as (?:i|we) (?:said|mentioned|told you)(?: before| earlier| already)?|like i said"
    r"|i (?:just )?(?:said|mentioned)"
    r"|you know|i mean|to be honest|in fact|of course|for the record|just so you know|fyi|did i mention(?: that)?|remember(?:,| that)"
    r"|please note(?: that)?|let me (?:say|repeat)(?: it)?(?: again)?|i think|i guess|(?:oh|well|so|hey|hi|yeah|yes|ok|okay),)(?!\w)",
    re.IGNORECASE,
)
_FILLER_WORDS = frozenset(
    "actually really just honestly basically anyway also well still again indeed oh yeah yes ok okay hey hi now so too "
    "very currently please definitely certainly simply lol haha".split()
)
_PERSONS = {
    word: group
    for group, words in {
        "1": "i me my mine myself we us our ours ourselves",
        "2": "you your yours yourself yourselves u",
        "m": "he him his himself",
        "f": "she her hers herself",
        "t": "they them their theirs themselves",
    }.items()
    for word in words.split()
}
# Common words that change what is said.
_MEANINGFUL = frozenset(
    """all some few more most both only each either neither other own same above after against before below between during
    over under off out up down through until till without while if than because would will could might may should must can
    ever once used who how when where why what which""".split()
)
_DIRECTIONS = frozenset(
    "from to into by for with without against before after until since than over under about".split()
)
_NUMBERS: dict[str, str] = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty".split()
    )
} | {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90"}
# Pairs of words that a slip of the pen would turn into each other, and that mean different things.
_NO_SLIPS = frozenset(
    """desert dessert quiet quite angel angle trial trail casual causal marital martial diary dairy later latter united
    untied scared sacred stationary stationery adoption adaption complement compliment planed planned hoping hopping
    moral morale human humane""".split()
)
_AMERICAN = re.compile(r"(?<=[a-z]{3})(?:our(?=s?$|ed$|ing$|ite|ful|able|hood)|is(?=e[ds]?$|ing$|ation)|tre(?=s?$))")
_SPELLINGS = {"our": "or", "is": "iz", "tre": "ter"}


@dataclass(frozen=True, slots=True)
class _Signature:
    """What near-identical texts have in common."""

    words: tuple[tuple[str, str], ...]  # (stem, word) of the content words in order
    exact: tuple[object, ...]  # what must not differ at all
    names: tuple[str, ...]  # stems of the words with a capital, in order
    key: tuple[object, ...]  # equal for all that may be near-identical


def near_identical(a: str, b: str, cosine: float | None = None) -> bool:
    """Whether two texts say the same in other clothes; `cosine` of their vectors, where known, may only forbid it."""
    if cosine is not None and cosine < LEAST_COSINE:
        return False
    return _alike(_signature(a[:MAX_CHARS]), _signature(b[:MAX_CHARS]))


def digest(text: str) -> bytes:
    """16 bytes that near-identical texts share, and few others do: to look for candidates by."""
    return hashlib.blake2b(repr(_signature(text[:MAX_CHARS]).key).encode(), digest_size=16).digest()


def groups(texts: Sequence[str], vectors: np.ndarray | None = None) -> list[list[int]]:
    """The indices of each group of near-identical texts, groups and members in order of first appearance.

    vectors: float (N, D), a row of length 1 for each text; see `near_identical`. A text joins the first group whose
    first text it is near-identical to.
    """
    found: list[list[int]] = []
    by_key: dict[tuple[object, ...], list[int]] = defaultdict(list)  # key -> numbers of groups
    signatures = [_signature(text[:MAX_CHARS]) for text in texts]
    for index, signature in enumerate(signatures):
        for number in by_key[signature.key][:MAX_COMPARED]:
            first = found[number][0]
            if vectors is not None and float(vectors[index] @ vectors[first]) < LEAST_COSINE:
                continue
            if _alike(signature, signatures[first]):
                found[number].append(index)
                break
        else:
            by_key[signature.key].append(len(found))
            found.append([index])
    return found


def _alike(a: _Signature, b: _Signature) -> bool:
    if a.key != b.key or a.exact != b.exact:
        return False
    if not _moved(_shared(a.names, b.names), _shared(b.names, a.names), most=0):
        return False
    first, second = dict(a.words), dict(b.words)
    rest_a, rest_b = [stem for stem in first if stem not in second], [stem for stem in second if stem not in first]
    if rest_a or rest_b:
        if len(rest_a) != 1 or len(rest_b) != 1 or not _slip(first[rest_a[0]], second[rest_b[0]]):
            return False
        second = {rest_a[0] if stem == rest_b[0] else stem: word for stem, word in second.items()}
    return _moved(list(first), list(second), most=len(first))


def _shared(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name in others))


def _moved(a: list[str], b: list[str], most: int) -> bool:
    """Whether two orders of the same words differ by no more than one run of up to `most` words moved elsewhere.

    "Tomorrow I meet Tom" is "I meet Tom tomorrow"; "the dog chases the cat" is not "the cat chases the dog".
    """
    while a and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    if not a:
        return True
    turn = b.index(a[0])
    return turn <= most and b[turn:] + b[:turn] == a


def _slip(a: str, b: str) -> bool:
    """Whether two words are one word, once misspelt: letters swapped or doubled, in a long word a wrong vowel."""
    if min(len(a), len(b)) < 5 or a[0] != b[0] or {a, b} & _NO_SLIPS or a[0].isupper() or b[0].isupper():
        return False
    if len(a) == len(b):
        places = [place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        if len(places) == 2 and places[1] == places[0] + 1:
            return a[places[0]] == b[places[1]] and a[places[1]] == b[places[0]]
        return len(a) > 7 and len(places) == 1 and {a[places[0]], b[places[0]]} <= set("aeiou")
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    if len(longer) != len(shorter) + 1:
        return False
    place = next((place for place, (x, y) in enumerate(zip(longer, shorter, strict=False)) if x != y), len(shorter))
    if longer[place + 1 :] != shorter[place:]:
        return False
    doubled = longer[place] == longer[place - 1]
    return doubled or (len(longer) > 8 and longer[place] in "aeiou")


@lru_cache(maxsize=256)
def _signature(text: str) -> _Signature:
    text = text.replace("\0", " ")
    asks = text.rstrip("\"' )").endswith("?")
    expanded = _FILLERS.sub(" ", expand(text))
    words: list[tuple[str, str]] = []
    numbers: list[str] = []
    marks: Counter[str] = Counter()
    names: list[str] = []
    direction = ""
    for place, token in enumerate(
        re.findall(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*|[$\u20ac\u00a3%+]", expanded)
    ):
        word = token.casefold().removesuffix("'s").replace("'", "")
        if word[:1].isdigit() or word in _NUMBERS or not word[:1].isalpha():
            numbers.append(_NUMBERS.get(word) or word.rstrip(".,"))
            continue
        if word in NEGATIONS:
            marks["not"] += 1
        elif word in _PERSONS:
            marks[f"person {_PERSONS[word]}"] = 1
        elif word in ("was", "were", "had", "did"):
            marks["past"] = 1
        if word in _MEANINGFUL and word not in _FILLER_WORDS:
            marks[word] += 1
        if word in _DIRECTIONS:
            direction = word
        if word in STOP_WORDS or word in _FILLER_WORDS or word in NEGATIONS:
            continue
        spelt = _AMERICAN.sub(lambda match: _SPELLINGS[match[0]], word)
        stem = "".join(stems(spelt)[:1]) or spelt
        words.append((stem, token if place and token[0].isupper() else spelt))
        if direction in ("from", "to", "into", "without", "before", "after", "than", "by"):
            marks[f"{direction} {_skeleton(stem)}"] = 1
        direction = ""
        if is_irregular_past(spelt) or (spelt.endswith("ed") and len(spelt) > 4):
            marks[f"past {_skeleton(stem)}"] = 1
        if token[0].isupper():
            names.append(stem)
    content = {stem for stem, _ in words}
    exact = (asks, tuple(sorted(numbers)), tuple(sorted(marks.items())))
    key = (tuple(sorted({_skeleton(stem) for stem in content})), exact)
    if not words:
        key = (" ".join(words_of(expanded.casefold())), exact)
    return _Signature(tuple(words), exact, tuple(names), key)


@lru_cache(maxsize=1 << 15)
def _skeleton(stem: str) -> str:
    """The first letter and the sorted consonants after it, doubled ones once: what slips of the pen leave alone."""
    return stem[:1] + "".join(sorted(re.sub(r"(.)\1", r"\1", re.sub(r"[aeiou]", "", stem[1:]))))
