"""The testbed and the bench of recall against length, end to end on models that take seconds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from recollect.benchmarks import needle
from recollect.benchmarks.haystack import Haystacks
from recollect.benchmarks.testbed import Recipe, extend, folder_of, load, load_or_train, sequences, train
from recollect.cli.main import app
from recollect.context.longgen import LongGen
from recollect.context.sliding_window import SlidingWindow
from recollect.errors import Conflict, InvalidInput, NotFound

TINY = Recipe(vocabulary=400, hidden_size=64, num_layers=2, num_heads=2, trained_tokens=128, batch_rows=4, num_steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for three steps."""
    folder = tmp_path_factory.mktemp("testbed")
    steps = []
    log = train(TINY, folder, progress=lambda step, total, what: steps.append((step, total, what)))
    assert [step for step, _, _ in steps] == [1, 2, 3]
    assert steps[-1][1] == 3
    assert steps[-1][2].startswith("loss of answers ")
    assert log == json.loads((folder / "training.json").read_text("utf-8")) | {"recipe": log["recipe"]}
    return folder


def test_training_starts_with_a_circuit_that_finds_what_followed(folder):
    """Of random tokens said twice, the testbed knows the second half almost without training."""
    model, _ = load(folder)
    tokens = torch.randint(3, 400, (8, 30), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    with torch.no_grad():
        guess = model(tokens).logits[:, 30:-1].argmax(-1)
    assert (guess == tokens[:, 31:]).float().mean() > 0.3  # chance is 0.0025


def test_training_text_marks_the_answers(folder):
    _, tokenizer = load(folder)
    made = sequences(TINY, tokenizer.backend_tokenizer)
    for _ in range(20):
        tokens, marks = next(made)
        assert len(tokens) == len(marks) == 128
        assert tokens[0] == 0
        assert max(tokens) < 400
        assert any(marks) or 48 not in tokens


def test_models_are_cached_by_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("RECOLLECT_CACHE", str(tmp_path))
    recipe = replace(TINY, num_steps=1)
    assert folder_of(recipe) != folder_of(TINY)
    load_or_train(recipe)
    written = (folder_of(recipe) / "model.safetensors").stat().st_mtime_ns
    load_or_train(recipe)
    assert (folder_of(recipe) / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(NotFound, match="model: there is no checkpoint in"):
        load(tmp_path / "nowhere")


def test_a_model_is_trained_on_to_longer_texts_under_a_policy(folder, tmp_path):
    words = [
        "testbed",
        "extend",
        "--model",
        str(folder),
        "--tokens",
        "160",
        "--steps",
        "2",
        "--rows",
        "1",
        "--window",
        "16",
    ]
    run = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "longer"), "--json"])
    assert run.exit_code == 0, run.output
    log = json.loads(run.output)
    assert log["policy"]["window_tokens"] == 16
    before, after = (load(each)[0] for each in (folder, tmp_path / "longer"))
    assert after.config.max_position_embeddings == 160
    assert after.config.rope_parameters["rope_theta"] > before.config.rope_parameters["rope_theta"]
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
    run = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "full"), "--full"])
    assert "Trained on to 160 tokens" in run.output


def test_training_on_lowers_the_loss_and_leaves_the_policy_behind(folder):
    model, tokenizer = load(folder)
    recipe = replace(TINY, trained_tokens=256, batch_rows=2, num_steps=20, learning_rate=5e-3, warmup_steps=1)
    seen = []
    extend(model, tokenizer, recipe, LongGen(num_sink_tokens=2, window_tokens=20), lambda *line: seen.append(line[2]))
    first, last = (float(line.split()[-2]) for line in (seen[0], seen[-1]))
    assert last < first - 0.1
    assert not model.training
    with torch.no_grad():
        assert model(torch.tensor([[0, 5, 6]])).logits.shape == (1, 3, 400)
    assert model.config._attn_implementation == "sdpa"


