"""Named things, and open information extraction by rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.store.names import entities, mentions
from recollect.store.triples import MAX_TRIPLES, triples


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Dr. Maria Silva teaches at the University of Porto.", ["Maria Silva", "University of Porto"]),
        ('We saw "The Lion King" with Tom\'s sister on 5 May 2024.', ["The Lion King", "Tom", "5 May 2024"]),
        ("The editor is George T. Solomon.", ["George T. Solomon"]),
        ("Wow, that's great! However, Thanks.", []),
        ("Tom and Ana visited Rome and Tom left.", ["Tom", "Ana", "Rome"]),
        ("", []),
    ],
)
def test_named_things_in_order(text: str, named: list[str]) -> None:
    assert entities(text) == named


def test_the_speaker_is_named_where_they_speak_of_themself() -> None:
    assert entities("I met Tom", speaker="Ana") == ["Ana", "Tom"]
    assert entities("Tom sings", speaker="Ana") == ["Tom"]


@pytest.mark.parametrize(
    ("text", "title", "triple"),
    [
        ("Porto is a city in Portugal.", None, ("Porto", "is", "city in Portugal")),
        ("Porto is a city in Portugal.", None, ("Porto", "is a city in", "Portugal")),
        ("It was founded by Anna Berg in 1901.", "Acme Corp", ("Acme Corp", "was founded by", "Anna Berg")),
        ("The film was directed by Jo Lee.", "Night Bus", ("Night Bus", "was directed by", "Jo Lee")),
        ("Jo Lee was born in Leeds.", None, ("Jo Lee", "was born in", "Leeds")),
        ("Jo Lee's wife Anna Berg sings.", None, ("Jo Lee", "wife", "Anna Berg")),
        ("She wrote for Adweek, Billboard and Variety.", "Jo Lee", ("Jo Lee", "wrote for", "Variety")),
        ("Jo Lee met Anna Berg from Acme Corp.", None, ("Anna Berg", "from", "Acme Corp")),
        ("Jo Lee, a singer from Leeds, met Anna Berg.", None, ("Jo Lee", "is", "singer from Leeds")),
    ],
)
def test_triples(text: str, title: str | None, triple: tuple[str, str, str]) -> None:
    assert triple in triples(text, title=title)


def test_the_speaker_is_the_subject_of_i() -> None:
    assert ("Ana", "moved to", "Porto") in triples("I moved to Porto.", speaker="Ana")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.one_of(st.none(), st.text(max_size=20)))
def test_any_text_is_read(text: str, title: str | None) -> None:
    found = triples(text, title=title)
    assert all(all(part and "\0" not in part for part in triple) for triple in found)
    for mention in mentions(text):
        assert text[mention.first : mention.last] == mention.text


def test_no_text_gives_too_many() -> None:
    assert len(triples("Ana met Ben. " * 10 + " ".join(f"Ana met B{number}." for number in range(1000)))) <= MAX_TRIPLES
