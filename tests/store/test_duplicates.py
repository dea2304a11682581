"""Near-identical texts: what is one text in other clothes, and what only looks so."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.store.duplicates import groups, near_identical

SAME = [
    ("I'm from Lisbon", "By the way, I am from lisbon!"),
    ("I have two cats", "I have 2 cats."),
    ("I don't like tea", "I do not like tea"),
    ("Tomorrow I meet Tom in Porto", "I meet Tom in Porto tomorrow"),
    ("My favourite colour is blue.", "my favorite color is blue"),
    ("I went to the restaurant", "I went to the restaurent"),
    ("Ana likes old films", "Ana likes old film"),
    ("", " "),
]
DIFFERENT = [
    ("I like tea", "I don't like tea"),
    ("I have 2 cats", "I have 3 cats"),
    ("I have a cat", "I have 3 cats"),
    ("Ana lives in Porto", "Ben lives in Porto"),
    ("I love my dog", "I love my dog and my cat"),
    ("I moved from Lisbon to Porto", "I moved from Porto to Lisbon"),
    ("Ana loves Ben", "Ben loves Ana"),
    ("The dog chases the cat", "The cat chases the dog"),
    ("I live in Porto", "I lived in Porto"),
    ("I live in Porto", "You live in Porto"),
    ("I live in Porto", "Do I live in Porto?"),
    ("I will move to Porto", "I moved to Porto"),
    ("I like all films", "I like some films"),
    ("I bought a horse", "I bought a house"),
    ("I crossed the desert", "I crossed the dessert"),
    ("My sister Maria sings", "My sister Marla sings"),
    ("", "I"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_in_other_clothes(a: str, b: str) -> None:
    assert near_identical(a, b)
    assert near_identical(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_what_only_looks_alike(a: str, b: str) -> None:
    assert not near_identical(a, b)
    assert not near_identical(b, a)


def test_a_low_cosine_forbids() -> None:
    assert near_identical("I like tea", "I like tea!", cosine=0.98)
    assert not near_identical("I like tea", "I like tea!", cosine=0.1)
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert groups(["I like tea", "I like tea!"], vectors) == [[0], [1]]


FACTS = [
    ["I'm allergic to peanuts.", "by the way, I am allergic to peanuts", "As I said, I'm allergic to PEANUTS!"],
    ["My sister lives in Rome", "In Rome, my sister lives.", "my sister lives in rome, you know"],
    ["I have two cats.", "I have 2 cats", "So, I've got 2 cats!"],
    ["My favourite colour is blue", "Blue is my favorite color.", "my favourite colour is, of course, blue"],
    ["I don't work at Acme.", "I do not work at Acme", "Actually, I don't work at Acme!"],
]


def test_fifteen_additions_of_five_facts_are_five() -> None:
    texts = [wordings[number] for number in range(3) for wordings in FACTS]
    assert groups(texts) == [[number, number + 5, number + 10] for number in range(5)]


def test_many_texts() -> None:
    random_ = random.Random(1)
    words = [f"{first}{second}" for first in ("ba", "ko", "ti", "lu", "se") for second in ("mor", "dal", "pin", "ges")]
    texts = [f"I saw {' '.join(random_.sample(words, 4))}" for _ in range(3_000)]
    found = groups(texts * 2)
    assert sorted(index for group in found for index in group) == list(range(6_000))
    assert all({index + 3_000 for index in group if index < 3_000} <= set(group) for group in found)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_texts_are_grouped(texts: list[str]) -> None:
    found = groups(texts)
    assert sorted(index for group in found for index in group) == list(range(len(texts)))
    assert [group[0] for group in found] == sorted(group[0] for group in found)
    for text in texts:
        assert near_identical(text, text)
