"""Facts read off sentences: hand-written cases, each as said by Ana on Thursday 1 August 2024."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect.store.facts import Fact, contradicts, facts, same_fact

NOW = datetime(2024, 8, 1, 10, tzinfo=UTC)


def said(text: str, speaker: str | None = "Ana") -> list[Fact]:
    return facts(text, speaker=speaker, at=NOW)


def only(text: str) -> Fact:
    found = said(text)
    assert len(found) == 1, found
    return found[0]


PLAIN = [
    ("I live in Lisbon.", "Ana", "lives in", "Lisbon", True),
    ("We just moved from Lisbon to Porto!", "Ana", "lives in", "Porto", True),
    ("I work at Acme.", "Ana", "works at", "Acme", True),
    ("I started a new job at Initech", "Ana", "works at", "Initech", True),
    ("I've been working as a nurse since 2019", "Ana", "works as", "nurse", True),
    ("my favorite color is green now", "Ana", "favourite colour", "green", True),
    ("My phone number is 555-1234.", "Ana", "phone number", "555-1234", True),
    ("My name is Ana Silva.", "Ana", "is named", "Ana Silva", True),
    ("I'm 34", "Ana", "is aged", "34", True),
    ("I turned 35 yesterday.", "Ana", "is aged", "35", True),
    ("I'm married to Tom.", "Ana", "is married to", "Tom", True),
    ("By the way, I'm allergic to peanuts.", "Ana", "is allergic to", "peanuts", False),
    ("I like tea", "Ana", "likes", "tea", False),
    ("I don't like tea", "Ana", "dislikes", "tea", False),
    ("I've got 2 cats.", "Ana", "has", "2 cats", False),
    ("I don't live in Porto.", "Ana", "does not live in", "Porto", False),
    ("My sister lives in Rome.", "Ana's sister", "lives in", "Rome", True),
    ("my mom is a teacher", "Ana's mother", "works as", "teacher", True),
    ("Ben lives in Porto.", "Ben", "lives in", "Porto", True),
    ("I went to a support group yesterday.", "Ana", "went to", "a support group", False),
    ("Went to the beach with Tom!", "Ana", "went to", "the beach with Tom", False),
    ("Hey Tom! I'm going to move to Berlin next month.", "Ana", "is going to", "move to Berlin", False),
]


@pytest.mark.parametrize(("text", "subject", "relation", "value", "single"), PLAIN)
def test_plain_statements(text: str, subject: str, relation: str, value: str, single: bool) -> None:
    fact = only(text)
    assert (fact.subject, fact.relation, fact.value, fact.single) == (subject, relation, value, single)
    assert not fact.ends


@pytest.mark.parametrize(
    "text",
    [
        "Do you live in Lisbon?",
        "do you live in Lisbon",
        "I might move to Rome.",
        "I wish I lived in Rome.",
        "If I lived in Rome, that would be great.",
        "If I get the job, I will move to Rome.",
        "I hope to live in Rome one day.",
        "You live in Rome.",
        "Wow, that's great!",
        "Thanks, Tom!",
        "Ich wohne in Berlin.",
        "\u6211\u4f4f\u5728\u5317\u4eac\u3002",
        "",
    ],
)
def test_what_states_nothing(text: str) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "relation", "value"),
    [
        ("I no longer work at Acme.", "works at", "Acme"),
        ("I don't work at Acme anymore.", "works at", "Acme"),
        ("I quit my job at Acme", "works at", "Acme"),
        ("I left Acme.", "left", "Acme"),
        ("I used to live in Paris.", "lives in", "Paris"),
        ("I lived in Paris.", "lives in", "Paris"),
        ("I quit smoking.", "smokes", ""),
        ("We broke up.", "is together with", ""),
    ],
)
def test_what_ceased_to_hold(text: str, relation: str, value: str) -> None:
    fact = only(text)
    assert (fact.relation, fact.value, fact.ends) == (relation, value, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("I moved from Lisbon to Porto last May.", "Ana moved from Lisbon to Porto in May 2024."),
        ("I moved last May", "Ana moved in May 2024."),
        ("Yesterday I bought a red bike.", "On 31 July 2024 Ana bought a red bike."),
        ("I have a cat", "Ana has a cat."),
        ("Been rehearsing hard for the show.", "Ana has been rehearsing hard for the show."),
        ("Last May, I moved to Porto.", "In May 2024, Ana moved to Porto."),
        ("I moved to Porto - do you like it?", "Ana moved to Porto."),
        ("We were in Rome on Monday", "Ana was in Rome on 29 July 2024."),
        ("I'm not married to Tom", "Ana is not married to Tom."),
        ("I don't like my job.", "Ana does not like Ana's job."),
        ("My favourite book is Dune.", "Ana's favourite book is Dune."),
        ("I always try new food.", "Ana always tries new food."),
    ],
)
def test_a_fact_stands_alone(text: str, told: str) -> None:
    assert said(text)[0].text == told


def test_relative_dates_give_the_time() -> None:
    at = only("I moved last May").at
    assert at is not None
    assert (at.year, at.month) == (2024, 5)
    assert only("I have a cat").at is None


def test_without_a_speaker_the_subject_is_i() -> None:
    fact = said("I moved to Porto last May.", speaker=None)[0]
    assert (fact.subject, fact.value, fact.text) == ("I", "Porto", "I moved to Porto in May 2024.")


def test_she_is_the_one_spoken_of_before() -> None:
    assert [(fact.subject, fact.relation) for fact in said("My sister lives in Rome. She is a nurse.")] == [
        ("Ana's sister", "lives in"),
        ("Ana's sister", "works as"),
    ]


def test_one_sentence_may_state_several() -> None:
    found = said("I quit my job at Acme and started a new job at Initech.")
    assert [(fact.value, fact.ends) for fact in found] == [("Acme", True), ("Initech", False)]
    both = {fact.relation: fact.value for fact in said("I'm a software engineer at Google.")}
    assert both == {"works as": "software engineer", "works at": "Google"}


CONTRADICTIONS = [
    ("I moved from Lisbon to Porto", "I live in Lisbon."),
    ("I started a new job at Initech", "I work at Acme"),
    ("I quit my job at Acme", "I work at Acme"),
    ("I left Acme", "I work at Acme"),
    ("my favourite color is green now", "My favourite colour is blue"),
    ("I turned 35 yesterday", "I'm 34"),
    ("I don't live in Porto", "I live in Porto"),
    ("I don't like tea", "I like tea"),
    ("I no longer like tea", "I like tea"),
    ("I have 3 cats", "I have 2 cats"),
]
AGREEMENTS = [
    ("I like coffee", "I like tea"),
    ("I live in Porto, Portugal", "I live in Porto"),
    ("My sister lives in Rome", "I live in Lisbon"),
    ("Ben lives in Porto", "I live in Lisbon"),
    ("I have a dog", "I have 2 cats"),
    ("I don't live in Porto", "I live in Lisbon"),
    ("I quit my job at Acme", "I work at Initech"),
]


@pytest.mark.parametrize(("new", "old"), CONTRADICTIONS)
def test_contradictions(new: str, old: str) -> None:
    assert contradicts(only(new), only(old))


@pytest.mark.parametrize(("new", "old"), AGREEMENTS)
def test_what_does_not_contradict(new: str, old: str) -> None:
    assert not contradicts(only(new), only(old))


def test_same_fact_in_other_words() -> None:
    assert same_fact(only("I moved to Porto"), only("By the way, I live in porto."))
    assert same_fact(only("My mom is a teacher"), only("my mother is a Teacher!"))
    assert not same_fact(only("I like tea"), only("I like coffee"))
    assert not same_fact(only("I work at Acme"), only("I quit my job at Acme"))


WORDS = st.sampled_from(
    "I my we she Tom's sister Acme live lived in to and, but. not don't have got moved | last May yesterday 3 ? ! \n".split(
        " "
    )
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=30).map(" ".join)),
    st.one_of(st.none(), st.text(max_size=10)),
)
def test_any_text_is_read(text: str, speaker: str | None) -> None:
    found = facts(text, speaker=speaker, at=NOW)
    assert found == facts(text, speaker=speaker, at=NOW)
    for fact in found:
        assert 0 <= fact.first < fact.last <= len(text)
        assert "\0" not in fact.subject + fact.relation + fact.value + fact.text
        assert fact.subject
        assert fact.relation
        assert not contradicts(fact, fact)


def test_long_text_is_read_up_to_a_limit() -> None:
    assert only("I moved to Porto. " + "so " * 3_000_000).value == "Porto"
    assert said("so " * 3_000_000 + "I moved to Porto.") == []
