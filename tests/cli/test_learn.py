"""`recollect learn` as a person types it: three tasks, resumed, compared; facts edited and taken out; what is retained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recollect.benchmarks.facts import tiny_decoder
from recollect.cli.main import main
from words import tokenizer as make_tokenizer


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """run("tune", ...) -> (exit code, standard output, standard error), in a folder with a tiny model in `small`."""
    monkeypatch.chdir(tmp_path)
    tokenizer = make_tokenizer()
    tiny_decoder(len(tokenizer), width=16, inner=16, heads=2).save_pretrained("small")
    tokenizer.backend_tokenizer.save("small/tokenizer.json")
    for name, prompt, answer in (("tastes", "ana likes", "tea"), ("homes", "bo lives in", "sea")):
        Path(f"{name}.jsonl").write_text(json.dumps({"prompt": prompt, "answer": answer}) + "\n", "utf-8")
    capsys.readouterr()

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["recollect", "learn", *words])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


TUNE = "tune tastes.jsonl homes.jsonl --model small --held-out 0 --epochs 40 --rate 0.01 --tokens 16".split()


def test_two_tasks_are_learned_kept_and_compared(run):
    code, out, err = run(*TUNE, "--out", "plain")
    assert code == 0, err
    assert "tastes" in out
    assert "forgetting" in out
    code, out, err = run(*TUNE, "--out", "kept", "--method", "replay:share=0.5", "--plot", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["scores"][0][0] == 1.0
    assert report["measures"]["ACC"] == 1.0
    assert Path(report["plot"]).is_file()
    assert Path("kept/model.safetensors").is_file()
    code, out, err = run("compare", "plain", "kept", "--out", "plots", "--json")
    assert code == 0, err
    assert set(json.loads(out)["measures"]) == {"plain", "kept"}
    assert Path("plots/learning.svg").is_file()
    assert run("tune", "homes.jsonl", "--model", "kept", "--out", "again", "--epochs", "1", "--held-out", "0")[0] == 0


def test_a_run_goes_on_where_it_was_broken_off(run, monkeypatch: pytest.MonkeyPatch):
    from recollect.weights.learner import Learner

    whole = json.loads(run(*TUNE, "--out", "whole", "--json")[1])
    evaluate = Learner.evaluate

    def broken(self, task):
        if "homes" in self.learned:
            raise KeyboardInterrupt
        return evaluate(self, task)

    monkeypatch.setattr(Learner, "evaluate", broken)
    assert run(*TUNE, "--out", "parts", "--json")[0] == 130
    monkeypatch.setattr(Learner, "evaluate", evaluate)
    code, _, err = run(*TUNE, "--out", "parts")
    assert code == 2
    assert "--resume" in err
    report = json.loads(run(*TUNE, "--out", "parts", "--resume", "--json")[1])
    assert report["scores"] == whole["scores"]
    assert Path("parts/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_an_adapter_is_saved_in_the_format_of_peft(run):
    pytest.importorskip("peft", reason="peft is not installed")
    code, _, err = run(*TUNE, "--out", "adapter", "--adapter", "2", "--epochs", "1")
    assert code == 0, err
    assert Path("adapter/adapter_model.safetensors").is_file()


def test_facts_are_edited_and_taken_out(run):
    edits = [
        {"prompt": "ana lives in", "target": "sea", "paraphrases": ["the home of ana is"], "unrelated": ["rain is"]}
    ]
    Path("facts.jsonl").write_text("\n".join(map(json.dumps, edits)), "utf-8")
    words = ("edit", "facts.jsonl", "--model", "small", "--out", "facts.safetensors", "--steps", "5", "--prefixes", "1")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["edits"], len(told["ids"])) == (1, 1)
    assert {"reliability", "generalisation", "locality"} <= set(told)
    code, out, err = run(*words, "--undo", told["ids"][0], "--json")
    assert code == 0, err
    assert json.loads(out)["edits"] == 0
    assert "id: there is no edit 'x'" in run(*words, "--undo", "x")[2]


def test_what_is_retained_is_probed_and_the_model_stays(run):
    Path("study.txt").write_text("ana lives in the red town\nbo likes tea in the rain\n", "utf-8")
    Path("foils.txt").write_text("cara lives in the blue sea\ndan likes the sun\n", "utf-8")
    Path("then.txt").write_text("the town is red and the sea is blue in the rain of the sun\n" * 3, "utf-8")
    before = Path("small/model.safetensors").read_bytes()
    words = "probe study.txt --model small --foils foils.txt --then then.txt --updates 2 --rate 0.01".split()
    code, out, err = run(*words, "--json", "--plot", "plots")
    assert code == 0, err
    assert [row["updates"] for row in json.loads(out)["rows"]] == [0, 1, 2]
    assert Path("plots/retention.svg").is_file()
    assert Path("small/model.safetensors").read_bytes() == before


def test_the_example_is_written(run):
    assert json.loads(run("example", "tasks", "--json")[1])[0].endswith("homes.jsonl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TUNE, "--out", "x", "--method", "replai"], "method: 'replai' is not known; did you mean replay"),
        (["tune", "none.jsonl", "--model", "small", "--out", "x"], "file: there is no none.jsonl"),
        (["tune", "homes.jsonl", "--model", "nowhere", "--out", "x"], "model: there is no checkpoint in nowhere"),
        (["tune", "homes.jsonl", "homes.jsonl", "--model", "small", "--out", "x"], "tasks: two are called 'homes'"),
        (["compare", "small"], "run: there is no scores.json in small"),
        (["edit", "none.jsonl", "--model", "small", "--out", "x"], "file: there is no none.jsonl"),
        (["probe", "none", "--model", "small", "--foils", "none", "--then", "none"], "file: there is no none"),
    ],
)
def test_errors_are_one_sentence(run, words, said):
    code, _, err = run(*words)
    assert code == 2
    assert said in " ".join(err.split())
    assert not Path("x").exists()
