"""The LoCoMo bench on a small conversation with known ranks, then on a real memory."""

from __future__ import annotations

import io
import json
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from rich.console import Console

from recollect.benchmarks import locomo, report
from recollect.benchmarks.provenance import sha256
from recollect.errors import InvalidInput, NotFound
from recollect.lm import Scripted
from recollect.store.records import Answer, Hit

SESSIONS = {
    1: ("10:00 am on 1 May, 2023", ["I moved to Porto in spring", "What a lovely place", "My dog Rex likes the river"]),
    2: (
        "9:30 pm on 20 May, 2023",
        ["I started to paint the harbour", "Rex barked at the ferry", "Shall we paint together"],
    ),
    3: ("8:00 am on 2 June, 2023", ["The bakery hired me", "Congratulations on the bakery job", "Rex ate the cake"]),
}
QUESTIONS = [
    {"question": "Which city did Ana move to?", "answer": "Porto", "evidence": ["D1:1"], "category": 4},
    {"question": "What did Rex do?", "answer": "barked, ate the cake", "evidence": ["D2:2; D3:3"], "category": 1},
    {"question": "When was Ana hired?", "answer": 2023, "evidence": ["D:3:01", "D9:9"], "category": 2},
    {"question": "Is Ana brave?", "answer": "Likely yes; she moved", "evidence": [], "category": 3},
    {"question": "Where did Bob move to?", "adversarial_answer": "Porto", "evidence": ["D1:1"], "category": 5},
    {"question": "Who likes water?", "answer": "Rex", "evidence": ["D"], "category": 4},
]


def sample(name="conv-1"):
    conversation = {"speaker_a": "Ana", "speaker_b": "Bob"}
    for number, (when, texts) in SESSIONS.items():
        conversation[f"session_{number}_date_time"] = when
        conversation[f"session_{number}"] = [
            {"speaker": "Bob" if index == 1 else "Ana", "dia_id": f"D{number}:{index + 1}", "text": text}
            for index, text in enumerate(texts)
        ]
    return {"sample_id": name, "conversation": conversation, "qa": QUESTIONS}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "locomo.json"
    file.write_text(json.dumps([sample()]), encoding="utf-8")
    return file


class Parrot:
    """A memory that gives back its turns in a fixed order, whatever is asked."""

    engine = SimpleNamespace(embedder=SimpleNamespace(name="none"))
    method = SimpleNamespace(name="parrot", lm=None)

    def __init__(self, order):
        self.order = order
        self.items = {}
        self.asked = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add_many(self, items):
        self.items = {item["source_id"].split("/")[1]: item for item in items}
        return SimpleNamespace(added=len(self.items), existing=0)

    def sync(self):
        pass

    def stats(self):
        return SimpleNamespace(num_episodes=len(self.items), num_notes=0, database_bytes=0, index_bytes=0)

    def recall(self, query, k, at):
        self.asked.append((query, at))
        return [
            Hit(
                turn,
                "episode",
                item["text"],
                item["at"],
                1.0,
                (),
                (turn,),
                item["speaker"],
                source_id=item["source_id"],
            )
            for turn in self.order[:k]
            for item in [self.items[turn]]
        ]

    def answer(self, question, k, at):
        return Answer("ate the cake", (), question.startswith("Where"), 0.5, "extractive")


ORDER = ["D3:3", "D1:1", "D2:1", "D2:2"]


def ask(path, **options):
    memory = Parrot(ORDER)
    return locomo.LoCoMo(path).run(open_memory=lambda file, name: memory, **options), memory


def test_evidence_is_cleaned():
    assert locomo.clean_evidence(["D8:6; D9:17", "D:11:26", "D1:1 D2:2", "D30:05", "D1:1", "D", ""]) == (
        ["D8:6", "D9:17", "D11:26", "D1:1", "D2:2", "D30:5"],
        ["D", ""],
    )


