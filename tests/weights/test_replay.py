"""What is kept is a fair sample, balanced where asked; what is drawn is learned from; what is forgotten is gone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from recollect.errors import InvalidInput
from recollect.weights.batches import Rows, local_cross_entropy
from recollect.weights.learner import Learner
from recollect.weights.replay import BalancedReplay, Replay

from .conftest import MadeTask, copies, make_net, make_tasks


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def stream(sizes: list[int]) -> list[MadeTask]:
    """Tasks of one label each, of these sizes; a row's first input is its number in the whole stream."""
    tasks, start = [], 0
    for label, size in enumerate(sizes):
        inputs = torch.zeros(size, 6)
        inputs[:, 0] = torch.arange(start, start + size)
        data = TensorDataset(inputs, torch.full((size,), label))
        tasks.append(MadeTask(f"task {label}", data, data))
        start += size
    return tasks


def kept_after(method: Replay, sizes: list[int], seed: int = 0) -> Replay:
    learner = Learner(make_net(), [method], batch_rows=10, seed=seed)
    for task in stream(sizes):
        learner.learn(task, evaluate=())
    return method


def test_a_reservoir_keeps_every_row_of_the_stream_with_the_same_chance():
    counts: Counter[int] = Counter()
    for seed in range(60):
        memory = kept_after(Replay(capacity=10, share=0.0), [60, 20, 20], seed)
        assert memory.state["num_seen"] == 100
        numbers = [int(row[0][0]) for row in memory.state["rows"]]
        assert len(set(numbers)) == 10
        counts.update(number // 20 for number in numbers)
    for part in range(5):  # 120 expected in each fifth, standard deviation about 9.3
        assert 85 < counts[part] < 155


def test_a_balanced_memory_keeps_equally_many_of_each_label():
    memory = kept_after(BalancedReplay(capacity=12, share=0.0), [60, 20, 4, 4])
    assert Counter(memory.state["labels"]) == {0: 3, 1: 3, 2: 3, 3: 3}
    spread = [
        int(row[0][0])
        for seed in range(40)
        for row in kept_after(BalancedReplay(capacity=4, share=0.0), [40, 4], seed).state["rows"]
    ]
    first = [each for each in spread if each < 40]
    assert len(first) == 80
    assert 24 < sum(each < 20 for each in first) < 56  # early rows are kept as often as late ones


def test_rows_enter_once_however_many_epochs():
    learner = Learner(make_net(), [memory := Replay(capacity=100)], batch_rows=10, num_epochs=3)
    learner.learn(stream([30])[0])
    assert memory.state["num_seen"] == len(memory.state["rows"]) == 30


def test_the_loss_is_shared_between_the_task_and_the_memory():
    memory, net = Replay(capacity=8, share=0.25), make_net()
    net.eval()
    learner = Learner(net, [memory], batch_rows=24)
    one, two = make_tasks()
    learner.learn(one)
    net.body[3].p = 0.0
    learner.task_name = two.name
    drawn = []
    memory.draw = lambda learner, batch, wanted: drawn.append(wanted) or [0, 1]  # type: ignore[method-assign]
    batch = [two.train.tensors[0], two.train.tensors[1]]
    own = learner.loss_of(batch, two)
    replayed = learner.loss_of(memory.batch(learner, [0, 1]), None)
    assert torch.allclose(memory.loss(learner, batch, own), 0.75 * own + 0.25 * replayed)
    assert drawn == [8]  # a quarter of 32 rows


def test_a_replayed_row_is_learned_over_all_classes_even_with_a_local_loss():
    tasks = make_tasks()
    before = copies(make_net())
    for methods in ([], [Replay()]):
        learner = Learner(make_net(), methods, objective=local_cross_entropy, batch_rows=8, optimizer=sgd)
        for task in tasks:
            learner.learn(task)
        moved = not torch.equal(learner.model.head.weight[4:], before["head.weight"][4:])
        assert moved is bool(methods)


def test_replay_remembers_where_plain_training_forgets():
    tasks = make_tasks()
    found = []
    for methods in ([], [Replay(capacity=8)]):
        learner = Learner(make_net(), methods, batch_rows=8, num_epochs=20, optimizer=sgd)
        for task in tasks:
            learner.learn(task)
        found.append(learner.scores[-1]["task 0"])
    assert found[1] > found[0] + 0.3


def test_texts_are_kept_by_their_task_and_forgotten_by_it():
    ids = torch.arange(40).reshape(10, 4) % 6

    class Echo(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(6, 6)

        def forward(self, input_ids, labels):
            return self.table(input_ids)

    memory = BalancedReplay(capacity=6)
    learner = Learner(Echo(), [memory], batch_rows=5)
    for name in ("one", "two", "three"):
        data = Rows(input_ids=ids, labels=ids)
        learner.learn(MadeTask(name, data, data))
    assert Counter(memory.state["tasks"]) == {"one": 2, "two": 2, "three": 2}
    assert memory.forget("two") == 2
    assert Counter(memory.state["tasks"]) == {"one": 2, "three": 2}
    assert len(memory.state["rows"]) == len(memory.state["labels"]) == 4
    assert memory.forget("two") == 0
    again = MadeTask("four", data, data)
    learner.learn(replace(again))
    assert sum(Counter(memory.state["tasks"]).values()) == 6


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": -0.1}, {"capacity": 0}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Replay(**wrong)
