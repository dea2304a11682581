"""What was learned is undone bit for bit, weighed, saved and loaded; a later change is not lost by an undo."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.delta import Delta, Deltas, recording, snapshot
from recollect.weights.learner import Learner

from .conftest import assert_same, copies, make_net


def changed(model, by: float = 0.1) -> Delta:
    with recording(model, "an edit") as found, torch.no_grad():
        model.head.bias.add_(by)
    return found[0]


def test_an_undo_and_a_redo_are_exact():
    model = make_net()
    before = copies(model)
    delta = changed(model)
    after = copies(model)
    assert list(delta.after) == ["head.bias"]
    assert delta.size_bytes == 2 * 4 * len(model.head.bias)
    delta.undo(model)
    assert_same(copies(model), before)
    delta.redo(model)
    assert_same(copies(model), after)


def test_a_later_change_is_not_lost():
    model = make_net()
    before, first = copies(model), changed(model)
    second = changed(model, 1.0)
    with pytest.raises(Conflict, match=r"'head\.bias' has been changed by something else"):
        first.undo(model)
    first.subtract(model)
    assert torch.allclose(model.head.bias, before["head.bias"] + 1.0)
    assert first.id != second.id


def test_a_saved_delta_undoes_in_another_process_and_an_altered_one_is_refused(tmp_path):
    model, path = make_net(), tmp_path / "edit.safetensors"
    before, delta = copies(model), changed(model)
    delta.save(path)
    loaded = Delta.load(path)
    assert (loaded.id, loaded.label) == (delta.id, "an edit")
    loaded.undo(model)
    assert_same(copies(model), before)
    delta.after["head.bias"][0] += 1
    delta.save(path)
    with pytest.raises(InvalidInput, match="was changed after it was saved"):
        Delta.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="holds no delta"):
        Delta.load(path)
    with pytest.raises(NotFound, match="there is no file"):
        Delta.load(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"has no tensor 'head\.bias'"):
        loaded.undo(torch.nn.Linear(1, 1))


def test_tasks_are_undone_last_first(tasks):
    deltas = Deltas()
    learner = Learner(make_net(), [deltas], batch_rows=8)
    states = [copies(learner.model)]
    for task in tasks:
        learner.learn(task)
        states.append(copies(learner.model))
    assert [delta.label for delta in deltas.deltas] == ["task 0", "task 1"]
    assert not any(name.startswith("frozen") for name in deltas.deltas[0].after)
    for state in states[1::-1]:
        deltas.undo(learner.model)
        assert_same(copies(learner.model), state)
    with pytest.raises(NotFound, match="task: none has been learned"):
        deltas.undo(learner.model)
    assert_same(snapshot(learner.model), states[0])
