"""Decoding in place equals decoding with a window that is turned anew for every token."""

from __future__ import annotations

import pytest
import torch

from recollect.context import ring
from recollect.context.lm_infinite import LMInfinite
from recollect.context.sliding_window import SlidingWindow
from recollect.context.streaming_llm import StreamingLLM

from .conftest import FAMILIES, make_model, tiny

POLICIES = [
    SlidingWindow(window_tokens=6),
    StreamingLLM(num_sink_tokens=2, window_tokens=5),
    LMInfinite(num_sink_tokens=3, window_tokens=7),
    LMInfinite(num_sink_tokens=0, window_tokens=4),
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def plain(policy):
    """The policy, decoding by `sink_window` alone."""

    class Plain(type(policy)):
        def window(self):
            return None if self.anew else super().window()

        def attend(self, *inputs):
            self.anew = False
            try:
                return super().attend(*inputs)
            finally:
                self.anew = True

    twin = Plain(**vars(policy))
    twin.anew = True
    return twin


def one_by_one(model, ids, memory, cache=None):
    cache = memory.memory if cache is None else cache
    with torch.no_grad():
        steps = [model(ids[:, at : at + 1], cache=cache).logits for at in range(ids.shape[1])]
    return torch.cat(steps, dim=1)


def tokens(rows, length, device="cpu", seed=3):
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_steps_equal_the_window_turned_anew(policy, device, monkeypatch):
    monkeypatch.setattr(ring, "RUN_TOKENS", 11)  # so that places are counted anew twice
    model, ids = make_model().to(device), tokens(2, 40, device)
    with plain(policy).attach(model) as memory:
        memory.read(ids[:, :12])
        wanted = one_by_one(model, ids[:, 12:], memory)
        assert memory.memory.room is None
        kept = memory.memory.units[0]
    with policy.attach(model) as memory:
        memory.read(ids[:, :12])
        ours = one_by_one(model, ids[:, 12:], memory)
        assert memory.memory.room is not None
        assert memory.memory.room.num_steps == 28 - 22
        assert (memory.memory.room.recorded.is_recorded) == (device == "cuda")
        assert (ours - wanted).abs().max() < 1e-5
        (unit,) = memory.memory.units
        assert memory.memory.room is None
        assert unit.num_read == kept.num_read == 40
        for state, other in zip(unit.layers, kept.layers, strict=True):
            assert state.keys() == other.keys()
            assert all((state[name] - other[name]).abs().max() < 1e-5 for name in state)
        assert memory.stats()["attended_tokens"] == sum(
            policy.window().__dict__[name] for name in ("tokens", "num_sinks")
        )


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_what_comes_between_finds_the_newest_state(policy, tmp_path):
    model, ids = make_model(), tokens(2, 40)
    with plain(policy).attach(model) as memory, torch.no_grad():
        memory.read(ids[:, :30])
        wanted = model(ids[:, 30:35], cache=memory.memory).logits
    with policy.attach(model) as memory, torch.no_grad():
        memory.read(ids[:, :14])
        one_by_one(model, ids[:, 14:20], memory)
        memory.save(tmp_path / "memory.safetensors")
        apart = memory.memory.copy()
        kept = memory.memory
        for cache, start, end in ((kept, 20, 24), (apart, 20, 30), (kept, 24, 30)):  # two memories take turns
            one_by_one(model, ids[:, start:end], memory, cache)
        for cache in (kept, apart):
            assert (model(ids[:, 30:35], cache=cache).logits - wanted).abs().max() < 1e-5
        memory.load(tmp_path / "memory.safetensors")
        one_by_one(model, ids[:, 20:30], memory)
        assert (model(ids[:, 30:35], cache=memory.memory).logits - wanted).abs().max() < 1e-5


def test_a_step_that_fails_changes_nothing():
    model, ids = make_model(), tokens(1, 30)
    with LMInfinite(num_sink_tokens=2, window_tokens=6).attach(model) as memory:
        memory.read(ids[:, :12])
        wanted = one_by_one(model, ids[:, 12:22], memory)
        memory.forget()
        memory.read(ids[:, :12])
        first = one_by_one(model, ids[:, 12:15], memory)
        held = memory.memory.room
        assert held is not None
        attend = held.attend

        def fail(index, *inputs):
            if index == 1:
                raise KeyboardInterrupt
            return attend(index, *inputs)

        held.attend = fail  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            one_by_one(model, ids[:, 20:21], memory)
        held.attend = attend  # type: ignore[method-assign]
        assert memory.memory.num_seen == 15
        rest = one_by_one(model, ids[:, 15:22], memory)
        assert (torch.cat([first, rest], dim=1) - wanted).abs().max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_that_cannot_be_recorded_goes_on_without_a_graph():
    model, ids = make_model().to("cuda"), tokens(2, 30, "cuda")
    policy = StreamingLLM(num_sink_tokens=2, window_tokens=6)
    with policy.attach(model) as memory:
        memory.read(ids[:, :12])
        wanted = one_by_one(model, ids[:, 12:], memory)
    waits = model.model.layers[1].register_forward_hook(lambda module, inputs, output: output.sum().item() and None)
    with policy.attach(model) as memory:
        memory.read(ids[:, :12])
        ours = one_by_one(model, ids[:, 12:], memory)
        assert memory.memory.room is not None
        assert memory.memory.room.recorded.refused is not None
    waits.remove()
    assert (ours - wanted).abs().max() < 1e-5
    assert torch.rand(3, device="cuda").shape == (3,)  # randomness and further recordings are as before
    with policy.attach(model) as memory:
        memory.read(ids[:, :12])
        assert (one_by_one(model, ids[:, 12:], memory) - wanted).abs().max() < 1e-5
        assert memory.memory.room is not None
        assert memory.memory.room.recorded.is_recorded


def reweighted(model):
    """The model with its weights elsewhere, larger in the last layer."""
    weights = {
        name: tensor.clone() * (1.25 if "layers.1" in name else 1) for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(weights, assign=True)
    return model


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("move", [reweighted, lambda model: model.double()], ids=["assign", "to"])
def test_a_model_that_was_moved_is_noticed(move, device):
    policy, ids = StreamingLLM(num_sink_tokens=2, window_tokens=6), tokens(2, 40, device)
    found = []
    for each in (plain(policy), policy):
        model = make_model().to(device)
        with each.attach(model) as memory:
            memory.read(ids[:, :12])
            before = one_by_one(model, ids[:, 12:20], memory)
            held = memory.memory.room
            move(model)
            found.append(torch.cat([before, one_by_one(model, ids[:, 20:], memory)], dim=1))
            assert (memory.memory.room is None) == (each is not policy)
            assert memory.memory.room is not held or held is None
    assert found[0].dtype == found[1].dtype
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {"num_beams": 3, "do_sample": False}], ids=["greedy", "beams"]
)
def test_generation_is_the_same(options):
    model, ids = make_model(), tokens(2, 14)
    policy = StreamingLLM(num_sink_tokens=2, window_tokens=6)
    with plain(policy).attach(model) as memory:
        wanted = memory.generate(ids, max_new_tokens=12, **options)
    with policy.attach(model) as memory:
        assert torch.equal(memory.generate(ids, max_new_tokens=12, **options), wanted)


def test_a_gradient_or_scaled_angles_take_the_readable_way():
    ids = tokens(1, 20)
    policy = SlidingWindow(window_tokens=6)
    model = make_model()
    with policy.attach(model) as memory:
        memory.read(ids[:, :12])
        model(ids[:, 12:13], cache=memory.memory)
        assert memory.memory.room is None
    scaled = make_model(rope_parameters={"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0})
    with policy.attach(scaled) as memory:
        memory.read(ids[:, :12])
        one_by_one(scaled, ids[:, 12:14], memory)
        assert memory.memory.room is None


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family(family):
    model, ids, policy = tiny(family), tokens(1, 24), StreamingLLM(num_sink_tokens=2, window_tokens=6)
    with plain(policy).attach(model) as memory:
        memory.read(ids[:, :10])
        wanted = one_by_one(model, ids[:, 10:], memory)
    with policy.attach(model) as memory:
        memory.read(ids[:, :10])
        assert (one_by_one(model, ids[:, 10:], memory) - wanted).abs().max() < 1e-5
        assert (memory.memory.room is None) == ("gemma" in family and family != "gemma")