def test_losses_are_those_of_one_plain_call(folder):
    model, _ = load(folder)
    tokens = torch.randint(3, 400, (50,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = -model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    for policy in (None, SlidingWindow(window_tokens=64, chunk_tokens=9)):
        found = needle.losses(model, policy, tokens.tolist(), piece=7)
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)


def test_every_policy_is_asked_the_same_questions(folder):
    model, tokenizer = load(folder)
    seen = []
    haystacks = Haystacks(tokenizer, 0)
    result = needle.run(
        model,
        haystacks,
        [needle.PLAIN, "sliding-window"],
        [64, 96],
        ["needle", "mqar"],
        2,
        32,
        progress=lambda *line: seen.append(line),
    )
    assert [(row["task"], row["length"], row["policy"]) for row in result["rows"]] == [
        (task, length, key) for task in ("needle", "mqar") for length in (64, 96) for key in ("plain", "sliding-window")
    ]
    assert len(seen) == 16
    assert seen[-1][1:] == (15, 16)
    for row in result["rows"]:
        low, high = row["interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert row["attended_tokens"] == (row["length"] if row["policy"] == "plain" else 32)
        assert row["num_samples"] == 2
    assert json.loads(json.dumps(result)) == result
    with pytest.raises(InvalidInput, match="budget: 8 tokens are too few"):
        needle.run(model, haystacks, [], [64], budget=8)
    with pytest.raises(InvalidInput, match="batch: 0 is too small"):
        needle.run(model, haystacks, [], [64], budget=32, batch_rows=0)


def test_questions_read_as_one_batch_get_the_answers_that_each_gets_alone(folder):
    model, tokenizer = load(folder)
    for task in ("needle", "mqar"):
        rows = [
            needle.run(model, Haystacks(tokenizer, 0), ["sirllm"], [96], [task], 3, 32, batch_rows=size)["rows"]
            for size in (1, 2, 3)
        ]
        figures = [[(row["accuracy"], row["attended_tokens"], row["device_bytes"]) for row in each] for each in rows]
        assert figures[0] == figures[1] == figures[2]


def test_several_processes_find_what_one_finds(folder):
    model, tokenizer = load(folder)
    seen = []

    def rows(**options):
        result = needle.run(
            model,
            Haystacks(tokenizer, 0),
            [needle.PLAIN, "sirllm"],
            [64],
            ["needle"],
            3,
            32,
            progress=lambda *line: seen.append(line),
            batch_rows=2,
            **options,
        )
        return [{name: value for name, value in row.items() if name != "seconds"} for row in result["rows"]]

    alone = rows()
    seen.clear()
    assert rows(workers=2, reopen=partial(load, folder)) == alone
    assert seen[-1][1:] == (6, 6)
    with pytest.raises(InvalidInput, match="reopen: is missing"):
        rows(workers=2)


def test_a_run_goes_on_from_earlier_results_and_measures_only_what_they_lack(folder):
    model, tokenizer = load(folder)
    kept, asked = [], []

    def run(keys, earlier, **changes):
        asked.clear()
        options = {"budget": 32, "progress": lambda *line: asked.append(line), "keep": kept.append}
        return needle.run(
            model, Haystacks(tokenizer, 0), keys, [64], ["needle"], 2, earlier=earlier, **options | changes
        )

    first = run(["plain", "sliding-window"], [])
    assert [len(each["rows"]) for each in kept] == [1, 2]  # what an interruption would have left
    both = run(["sirllm", "sliding-window"], [kept[0], first])
    assert {line[0] for line in asked} == {"needle, 64 tokens, sirllm"}
    assert [row["policy"] for row in both["rows"]] == ["plain", "sliding-window", "sirllm"]
    assert both["rows"][:2] == first["rows"]
    assert both["earlier"] == [{name: first[name] for name in ("commit", "machine", "versions")}]
    assert both["total_seconds"] >= kept[0]["total_seconds"] + first["total_seconds"]
    with pytest.raises(Conflict, match="budget_tokens: an earlier result was measured with 32, not 40"):
        run([], [first], budget=40)


def test_a_checkpoint_is_loaded_in_the_type_that_is_asked_for(folder):
    assert load(folder)[0].dtype == torch.float32
    assert load(folder, dtype="bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(InvalidInput, match="dtype: 'int8' is not known"):
        load(folder, dtype="int8")


def test_the_interval_of_a_share():
    assert needle._wilson(5, 10) == [0.2366, 0.7634]  # by the formula of Wilson, 1927
    assert needle._wilson(0, 10)[0] == 0.0
    assert math.isclose(needle._wilson(10, 10)[1], 1.0)


def test_the_commands_measure_print_and_draw(folder, tmp_path):
    words = ["bench", "needle", "--policy", "streaming-llm", "--lengths", "64,128", "--samples", "1", "--budget", "32"]
    words += [
        "--task",
        "passkey,key-value",
        "--model",
        str(folder),
        "--results",
        str(tmp_path),
        "--plots",
        str(tmp_path),
    ]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    for text in ("passkey", "key-value", "streaming-llm", "plain", "trained to 128 tokens"):
        assert text in run.output
    assert json.loads((tmp_path / "needle.json").read_text("utf-8"))["haystack"] == "made"
    assert (tmp_path / "needle.svg").read_text("utf-8").count("streaming-llm") >= 1
    again = CliRunner().invoke(app, ["testbed", "train", "--out", str(folder), "--json"])
    assert json.loads(again.output)["parameters"] > 0
    words += ["--resume", str(tmp_path / "needle.json"), "--name", "more", "--dtype", "float32", "--batch", "2"]
    run = CliRunner().invoke(app, [*words, "--task", "number", "--no-plain"])
    assert run.exit_code == 0, run.output
    more = json.loads((tmp_path / "more.json").read_text("utf-8"))
    assert {row["task"] for row in more["rows"]} == {"passkey", "key-value", "number"}
    assert {row["policy"] for row in more["rows"] if row["task"] == "number"} == {"streaming-llm"}
    assert (tmp_path / "more.svg").is_file()
    broken = CliRunner().invoke(app, ["bench", "needle", "--resume", str(folder / "config.json")])
    assert isinstance(broken.exception, InvalidInput)
    wrong = CliRunner().invoke(app, ["bench", "needle", "--policy", "nothing"])
    assert isinstance(wrong.exception, InvalidInput)
