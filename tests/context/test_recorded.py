"""A step that is recorded, one that cannot be, and weights that have moved."""

from __future__ import annotations

import copy

import pytest
import torch

from recollect.context.recorded import RECORD_AFTER, Recorded, Weights

from .conftest import make_model


class OnGPU(torch.Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True  # pyright: ignore[reportAssignmentType]


def test_a_failed_recording_is_tried_once_and_the_steps_go_on(monkeypatch):
    tried = []

    def fail(self, forward, ids):
        tried.append(forward(ids))
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorded, "_record", fail)
    step, ids = Recorded(), torch.tensor([[5]]).as_subclass(OnGPU)
    found = [int(step(lambda ids, at=at: ids + at, ids)) for at in range(RECORD_AFTER + 3)]
    assert found == [5 + at for at in range(RECORD_AFTER + 3)]
    assert len(tried) == 1
    assert "capturing" in str(step.refused)
    assert not step.is_recorded


def test_a_step_that_fails_is_not_hidden():
    def stop(ids):
        raise ValueError("stop")

    step = Recorded()
    with pytest.raises(ValueError, match="stop"):
        step(stop, torch.tensor([[5]]))
    assert step.num_eager == 0


def test_weights_that_have_moved_are_noticed_once():
    model = make_model()
    weights = Weights(model)
    assert not weights.moved()
    with torch.no_grad():
        model.lm_head.weight.mul_(2)  # in place: a graph reads the new values
    assert not weights.moved()
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert weights.moved()
    assert not weights.moved()
    model.to(torch.bfloat16)
    assert weights.moved()
    model.model.layers[0] = copy.deepcopy(model.model.layers[0])
    assert weights.moved()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_replays_what_the_step_does():
    weight, step = torch.ones(3, device="cuda"), Recorded()
    for at in range(RECORD_AFTER + 3):
        weight.fill_(at)
        assert step(lambda ids: ids * weight, torch.tensor([[2]], device="cuda")).tolist() == [[2.0 * at] * 3]
    assert step.is_recorded
