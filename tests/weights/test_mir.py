"""The rows that a step would hurt most are drawn, and rows of the task itself never are."""

from __future__ import annotations

import torch

from recollect.weights.batches import forward, row_losses
from recollect.weights.learner import Learner
from recollect.weights.mir import MIR

from .conftest import make_net, make_tasks


def prepared(**settings):
    net = make_net()
    net.body[3].p = 0.0
    learner = Learner(net, [method := MIR(**settings)], optimizer=lambda each: torch.optim.SGD(each, lr=0.5))
    one, two = make_tasks()
    learner.learn(one)
    learner.task, learner.task_name = two, two.name
    return learner, method, [each[:8] for each in two.train.tensors]


def test_what_is_drawn_rises_most_in_a_step_that_is_really_taken():
    learner, method, batch = prepared(num_candidates=100)
    drawn = method.draw(learner, batch, 5)
    rows = method.batch(learner, list(range(len(method.state["rows"]))))
    learner.model.eval()
    before = row_losses(forward(learner.model, rows), rows).detach()
    loss = learner.loss_of(batch, learner.task)
    learner.optimizer.zero_grad()
    loss.backward()
    learner.optimizer.step()
    rise = row_losses(forward(learner.model, rows), rows).detach() - before
    assert set(drawn) == set(rise.topk(5).indices.tolist())


def test_the_model_is_left_as_it_was():
    learner, method, batch = prepared()
    before = [each.clone() for each in learner.model.parameters()]
    method.draw(learner, batch, 3)
    assert all(torch.equal(one, other) for one, other in zip(before, learner.model.parameters(), strict=True))


def test_rows_of_the_task_itself_are_drawn_only_where_there_are_no_others():
    learner, method, batch = prepared()
    for row in range(8):
        method.put(learner, None, (batch[0][row], batch[1][row]), int(batch[1][row]))
    drawn = method.draw(learner, batch, 20)
    assert all(method.state["tasks"][place] == "task 0" for place in drawn)
    method.forget("task 0")
    assert len(method.draw(learner, batch, 20)) == 8


def test_with_few_candidates_all_are_replayed():
    learner, method, batch = prepared(num_candidates=4)
    assert len(method.draw(learner, batch, 10)) == 4
