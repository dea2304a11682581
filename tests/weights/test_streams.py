"""Streams of labelled data: which classes and inputs a task has, that classes come back, and that all can be joined."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.data import TensorDataset

from recollect.errors import InvalidInput
from recollect.weights.batches import Rows, rows_of
from recollect.weights.streams import RecurringStream, Task, iid, level, permuted, shift_domains, split_classes

LABELS = torch.arange(10).repeat(6)
POOL = TensorDataset(torch.arange(60.0).view(60, 1).repeat(1, 4), LABELS)


def test_rows_are_looked_up_by_name_and_must_agree():
    rows = Rows(a=torch.arange(3), b=torch.ones(3, 2))
    assert len(rows) == 3
    assert rows[1]["a"] == 1
    assert rows[1]["b"].shape == (2,)
    assert rows_of(rows, [2, 0])["a"].tolist() == [2, 0]
    with pytest.raises(InvalidInput, match=r"rows: .*\[2, 3\]"):
        Rows(a=torch.arange(3), b=torch.arange(2))


def test_classes_are_split_into_disjoint_tasks_that_keep_every_row():
    tasks = split_classes(POOL, POOL, 4)
    assert [task.classes for task in tasks] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert [len(task.train) for task in tasks] == [24, 24, 12]
    assert set(tasks[1].test.tensors[1].tolist()) == {4, 5, 6, 7}
    assert not any(task.told for task in tasks)


def test_the_order_of_classes_follows_the_seed_and_a_task_may_be_told():
    one, other = (split_classes(POOL, POOL, 2, seed=seed, told=True) for seed in (1, 2))
    assert [task.classes for task in one] != [task.classes for task in other]
    assert sorted(label for task in one for label in task.classes) == list(range(10))
    assert all(task.told for task in one)
    with pytest.raises(InvalidInput, match=r"classes_per_task: 11 is not between 1 and the 10"):
        split_classes(POOL, POOL, 11)


def test_domains_change_the_inputs_alike_for_training_and_test_and_no_label():
    data = TensorDataset(torch.arange(12.0).view(3, 4), torch.tensor([0, 1, 2]))
    tasks = shift_domains(data, data, permuted(3, seed=5))
    assert torch.equal(tasks[0].train.tensors[0], data.tensors[0])
    for task in tasks:
        assert torch.equal(task.train.tensors[0], task.test.tensors[0])
        assert torch.equal(task.train.tensors[1], data.tensors[1])
        assert torch.equal(task.train.tensors[0].sort(1).values, data.tensors[0])
    assert not torch.equal(tasks[1].train.tensors[0], tasks[2].train.tensors[0])


def test_a_recurring_stream_is_the_same_twice_tests_all_classes_and_counts_visits():
    stream = RecurringStream(POOL, POOL, num_tasks=30, seed=3)
    tasks = list(stream)
    assert len(tasks) == len(stream) == 30
    assert [task.classes for task in tasks] == [task.classes for task in stream]
    seen = Counter()
    for task in tasks:
        assert len(set(task.classes)) == 2
        assert set(task.train.tensors[1].tolist()) == set(task.classes)
        assert task.test is POOL
        assert {label: count for label, count in task.visits.items() if count} == dict(seen)
        seen.update(task.classes)
    assert len(seen) == 10


def test_frequencies_fall_with_the_entropy_and_dividing_them_forces_coverage():
    stream = RecurringStream(POOL, POOL, entropy_decrease=3.0)
    chances = sorted(stream.frequencies().values(), reverse=True)
    assert sum(chances) == pytest.approx(1)
    expected = [(0.1 - 0.05 * each / 10) ** 3 for each in range(10)]
    assert chances == pytest.approx([each / sum(expected) for each in expected])
    covering = RecurringStream(POOL, POOL, classes_per_task=1, num_tasks=10, redraw=1e9)
    assert {task.classes[0] for task in covering} == set(range(10))


def test_the_order_may_be_a_fixed_cycle_and_pairs_may_be_few():
    cycle = [task.classes for task in RecurringStream(POOL, POOL, num_tasks=10, order_randomness=0.0)]
    assert cycle[:5] == cycle[5:]
    assert len(set(cycle)) == 5
    few = {tuple(sorted(task.classes)) for task in RecurringStream(POOL, POOL, num_tasks=200, pairs=0.1)}
    assert len(few) <= round(0.1 * 45)


@pytest.mark.parametrize(("halves", "first", "second"), [("probe", 10, 5), ("incremental", 5, 5)])
def test_halves_limit_which_classes_come(halves, first, second):
    tasks = list(RecurringStream(POOL, POOL, num_tasks=200, halves=halves))
    early, late = ({label for task in part for label in task.classes} for part in (tasks[:100], tasks[100:]))
    assert (len(early), len(late)) == (first, second)
    assert (late <= early) == (halves == "probe")


@pytest.mark.parametrize(("name", "value"), [("classes_per_task", 0), ("pairs", 1.5), ("order_randomness", -0.1)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        RecurringStream(POOL, POOL, **{name: value})


def test_all_tasks_join_into_one_and_short_texts_are_filled_up():
    joined = iid(split_classes(POOL, POOL, 5))
    assert joined.classes == tuple(range(10))
    assert len(joined.train) == 60
    rows = [Rows(input_ids=torch.ones(2, width, dtype=torch.long), labels=torch.ones(2, width)) for width in (3, 5)]
    texts = iid([Task(f"{number}", each, each) for number, each in enumerate(rows)])
    assert texts.train.tensors["input_ids"].tolist()[0] == [1, 1, 1, 0, 0]
    assert texts.train.tensors["labels"].tolist()[1] == [1, 1, 1, -100, -100]
    leveled = level([Task(f"{number}", each, each) for number, each in enumerate(rows)])
    assert [task.train.tensors["input_ids"].shape[1] for task in leveled] == [5, 5]
    assert torch.equal(leveled[0].test.tensors["labels"], texts.train.tensors["labels"][:2])
    with pytest.raises(InvalidInput, match="other kinds of data"):
        iid([Task("a", POOL, POOL), Task("b", rows[0], rows[0])])
