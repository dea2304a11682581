"""The LongMemEval bench on a small history with known ranks, in both forms of the data."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import log2
from types import SimpleNamespace

import pytest

from recollect.benchmarks import longmemeval, synthetic
from recollect.errors import InvalidInput
from recollect.lm import Scripted
from recollect.store.records import Answer, Hit


def history():
    def turn(role, content, evidence=False):
        return {"role": role, "content": content} | ({"has_answer": True} if evidence else {})

    return {
        "haystack_session_ids": ["talk_1", "answer_1", "answer_2"],
        "haystack_dates": ["2023/05/20 (Sat) 10:00", "2023/05/21 (Sun) 11:30", "2023/05/22 (Mon) 12:00"],
        "haystack_sessions": [
            [turn("user", "Hello there"), turn("assistant", "Hello")],
            [turn("user", "I adopted a cat", True), turn("assistant", "Nice"), turn("user", "Her fur is grey")],
            [turn("user", "Suggest a name"), turn("assistant", "Call her Ash", True)],
        ],
    }


def official(name="q1", **changes):
    base = {
        "question_id": name,
        "question_type": "single-session-user",
        "question": "What pet do I have?",
        "answer": "a cat",
        "question_date": "2023/06/01 (Thu) 09:00",
        "answer_session_ids": ["answer_1"],
    }
    return base | history() | changes


RECORDS = [
    official(),
    official("q2", question_type="multi-session", answer=2, answer_session_ids=["answer_1", "answer_2"]),
    official("q3_abs", answer="Never said"),
    official("q4", answer_session_ids=["elsewhere"], haystack_session_ids=["x", "y", "z"]),
]
for session in (session for session in RECORDS[3]["haystack_sessions"]):
    for turn in session:
        turn.pop("has_answer", None)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "lme.json"
    file.write_text(json.dumps(RECORDS), encoding="utf-8")
    return file


class Parrot:
    """A memory that gives back its turns in a fixed order, whatever is asked."""

    engine = SimpleNamespace(embedder=SimpleNamespace(name="none"))
    order = ("talk_1_2", "answer_2_2", "answer_1_1", "answer_1_3")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add_many(self, items):
        self.items = {item["source_id"]: item for item in items}
        return SimpleNamespace(added=len(self.items), existing=0)

    def recall(self, query, k, at, speaker=None):
        assert at == datetime(2023, 6, 1, 9, tzinfo=UTC)
        found = [self.items[turn] for turn in self.order if turn in self.items]
        return [
            Hit(i["source_id"], "episode", i["text"], i["at"], 1.0, (), (), i["speaker"], source_id=i["source_id"])
            for i in found
            if speaker in (None, i["speaker"])
        ]

    def answer(self, question, k, at):
        return Answer("a cat", (), False, 0.5, "scripted")


def ask(path, **options):
    return longmemeval.LongMemEval(path).run(open_memory=lambda file: Parrot(), **options)


def test_all_roles_are_scored_as_worked_out_by_hand(path):
    result = ask(path)
    assert result["num_questions"] == 2
    assert result["left_out"] == {"unanswerable": 1, "no_location": 1}
    # Ranks of the evidence: q1 answer_1_1 at 3; q2 answer_2_2 at 2 and answer_1_1 at 3.
    assert result["turn"]["recall_all"]["1"] == 0
    assert result["turn"]["recall_all"]["3"] == 1
    assert result["turn"]["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert result["session"]["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    official_q2 = (1 + 1 / log2(3)) / 2
    assert result["turn"]["by_category"]["multi-session"]["ndcg_longmemeval"]["5"] == pytest.approx(official_q2)
    assert list(result["turn"]["by_category"]) == ["single-session-user", "multi-session"]
    assert result["num_histories"] == 4


def test_the_users_turns_only_as_the_authors_score(path):
    part = ask(path)["user_only"]
    # Ranked without the assistant: answer_1_1, answer_1_3. Evidence spoken by the assistant does not count.
    assert part["num_questions"] == 2
    assert part["turn"]["recall_all"]["1"] == 1
    assert part["session"]["recall_all"]["1"] == 1
    assert part["chance"]["turn"]["recall"]["1"] == pytest.approx(1 / 4)


def test_parallel_lists_over_one_history(tmp_path):
    record = history() | {
        "question_ids": ["a", "b"],
        "questions": ["What pet do I have?", "What is she called?"],
        "answers": ["a cat", "Ash"],
        "question_dates": ["2023/06/01 (Thu) 09:00"] * 2,
        "answer_session_ids": [["answer_1"], ["answer_2"]],
    }
    file = tmp_path / "several.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    (instance,) = longmemeval.load(file)
    assert [question.answer_sessions for question in instance.questions] == [("answer_1",), ("answer_2",)]
    result = ask(file)
    assert (result["num_questions"], result["num_histories"]) == (2, 1)
    assert result["turn"]["by_category"]["unknown"]["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_without_marks_on_turns_sessions_are_scored_still(tmp_path):
    record = official()
    for session in record["haystack_sessions"]:
        for turn in session:
            turn.pop("has_answer", None)
    file = tmp_path / "cleaned.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    result = ask(file)
    assert result["turn"]["num_questions"] == 0
    assert result["session"]["num_questions"] == 1
    assert result["session"]["recall_any"]["3"] == 1


def test_answers_are_judged_by_the_rubric_of_their_type(path, tmp_path):
    judge = Scripted(["Yes.", "no", "yes", "No"])
    result = ask(path, lm=Scripted([]), judge=judge, output=tmp_path / "lines.jsonl")
    judged = result["judged"]
    assert judged["accuracy"] == 0.5
    assert judged["unanswerable"] == {"num_questions": 1, "accuracy": 1.0}
    assert judged["by_category"]["multi-session"]["accuracy"] == 0
    assert judged["accuracy_mean_of_types"] == pytest.approx((0 + 2 / 3) / 2)
    prompts = [messages[0]["content"] for messages in judge.calls]
    assert "Correct answer: 2\n" in prompts[1]
    assert "cannot be answered" in prompts[2]
    assert "cannot be answered" not in prompts[0]
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["question_id"] for line in lines] == ["q1", "q2", "q3_abs", "q4"]
    assert lines[0]["judged"] == {"text": "a cat", "right": True}
    assert lines[1]["turn"]["gold"] == ["answer_1_1", "answer_2_2"]


def test_histories_can_be_limited_and_are_streamed(path):
    with path.open("r+", encoding="utf-8") as stream:
        text = stream.read()
        stream.seek(0)
        stream.write(text[:-1] + ', {"damaged": ')
    assert ask(path, max_histories=2)["num_questions"] == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (history() | {"questions": ["a", "b"], "answers": ["c"]}, "answers has 1 entries for 2 questions"),
        (official(question_date="soon"), "question_date: 'soon' is not a date"),
        (official(haystack_sessions=[], haystack_session_ids=[], haystack_dates=[]), "haystack_sessions is empty"),
        (history(), "questions should be a list"),
    ],
)
def test_what_does_not_fit_is_named(record, message):
    with pytest.raises(InvalidInput, match=message):
        longmemeval.parse_instance(record, "record 1")


def test_a_real_memory_beats_chance_on_made_up_histories(tmp_path):
    file = tmp_path / "made.json"
    file.write_text(json.dumps(list(synthetic.generate(5, seed=1, num_filler_sessions=8))), encoding="utf-8")
    result = longmemeval.LongMemEval(file).run(embedder="hashing")
    assert result["num_questions"] == 4
    assert result["left_out"]["unanswerable"] == 1
    assert result["turn"]["recall"]["10"] > result["chance"]["turn"]["recall"]["10"]
