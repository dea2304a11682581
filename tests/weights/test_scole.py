"""The curve says what was known when, and frequency replay picks the classes that need it."""

from __future__ import annotations

import math

import pytest
import torch

from recollect.benchmarks.digits import Perceptron, make_glyphs
from recollect.errors import InvalidInput
from recollect.weights.learner import Learner
from recollect.weights.scole import Curve, FrequencyReplay, SCoLe
from recollect.weights.streams import RecurringStream

from .conftest import MadeTask


def learner_of(*methods) -> Learner:
    return Learner(
        Perceptron(width=16, classes=4),
        methods,
        optimizer=lambda each: torch.optim.SGD(each, lr=0.1),
        keep_optimizer=True,
        batch_rows=10,
    )


def test_the_curve_is_what_one_would_measure_on_the_way():
    data = make_glyphs(4, 12)
    stream, learner = RecurringStream(data, data, num_tasks=8), learner_of()
    curve = SCoLe(stream, test_every_tasks=4).run(learner)
    assert curve.tasks == [1, 4, 8]
    by_hand, everything, seen, before = learner_of(), MadeTask("all", data, data), set(), {}
    for count, task in enumerate(stream, start=1):
        for label in seen & set(task.classes):
            rows = data.tensors[1] == label
            right = by_hand.predict([data.tensors[0][rows], data.tensors[1][rows]]).argmax(1) == label
            before.setdefault(label, []).append(float(right.float().mean()))
        by_hand.learn(task, evaluate=())
        seen |= set(task.classes)
        if count in curve.tasks:
            assert curve.at(count) == pytest.approx(by_hand.evaluate(everything))
    assert set(curve.before_visit) == set(before)
    for label, values in before.items():
        assert curve.before_visit[label] == pytest.approx(values)
    assert sum(curve.visits.values()) == 16
    assert max(curve.last_visit.values()) == 8
    assert len(curve.by_frequency()) == len(curve.visits)


def test_a_curve_answers_when_a_level_was_reached():
    curve = Curve([1, 10, 20], [0.1, 0.5, 0.8], [{}, {}, {0: 0.9, 1: 0.7}], visits={0: 30, 1: 10})
    assert curve.at(15) == 0.5
    assert curve.tasks_to_reach(0.5) == 10
    assert curve.tasks_to_reach(0.9, reference=0.85) == 20
    assert curve.tasks_to_reach(0.9) is None
    assert curve.by_frequency() == [(math.log10(0.25), 0.7), (math.log10(0.75), 0.9)]
    with pytest.raises(InvalidInput, match="tasks: 0 is before the first test"):
        curve.at(0)


def test_classes_in_the_band_are_replayed_least_frequent_first():
    method = FrequencyReplay(low=0.05, high=0.3, min_visits=3, num_classes=2)
    method.state["visits"] = {0: 40, 1: 10, 2: 5, 3: 2, 4: 8, 5: 3}
    method.before_task(learner_of(), MadeTask("new", [], [], (4,)))
    assert method.state["chosen"] == [2, 1]  # 0 is frequent, 3 was seen twice, 4 is in the task, 5 is below the band


def test_rows_are_stored_and_renewed_class_by_class():
    data = make_glyphs(2, 30)
    method = FrequencyReplay(rows_a_class=20)
    learner = learner_of(method)
    task = MadeTask("one", data, data, (0, 1))
    learner.learn(task)
    first = [row[0].clone() for row in method.state["rows"][0]]
    assert [len(method.state["rows"][label]) for label in (0, 1)] == [20, 20]
    assert {int(row[1]) for row in method.state["rows"][1]} == {1}
    learner.learn(task)
    same = sum(torch.equal(one, row[0]) for one, row in zip(first, method.state["rows"][0], strict=True))
    assert 10 <= same < 20  # half of 20 renewed at most, places drawn with repetition
    assert method.state["visits"] == {0: 2, 1: 2}