def test_questions_are_loaded_with_what_is_odd_about_them(path):
    (loaded,) = locomo.load(path)
    assert loaded.asked_at == datetime(2023, 6, 2, 23, 59, 59, tzinfo=UTC)
    questions = {question.id: question for question in loaded.questions}
    assert questions["conv-1/q2"].evidence == ("D2:2", "D3:3")
    assert questions["conv-1/q3"].answer == "2023"
    assert (questions["conv-1/q3"].evidence, questions["conv-1/q3"].unmatched) == (("D3:1",), ("D9:9",))
    assert (questions["conv-1/q5"].answer, questions["conv-1/q5"].adversarial_answer) == ("", "Porto")
    assert (questions["conv-1/q6"].evidence, questions["conv-1/q6"].unmatched) == ((), ("D",))


def test_scores_by_turn_and_session_are_those_worked_out_by_hand(path):
    result, memory = ask(path)
    assert result["num_questions"] == 3
    assert result["left_out"] == {"adversarial": 1, "no_evidence": 2}
    assert result["unmatched_references"] == 2
    assert {at for _, at in memory.asked} == {datetime(2023, 6, 2, 23, 59, 59, tzinfo=UTC)}
    turn, session = result["turn"], result["session"]
    # Ranks of the evidence: q1 at 2; q2 at 1 and 4; q3 nowhere. By session (3, 1, 2): q1 at 2; q2 at 1 and 3; q3 at 1.
    assert turn["recall"] == {
        "1": pytest.approx((0 + 0.5 + 0) / 3),
        **{k: pytest.approx(2 / 3) for k in ("5", "10", "25", "50")},
    }
    assert turn["recall_all"]["5"] == pytest.approx(2 / 3)
    assert turn["recall_any"]["1"] == pytest.approx(1 / 3)
    assert turn["hit_at_1"] == pytest.approx(1 / 3)
    assert turn["mrr"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert session["recall"]["1"] == pytest.approx((0 + 0.5 + 1) / 3)
    assert session["recall"]["5"] == 1
    assert session["mrr"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert list(turn["by_category"]) == ["single-hop", "multi-hop", "temporal"]
    assert turn["by_category"]["multi-hop"]["num_questions"] == 1
    assert turn["by_category"]["multi-hop"]["recall"]["1"] == 0.5
    assert turn["by_category"]["temporal"]["recall"]["50"] == 0
    assert result["chance"]["turn"]["recall"]["5"] == pytest.approx(5 / 9)
    assert result["chance"]["session"]["recall"]["5"] == 1
    assert result["bm25"]["turn"]["recall"]["5"] > result["chance"]["turn"]["recall"]["1"]
    low, high = result["intervals"]["turn"]["recall"]["5"]
    assert low <= turn["recall"]["5"] <= high


def test_adversarial_questions_can_be_added(path):
    result, _ = ask(path, include_adversarial=True)
    assert result["num_questions"] == 4
    assert result["left_out"] == {"adversarial": 0, "no_evidence": 2}
    assert result["turn"]["by_category"]["adversarial"]["recall"]["5"] == 1


def test_the_result_says_where_it_came_from_and_is_json(path):
    result, _ = ask(path)
    assert result["data_sha256"] == sha256(path)
    assert {"commit", "machine", "versions", "seconds", "embedder", "depth"} <= set(result)
    again = json.loads(json.dumps(result))
    assert again["turn"]["ndcg"]["10"] == result["turn"]["ndcg"]["10"]
    assert str(path.parent) not in json.dumps(result)


def test_each_question_is_written_with_ids_and_measures(path, tmp_path):
    ask(path, output=tmp_path / "lines.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["question_id"] for line in lines] == ["conv-1/q1", "conv-1/q2", "conv-1/q3"]
    assert lines[1]["turn"]["gold"] == ["D2:2", "D3:3"]
    assert lines[1]["turn"]["ranked"] == ORDER
    assert lines[1]["session"]["ranked"] == ["session_3", "session_1", "session_2"]
    assert lines[1]["turn"]["scores"]["recall"]["1"] == 0.5
    assert lines[2]["category"] == "temporal"


def test_a_language_model_is_asked_as_the_category_demands(path, tmp_path):
    lm = Scripted(["porto", "the cake, barking", "in 2023", "likely yes", "(a)", "Rex"])
    result, _ = ask(path, lm=lm, include_adversarial=True, output=tmp_path / "lines.jsonl")
    reader = result["reader"]
    assert reader["by_category"]["single-hop"] == {"num_questions": 2, "f1": 1.0, "exact_match": 1.0}
    assert reader["by_category"]["multi-hop"]["f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert reader["by_category"]["open-domain"]["f1"] == 1
    assert reader["by_category"]["temporal"]["f1"] == pytest.approx(2 / 3)
    prompts = [messages[-1]["content"] for messages in lm.calls]
    first = prompts[0].index("DATE: 01 May 2023"), prompts[0].index("DATE: 02 June 2023")
    assert first[0] < first[1]
    assert 'Ana said, "I moved to Porto in spring"' in prompts[0]
    assert "date of the conversation" in prompts[2]
    assert "date of the conversation" not in prompts[0]
    assert "(a)" in prompts[4]
    assert locomo.REFUSAL in prompts[4]
    refused = prompts[4].index(locomo.REFUSAL) < prompts[4].index("(b)")
    assert reader["by_category"]["adversarial"]["f1"] == float(refused)
    assert json.loads((tmp_path / "lines.jsonl").read_text().splitlines()[0])["reader"] == {"text": "porto", "f1": 1.0}


@pytest.mark.parametrize(("reply", "meant"), [("(a)", "x"), ("B", "y"), ("Option b.", "y"), ("a dog", "a dog")])
def test_a_bare_letter_stands_for_its_option(reply, meant):
    assert locomo._option(reply, ["x", "y"]) == meant


def test_the_built_in_reader_is_scored_and_refusals_count(path):
    result, _ = ask(path, read_answers=True, include_adversarial=True)
    assert result["reader"]["name"] == "extractive"
    assert result["reader"]["num_questions"] == 6
    assert result["reader"]["by_category"]["adversarial"]["f1"] == 1
    assert result["reader"]["by_category"]["multi-hop"]["f1"] == pytest.approx(0.5)


def test_tables_are_shown(path):
    result, _ = ask(path, read_answers=True)
    text = io.StringIO()
    report.show(result, Console(file=text, width=160))
    shown = text.getvalue()
    for expected in (
        "By turn, 3 questions",
        "By session and category",
        "multi-hop",
        "BM25",
        "chance",
        "extractive",
        "no evidence",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qa": None}, "record 1: qa should be a list"),
        (
            {"qa": [{"question": "?", "evidence": [], "category": 9}]},
            r"qa\[0\]: category should be a number from 1 to 5",
        ),
        ({"qa": [{"question": "?", "evidence": [3], "category": 1}]}, r"qa\[0\]: evidence should be a text"),
        ({"qa": [{"evidence": [], "category": 1}]}, r"qa\[0\]: question should be a text"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    file = tmp_path / "locomo.json"
    file.write_text(json.dumps([sample() | change]), encoding="utf-8")
    with pytest.raises(InvalidInput, match=message):
        locomo.LoCoMo(file).samples()
    with pytest.raises(NotFound):
        locomo.load(tmp_path / "nothing.json")


def test_a_folder_of_conversations_is_loaded_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(sample(name)), encoding="utf-8")
    assert [loaded.conversation.id for loaded in locomo.load(tmp_path)] == ["a", "b"]


def test_a_real_memory_beats_chance(path):
    result = locomo.LoCoMo(path).run(embedder="hashing")
    assert result["turn"]["recall"]["1"] > result["chance"]["turn"]["recall"]["1"]
    assert result["embedder"].startswith("hashing")
    assert result["conversations"][0]["num_turns"] == 9


def test_the_real_file_has_the_counts_of_the_paper(data):
    file = data / "locomo" / "locomo5.json"
    loaded = locomo.load(file)
    assert [one.conversation.id for one in loaded] == ["conv-26", "conv-30", "conv-42", "conv-43", "conv-49"]
    questions = [question for one in loaded for question in one.questions]
    counts = Counter(locomo.CATEGORIES[question.category] for question in questions)
    assert counts == {"single-hop": 405, "multi-hop": 148, "temporal": 162, "open-domain": 50, "adversarial": 236}
    assert [question.category for question in questions if not question.evidence] == [3, 3]
    assert [reference for question in questions for reference in question.unmatched] == ["D10:19", "D"]
