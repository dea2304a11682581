"""Inputs go to the expert of their task, which answers as it did when its task was learned."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.weights.expert_gate import ExpertGate, flat_inputs
from recollect.weights.learner import Learner

from .conftest import make_net, make_tasks


def learned(tasks, **settings):
    learner = Learner(
        make_net(),
        [gate := ExpertGate(code=8, **settings)],
        optimizer=lambda each: torch.optim.SGD(each, lr=0.1),
        batch_rows=8,
        num_epochs=20,
    )
    for task in tasks:
        learner.learn(task)
    return learner, gate


def test_each_row_is_answered_by_its_tasks_expert_and_nothing_is_forgotten(tasks):
    learner, gate = learned(tasks)
    for number, task in enumerate(tasks):
        probabilities = gate.gate(list(task.test.tensors))
        assert probabilities.shape == (24, 2)
        assert torch.allclose(probabilities.sum(1), torch.ones(24))
        assert (probabilities.argmax(1) == number).float().mean() > 0.9
    assert learner.scores[-1]["task 0"] > 0.9
    assert learner.scores[-1]["task 1"] > 0.9
    mixed = [torch.cat([task.test.tensors[0][:5] for task in tasks]), torch.zeros(10, dtype=torch.long)]
    answers = learner.predict(mixed).argmax(1)
    assert set(answers[:5].tolist()) <= {0, 1}
    assert set(answers[5:].tolist()) <= {2, 3}


def test_a_task_is_most_related_to_itself_and_starts_from_the_related_expert(tasks):
    _, gate = learned([tasks[0], tasks[1]])
    inputs = tasks[0].train.tensors[0]
    autoencoders = [each["autoencoder"] for each in gate.state["experts"]]
    assert gate._relation(autoencoders[0], autoencoders[0], inputs) == 1.0
    assert gate._relation(autoencoders[1], autoencoders[0], inputs) < 0.85
    assert gate.state["teacher"] is None


def test_a_related_task_keeps_the_answers_of_the_expert(tasks):
    learner, gate = learned(tasks[:1], related=-1e9)
    learner.task, learner.task_name = tasks[1], tasks[1].name
    gate.before_task(learner, tasks[1])
    assert gate.state["teacher"] == 0
    batch = list(tasks[1].train.tensors)
    learner.model.eval()
    learner.outputs = learner.model(batch[0])
    zero = torch.zeros(())
    assert float(gate.loss(learner, batch, zero).detach()) == pytest.approx(0.0, abs=1e-6)  # it still is the expert
    with torch.no_grad():
        learner.model.head.weight.mul_(-1)
        learner.outputs = learner.model(batch[0])
        assert gate.loss(learner, batch, zero) > 0.1


def test_any_features_can_be_told_apart():
    pair, texts = [torch.ones(2, 3, 4), torch.zeros(2)], {"labels": torch.zeros(2), "input_ids": torch.ones(2, 5)}
    assert flat_inputs(pair).shape == (2, 12)
    assert flat_inputs(texts).shape == (2, 5)
    tasks = make_tasks()
    _, gate = learned(tasks, features=lambda batch: batch[0][:, :3])
    assert gate.state["experts"][0]["autoencoder"]["down"].shape == (8, 3)
    with pytest.raises(InvalidInput, match="code: -1 is below 0"):
        ExpertGate(code=-1)
