"""What makes a sentence good evidence, who is meant, and how well answering and abstaining work on real questions."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest

from recollect.store.evidence import (
    MAX_CHARS,
    THRESHOLD,
    confidence_of,
    question_kind,
    read_question,
    sentences_of,
    signals,
    stems,
    text_read,
    weigh,
)
from recollect.store.lexical import BM25
from recollect.store.records import Hit

NOW = datetime(2024, 5, 8, tzinfo=UTC)


def hit(speaker, text, id_="1", **more):
    return Hit(id_, "episode", text, NOW, 0.0, (), (id_,), speaker=speaker, **more)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("When did Ana move?", "when"),
        ("What year did Ana move?", "when"),
        ("In which month was that?", "when"),
        ("How long has Ana lived there?", "how_long"),
        ("How many weeks did it take?", "how_long"),
        ("How many dogs has Ana?", "how_many"),
        ("How old is Ana?", "how_many"),
        ("Where is Ana?", "where"),
        ("Which city did Ana visit?", "where"),
        ("Who is Ana?", "who"),
        ("Is Ana tall?", "yes_no"),
        ("What did Ana say?", "what"),
        ("Why?", "how"),
        ("", "what"),
    ],
)
def test_the_kind_of_answer(question, kind):
    assert question_kind(question) == kind


@pytest.mark.parametrize(
    ("question", "speakers", "people"),
    [
        ("Where does Ana live?", ["Ana", "Ben"], {"Ana"}),
        ("where does ana live?", ["Ana", "Ben"], {"Ana"}),
        ("What does Ben give Ana?", ["Ana", "Ben"], {"Ana", "Ben"}),
        ("What's Mel's job?", ["Melanie Jones", "Ben"], {"Melanie Jones"}),
        ("Can he swim? The theory says so.", ["Candice", "Theo"], set()),
        ("Will it rain, and where will it?", ["Will"], set()),
        ("Where will Will go?", ["Will"], {"Will"}),
        ("Where do I live?", ["user", "assistant"], {"user"}),
        ("What did you tell me?", ["user", "assistant"], {"user", "assistant"}),
        ("Where do I live?", ["Ana", None], set()),
        ("Where?", ["", "..."], set()),
    ],
)
def test_who_is_asked_for(question, speakers, people):
    hits = [hit(speaker, "text") for speaker in speakers]
    assert read_question(question, hits).people == people


def test_names_and_question_words_are_no_evidence():
    asked = read_question("What kind of dog did Ana buy?", [hit("Ana", "x")])
    assert asked.words == {"dog", "buy"}
    assert not asked.present
    assert read_question("What kind of dog does Ana have?", []).present


def test_stems_bring_pasts_to_their_base():
    assert stems("She bought and sold two houses") == stems("buy sell two house")


def test_sentences_are_parts_of_the_text():
    text = 'Hi! I paid 3.50 for "this." Did you?\nNo... v1.2 is out (really).'
    assert sentences_of(text) == ["Hi!", 'I paid 3.50 for "this."', "Did you?", "No...", "v1.2 is out (really)."]


def test_a_long_text_is_cut_around_its_excerpt():
    text = "x" * 10_000 + "HERE" + "y" * 10_000
    assert "HERE" in text_read(hit("Ana", text, excerpt=(10_000, 10_004)))
    assert len(text_read(hit("Ana", text))) == MAX_CHARS


def test_evidence_is_about_the_person_asked_for():
    hits = [
        hit("Ben", "I adopted a dog in May.", "1"),
        hit("Ben", "You adopted a dog, how nice of you!", "2"),
        hit("Ana", "That's awesome news about the dog you adopted!", "3"),
        hit("Ana", "I adopted a dog in June, a small one.", "4"),
    ]
    person = {item.hit.id: item.person for item in weigh("When did Ana adopt a dog?", hits)}
    assert person == {"1": 0.1, "2": 0.5, "3": 0.4, "4": 1.0}
    assert weigh("When did Ana adopt a dog?", hits)[0].hit.id == "4"


def test_questions_are_no_evidence():
    assert weigh("Where does Ana live?", [hit("Ben", "Where do you live, Ana?")]) == []


def test_confidence_falls_with_each_sign_of_weakness():
    strong = {"support": 0.9, "person": 1.0, "others_lead": 0.0, "missing": 0.0}
    assert confidence_of(strong) > 0.9
    for name, weak in (("support", 0.1), ("person", 0.1), ("others_lead", 0.5), ("missing", 0.8)):
        assert confidence_of(strong | {name: weak}) < confidence_of(strong)


@pytest.mark.timeout(60)
def test_answering_and_abstaining_on_real_questions(data):
    """Of one conversation with the ten best turns of BM25: chance is 1 - what is answered."""
    sample = json.loads((data / "locomo" / "locomo5.json").read_text("utf-8"))[0]
    talk = sample["conversation"]
    turns = [turn for key in talk if re.fullmatch(r"session_\d+", key) for turn in talk[key]]
    hits = [hit(turn["speaker"], turn["text"], turn["dia_id"]) for turn in turns]
    search = BM25([f"{turn['speaker']}: {turn['text']}" for turn in turns])
    answered: dict[bool, list[bool]] = {True: [], False: []}
    for qa in sample["qa"]:
        found = [hits[i] for i in np.argsort(-search.scores(qa["question"]), kind="stable")[:10]]
        evidence = weigh(qa["question"], found)
        confidence = confidence_of(signals(qa["question"], found, evidence))
        answered[qa["category"] != 5].append(confidence >= THRESHOLD)
    assert np.mean(answered[True]) > 0.7
    assert np.mean(answered[False]) < 0.45
