"""Recipes: tasks from files, methods by name with settings, and a score by what the model says."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.i_lora import ILoRA
from recollect.weights.learner import Learner
from recollect.weights.migu import MIGU
from recollect.weights.recipes import AnswerScore, exact, go_on, known_methods, make_method, task_from, write_example
from recollect.weights.replay import Replay
from recollect.weights.streams import level
from words import tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()
OPTIMIZER = partial(torch.optim.Adam, lr=0.01)


def test_methods_are_made_by_name_with_settings():
    assert make_method("replay") == Replay()
    assert make_method("replay:share=0.25,capacity=9") == Replay(share=0.25, capacity=9)
    assert make_method("migu:threshold=0.5,choose=random") == MIGU(threshold=0.5, choose="random")
    assert {"replay", "balanced-replay", "migu", "i-lora", "continual-pretraining"} <= set(known_methods())
    for text, match in (
        ("reply", "method: 'reply' is not known; did you mean replay"),
        ("zzz", "use one of replay"),
        ("replay:size=3", "replay has no setting 'size'; it has capacity, share"),
        ("replay:capacity=many", "capacity of replay cannot be 'many'"),
        ("migu:skip_first_task=maybe", "skip_first_task of migu cannot be 'maybe'"),
    ):
        with pytest.raises(InvalidInput, match=match):
            make_method(text)


def test_instructions_and_texts_become_tasks_with_a_part_held_out(tmp_path):
    lines = [{"instruction": f"ana likes {number}", "output": "tea"} for number in range(10)]
    file = tmp_path / "likes.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    task = task_from(file, TOKENIZER, 16)
    assert (task.name, len(task.train), len(task.test), len(task.questions)) == ("likes", 8, 2, 2)
    whole = task_from(file, TOKENIZER, 16, held_out=0)
    assert (len(whole.train), len(whole.test)) == (10, 10)
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "one.txt").write_text("the sea is blue " * 20, "utf-8")
    (folder / "two.jsonl").write_text('{"text": "the town is red"}', "utf-8")
    text = task_from(folder, TOKENIZER, 8)
    assert (text.name, text.questions) == ("letters", ())
    assert len(text.train) == 4 * len(text.test)
    assert len(task_from(folder / "two.jsonl", TOKENIZER, 8, held_out=0.5).train) == 1
    with pytest.raises(InvalidInput, match="held_out: 1"):
        task_from(file, TOKENIZER, 16, held_out=1)


def test_the_example_is_three_files_about_the_same_people(tmp_path):
    paths = write_example(tmp_path)
    assert [path.name for path in paths] == ["homes.jsonl", "trades.jsonl", "pets.jsonl"]
    assert all(len(path.read_text("utf-8").splitlines()) == 20 for path in paths)


def made(tmp_path, methods=()):
    tasks = []
    for name, prompt, answer in (("tastes", "ana likes", "tea"), ("homes", "bo lives in", "sea")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"prompt": prompt, "answer": answer}), "utf-8")
        tasks.append(task_from(path, TOKENIZER, 16, held_out=0))
    model = tiny_decoder(len(TOKENIZER), width=16, inner=16, heads=2)
    return Learner(model, methods, optimizer=OPTIMIZER, score=AnswerScore(TOKENIZER), num_epochs=40), level(tasks)


def test_a_stream_is_scored_by_what_is_said_and_what_is_learned_is_left_out(tmp_path):
    learner, tasks = made(tmp_path)
    done = [task.name for task in go_on(learner, tasks, None)]
    assert done == ["tastes", "homes"]
    assert learner.scores[0] == {"tastes": 1.0}
    assert learner.scores[1]["homes"] == 1.0
    assert [exact(learner, task) for task in tasks] == [learner.scores[1][task.name] for task in tasks]
    assert list(go_on(learner, tasks, None)) == []
    with pytest.raises(InvalidInput, match="tasks: two are called 'tastes'"):
        next(go_on(learner, [tasks[0], tasks[0]], None))


def test_the_slow_copy_is_asked_where_there_is_one(tmp_path):
    slow, tasks = made(tmp_path, [ILoRA(retention=1.0)])
    slow.learn(tasks[0])
    with slow.methods[0].using(slow.model):
        expected = AnswerScore(TOKENIZER)(Learner(slow.model), tasks[0])
    assert slow.scores[0]["tastes"] == expected
