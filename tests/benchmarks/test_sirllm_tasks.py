"""SirLLM's tasks: rounds from the published form, the rules of the match, and streams played on a model that is tiny."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from recollect.benchmarks import sirllm_tasks as tasks
from recollect.cli.main import app
from recollect.errors import InvalidInput


class Characters:
    """A token for each character."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(each) % 128 for each in text]

    def decode(self, token_ids) -> str:
        return "".join(map(chr, token_ids))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"vocab_size": 128, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, max_position_embeddings=64)).eval()


def record(id_: str, stem: str, texts: list[str], key: str) -> dict:
    choices = [{"text": text, "label": label} for text, label in zip(texts, "ABCD", strict=False)]
    return {"id": id_, "question": {"stem": stem, "choices": choices}, "answerKey": key}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    talk = [record(id_, "Hi. ", ["no", " Hello . ", "x", "y"], "B") for id_ in ("0_1", "0_3", "7_1")]
    group = [record("key_0", "Buy [tea].", ["OK"], "A"), record("0", "What?", ["a", "b"], "A")]
    keys = [*group, record("answer_0", "Which?", ["tea", "eggs"], "A"), *group]
    match = [{"user_choice": move} for move in "ABC"]
    for name, rows in (("dailydialog", talk), ("keys", keys)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    for move in tasks.MOVES:
        with lzma.open(tmp_path / f"rock_paper_scissors_dominant_{move}.jsonl.xz", "wt") as file:
            file.write("\n".join(map(json.dumps, match)))
    return tmp_path


def test_the_published_form_is_read(data):
    talk = tasks.conversations("dailydialog", data, 10)
    assert [len(rounds) for rounds in talk] == [2, 1]
    assert talk[0][0].outcomes == ("wrong", "right", "wrong", "wrong")
    assert talk[0][0].text == (
        "\nChoose the best response for the input: Hi. Choices: (A) no (B) Hello . (C) x (D) y. The answer is"
    )
    assert [len(rounds) for rounds in tasks.conversations("dailydialog", data, 1)] == [2]
    groups = tasks.conversations("grocery", data, 1)
    assert [[each.part for each in rounds] for rounds in groups] == [["told", "filler", "key"]]
    matches = tasks.conversations("rock-paper-scissors", data, 2)
    assert [len(rounds) for rounds in matches] == [2, 2, 2]
    with pytest.raises(InvalidInput, match=r"data: keys\.jsonl cannot be read"):
        tasks.conversations("grocery", data / "nowhere", 1)
    with pytest.raises(InvalidInput, match="data: dailydialog needs the published file"):
        tasks.conversations("dailydialog", None, 1)
    with pytest.raises(InvalidInput, match="task: 'chess' is not known"):
        tasks.conversations("chess", None, 1)


def test_paper_beats_rock_and_a_round_tells_the_last_move_only():
    first, second, third = tasks._match(["rock", "scissors", "paper"])
    assert first.outcomes == ("tie", "win", "lose")
    assert second.outcomes == ("win", "lose", "tie")
    assert third.outcomes == ("lose", "tie", "win")
    assert "I played" not in first.text
    assert "I played rock." in second.text
    assert "scissors." not in second.text.split("Choices")[0]


def test_a_made_player_has_its_habit_and_its_seed():
    moves = tasks.made_match("paper", 4000)
    for move, share in (("paper", 0.5), ("scissors", 0.3), ("rock", 0.2)):
        assert moves.count(move) / 4000 == pytest.approx(share, abs=0.03)
    assert moves == tasks.made_match("paper", 4000)
    assert moves != tasks.made_match("paper", 4000, seed=1)
    outcomes = [each.outcomes[choice] for each, choice in tasks._countered(tasks._match(moves))]
    assert outcomes.count("win") / 4000 == pytest.approx(0.5, abs=0.03)  # of always countering the favourite


@pytest.mark.parametrize("by", ["letter", "text"])
def test_the_likeliest_answer_is_chosen_and_goes_on_in_the_stream(model, by):
    rounds = tasks._match(["rock", "paper", "rock", "scissors"])
    text, encode, expected = [1], Characters().encode, []
    answers = ["A", "B", "C"] if by == "letter" else [" rock", " paper", " scissors"]
    for each in rounds:
        text += encode(each.text + (" (" if by == "letter" else ""))
        with torch.no_grad():
            logits = model(torch.tensor([text])).logits[0, -1]
        choice = int(logits[[ord(answer[0]) for answer in answers]].argmax())
        expected.append(choice)
        text += encode(answers[choice] + (")." if by == "letter" else "."))
    assert list(tasks.play(model, Characters(), None, rounds, [1], by)) == expected
    ample = tasks.make_policy("sirllm", 4096)
    assert list(tasks.play(model, Characters(), ample, rounds, [1], by)) == expected


def test_a_run_reports_each_part_beside_chance(model, data):
    result = tasks.run(model, Characters(), ["sirllm", "streaming-llm"], tasks.TASKS, data, 2, 32)
    found = {(row["task"], row["part"], row["policy"]): row for row in result["rows"]}
    assert {part for task, part, _ in found if task == "grocery"} == {"filler", "key"}  # being told cannot go wrong
    assert found["dailydialog", "rounds", "chance"]["shares"] == {"right": 0.25, "wrong": 0.75}
    assert found["rock-paper-scissors", "rounds", "most frequent"]["num_rounds"] == 6
    for row in result["rows"]:
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert 0.25 <= row["commonest_choice"] <= 1
    assert json.loads(json.dumps(result)) == result
    with pytest.raises(InvalidInput, match="by: 'heart' is not known; use letter or text"):
        tasks.run(model, Characters(), [], by="heart")


def test_the_command_plays_prints_and_writes(model, tmp_path, monkeypatch):
    monkeypatch.setattr("recollect.benchmarks.testbed.load", lambda path, device: (model, Characters()))
    words = ["bench", "sirllm", "--model", str(tmp_path), "--limit", "3", "--budget", "32", "--results", str(tmp_path)]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    for text in ("rock-paper-scissors", "streaming-llm", "most frequent", "chance"):
        assert text in run.output
    saved = json.loads((tmp_path / "sirllm-tasks.json").read_text("utf-8"))
    assert saved["data"] == "made"
    assert {row["num_rounds"] for row in saved["rows"]} == {9, 27}
