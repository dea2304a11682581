"""Made-up histories: the official schema, hard questions, no contradiction, everything from the seed."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from recollect.benchmarks import synthetic
from recollect.benchmarks.longmemeval import parse_instance
from recollect.store.lexical import terms


@pytest.fixture(scope="module")
def records():
    return list(synthetic.generate(100, seed=3, num_filler_sessions=12))


def content_words(text):
    return set(terms(text.replace("{v}", " ").replace("{a}", " ")))


def test_questions_share_at_most_one_content_word_with_what_answers_them():
    for told in (*synthetic.FACTS, *synthetic.COUNTABLES, *synthetic.EVENTS):
        question = told.clause if isinstance(told, synthetic.Event) else told.question
        for statement in told.statements:
            assert len(content_words(question) & content_words(statement)) <= 1, (question, statement)


def test_the_same_seed_gives_the_same_histories_however_many():
    ten = list(synthetic.generate(10, seed=5, num_filler_sessions=6))
    assert json.dumps(ten[:4]) == json.dumps(list(synthetic.generate(4, seed=5, num_filler_sessions=6)))
    assert ten[0] != next(iter(synthetic.generate(1, seed=6, num_filler_sessions=6)))


def test_every_kind_in_turn_and_varied(records):
    types = Counter(record["question_type"] for record in records)
    assert types == {
        "single-session-user": 40,
        "multi-session": 20,
        "knowledge-update": 20,
        "temporal-reasoning": 20,
    }
    assert sum(record["question_id"].endswith("_abs") for record in records) == 20
    assert len({record["question"] for record in records}) > 30
    fillers = {turn["content"] for record in records for session in record["haystack_sessions"] for turn in session}
    assert len(fillers) > 3000


def test_the_schema_is_the_official_one_and_sorted(records):
    for record in records:
        instance = parse_instance(record)
        (question,) = instance.questions
        assert [session.id for session in instance.sessions] == record["haystack_session_ids"]
        assert question.asked_at > instance.sessions[-1].at
        assert question.answer_sessions == tuple(record["answer_session_ids"])
        for session in instance.sessions:
            assert [turn.role for turn in session.turns] == ["user", "assistant"] * (len(session.turns) // 2)


def told_in(record):
    return [
        [turn["content"] for turn in session if turn.get("has_answer")]
        for name, session in zip(record["haystack_session_ids"], record["haystack_sessions"], strict=True)
        if name.startswith("answer_")
    ]


def test_evidence_holds_the_answer_and_fillers_do_not_contradict_it(records):
    by_question = {fact.question: fact for fact in synthetic.FACTS}
    for record in records:
        evidence = told_in(record)
        if record["question_id"].endswith("_abs"):
            assert evidence == [[]]
        else:
            assert all(len(turns) == 1 for turns in evidence)
        if record["question_type"] == "multi-session":
            assert record["answer"] == str(len(evidence))
        fact = by_question.get(record["question"])
        if fact is None:
            continue
        if evidence[-1]:
            assert record["answer"].lower() in evidence[-1][0].lower()
        talk = " ".join(
            turn["content"]
            for name, session in zip(record["haystack_session_ids"], record["haystack_sessions"], strict=True)
            if not name.startswith("answer_")
            for turn in session
        ).lower()
        for statement in fact.statements:
            assert max(statement.split("{v}"), key=len).lower().strip() not in talk


def test_days_between_events(records):
    record = next(record for record in records if record["question_type"] == "temporal-reasoning")
    first, second = (
        session.at.date() for session in parse_instance(record).sessions if session.id in record["answer_session_ids"]
    )
    assert record["answer"].split()[0] == str((second - first).days)
