"""Decoding of block memories in place equals the readable way, token by token, whatever comes between."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from recollect.context.em_llm import EMLLM
from recollect.context.far_ring import FarRing
from recollect.context.growing import Growing
from recollect.context.infllm import InfLLM
from recollect.context.recorded import RECORD_AFTER, Recorded

from .conftest import FAMILIES, SCALINGS, make_model, tiny
from .test_ring import DEVICES, one_by_one, tokens

SMALL = {"num_first_tokens": 2, "window_tokens": 6, "chunk_tokens": 4}
BLOCKS = SMALL | {"block_tokens": 3, "num_blocks": 2, "num_cached_blocks": 3}
EVENTS = SMALL | {"memory_tokens": 8, "min_event_tokens": 1, "max_event_tokens": 4, "gamma": 0.5}
POLICIES = [
    InfLLM(**BLOCKS),
    InfLLM(**BLOCKS, look_up_tokens=5),
    InfLLM(**BLOCKS, look_up_tokens=5, replacement="lru"),
    InfLLM(**(BLOCKS | {"num_first_tokens": 0, "num_blocks": 9, "num_cached_blocks": 9}), look_up_tokens=2),
    EMLLM(**EVENTS),
    EMLLM(**EVENTS, look_up_tokens=5),
    EMLLM(**(EVENTS | {"num_first_tokens": 0, "refinement": "conductance", "contiguity": 0.0}), look_up_tokens=3),
]


def rows(policy) -> int:
    return 1 if policy.per_row else 2


def plain(policy):
    """The policy, decoding by `near_and_far` alone."""

    class Plain(type(policy)):
        def room(self, *inputs):
            return None

    return Plain(**asdict(policy))


def assert_alike(kept, other):
    """Units that hold the same, caches on the device aside."""
    assert kept.num_read == other.num_read
    for (_, state), (_, wanted) in zip(kept.states(), other.states(), strict=True):
        cached = {"slot_keys", "slot_values", "slot_block", "slot_score"}
        assert state.keys() - cached == wanted.keys() - cached
        for name in state.keys() - cached:
            ours, theirs = (getattr(each[name], "tensor", each[name]) for each in (state, wanted))
            assert ours.shape == theirs.shape, name
            assert not ours.numel() or (ours.float() - theirs.float()).abs().max() < 1e-4, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_steps_equal_the_readable_way(policy, device):
    model, ids = make_model().to(device), tokens(rows(policy), 60, device)
    found, kept, told = [], [], []
    for each in (plain(policy), policy):
        with each.attach(model) as memory:
            memory.read(ids[:, :23])
            found.append(one_by_one(model, ids[:, 23:], memory))
            assert isinstance(memory._in_place._room, FarRing) == (each is policy)
            assert (memory.size_bytes().device > memory.memory.size_bytes().device) == (each is policy)
            kept.append(memory.memory.units[0])
            told.append(memory.stats())
    assert (found[0] - found[1]).abs().max() < 1e-5
    assert_alike(kept[1], kept[0])
    for name in ("num_read", "attended_tokens", "host_bytes", "blocks", "events", "tokens_chosen", "events_recalled"):
        assert told[0].get(name) == told[1].get(name), name


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_what_comes_between_finds_the_newest_state(policy, tmp_path):
    model, ids = make_model(), tokens(rows(policy), 50)
    ends = []
    for each in (plain(policy), policy):
        with each.attach(model) as memory, torch.no_grad():
            memory.read(ids[:, :20])
            steps = [one_by_one(model, ids[:, 20:27], memory)]
            apart = memory.memory.copy()
            kept = memory.memory
            for cache, start, end in ((kept, 27, 30), (apart, 27, 34), (kept, 30, 34)):  # two memories take turns
                steps.append(one_by_one(model, ids[:, start:end], memory, cache))
            steps += [model(ids[:, 34:41], cache=cache).logits for cache in (kept, apart)]
            steps.append(one_by_one(model, ids[:, 41:], memory, kept))
            ends.append(torch.cat(steps, dim=1))
    assert (ends[0] - ends[1]).abs().max() < 1e-5


class Watched(Recorded):
    """In the place of a graph: a step that could be replayed must find what it reads where it was when it was recorded."""

    def __init__(self, ring, seen):
        super().__init__()
        self.ring, self.seen, self.addresses = ring, seen, None

    def forget(self):
        super().forget()
        self.addresses = None

    def reads(self):
        notes = [each for shelf in self.ring.shelves for name, each in shelf.notes.items() if name != "slots"]
        stores = [
            each.room for state in self.ring.held[1].layers for each in state.values() if isinstance(each, Growing)
        ]
        return [each.data_ptr() for each in (*self.ring.chosen, *notes, *stores)]

    def __call__(self, forward, ids):
        if self.addresses is None and self.num_eager >= RECORD_AFTER:
            self.addresses = self.reads()
        elif self.addresses is not None:
            assert self.reads() == self.addresses
            self.seen.append(self.num_eager)
        output, self.num_eager = forward(ids), self.num_eager + 1
        assert self.addresses in (None, self.reads())
        return output


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_what_recorded_look_ups_read_stays_where_it_is(policy, monkeypatch):
    model, ids, seen = make_model(), tokens(rows(policy), 118), []  # in a longer one events tie
    make = FarRing.__init__

    def watched(ring, *inputs):
        make(ring, *inputs)
        ring.looked_up = Watched(ring, seen)

    monkeypatch.setattr(FarRing, "__init__", watched)
    monkeypatch.setattr(
        FarRing, "can_record", property(lambda ring: ring.known is not None, lambda ring, can: None), False
    )
    ends = []
    for each in (plain(policy), policy):
        with each.attach(model) as memory, torch.no_grad():
            memory.read(ids[:, :30])
            kept, steps = memory.memory, []
            steps.append(one_by_one(model, ids[:, 30:60], memory))
            apart = kept.copy()
            for cache, start, end in ((kept, 60, 80), (apart, 60, 90), (kept, 80, 90)):  # two memories take turns
                steps.append(one_by_one(model, ids[:, start:end], memory, cache))
            steps.append(model(ids[:, 90:97], cache=kept).logits)
            steps.append(one_by_one(model, ids[:, 97:], memory, kept))
            ends.append(torch.cat(steps, dim=1))
    assert (ends[0] - ends[1]).abs().max() < 1e-5
    assert seen


def test_what_is_kept_before_a_step_is_not_overwritten_by_it():
    model, ids, policy = make_model(), tokens(1, 60), POLICIES[4]
    with policy.attach(model) as memory, torch.no_grad():
        memory.read(ids[:, :30])
        one_by_one(model, ids[:, 30:40], memory)
        before = memory.memory.checkpoint()
        chosen = [state["chosen"] for state in memory.memory.units[0].layers]
        was = [each.clone() for each in chosen]
        wanted = one_by_one(model, ids[:, 40:60], memory)
        assert all(torch.equal(each, other) for each, other in zip(chosen, was, strict=True))
        memory.memory.restore(before)
        assert torch.equal(one_by_one(model, ids[:, 40:60], memory), wanted)


def test_what_is_on_the_shelf_is_not_copied_again():
    model, ids = make_model(), tokens(1, 79)
    policy = InfLLM(**(BLOCKS | {"num_blocks": 30, "num_cached_blocks": 30}))
    with policy.attach(model) as memory:
        memory.read(ids[:, :30])
        before = memory.stats()
        one_by_one(model, ids[:, 30:], memory)
        after = memory.stats()
    assert before["tokens_copied"] < after["tokens_copied"] == 3 * after["blocks"]


@pytest.mark.parametrize("policy", POLICIES[1:6:4], ids=repr)
def test_a_step_that_fails_changes_nothing(policy):
    model, ids = make_model(), tokens(1, 40)
    with policy.attach(model) as memory:
        memory.read(ids[:, :20])
        wanted = one_by_one(model, ids[:, 20:], memory)
        memory.forget()
        memory.read(ids[:, :20])
        found = []
        for at in range(20, 40):
            found.append(one_by_one(model, ids[:, at : at + 1], memory))
            hook = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                one_by_one(model, ids[:, at : at + 1], memory)
            hook.remove()
    assert (torch.cat(found, dim=1) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", [POLICIES[1], POLICIES[5]], ids=repr)
def test_a_model_that_was_moved_is_noticed(policy, device):
    ids, found = tokens(1, 50, device), []
    for each in (plain(policy), policy):
        model = make_model().to(device)
        with each.attach(model) as memory:
            memory.read(ids[:, :20])
            before = one_by_one(model, ids[:, 20:31], memory)
            held = memory._in_place._room
            model.double()
            found.append(torch.cat([before, one_by_one(model, ids[:, 31:], memory)], dim=1))
            assert memory._in_place._room is not held or held is None
    assert found[0].dtype == found[1].dtype == torch.float64
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize("policy", [POLICIES[1], POLICIES[5]], ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family(policy, family):
    model, ids, found = tiny(family), tokens(1, 36), []
    for each in (plain(policy), policy):
        with each.attach(model) as memory:
            memory.read(ids[:, :20])
            found.append(one_by_one(model, ids[:, 20:], memory))
            assert (memory._in_place._room is None) == (each is not policy or ("gemma" in family and family != "gemma"))
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize("scaling", [name for name in SCALINGS if name != "dynamic"])
def test_with_scaled_positions(scaling):
    model, ids, found = make_model(rope_parameters={"rope_theta": 1e4} | SCALINGS[scaling]), tokens(1, 36), []
    for each in (plain(POLICIES[1]), POLICIES[1]):
        with each.attach(model) as memory:
            memory.read(ids[:, :20])
            found.append(one_by_one(model, ids[:, 20:], memory))
    assert (found[0] - found[1]).abs().max() < 1e-5


def test_one_look_up_serves_several_tokens_and_a_longer_input_ends_it():
    """Counted by the look-ups that are made, in both ways."""
    for way in (plain, lambda policy: policy):
        asked: list[int] = []

        class Counted(type(way(POLICIES[1]))):
            def choose(self, layer, queries, before, asked=asked):
                if layer.index == 0 and "representatives" in layer.state:
                    asked.append(layer.num_read)
                return super().choose(layer, queries, before)

        model, ids = tiny(), tokens(1, 60)
        with Counted(**asdict(POLICIES[1])).attach(model) as memory:
            memory.read(ids[:, :20])
            asked.clear()
            one_by_one(model, ids[:, 20:32], memory)
            assert asked == [20, 25, 30]
            memory.read(ids[:, 32:34])
            one_by_one(model, ids[:, 34:40], memory)
            assert asked == [20, 25, 30, 32, 34, 39]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_steps_in_inference_mode_and_outside_of_it(policy):
    model, ids = make_model(), tokens(rows(policy), 60)
    with policy.attach(model) as memory, torch.no_grad():
        memory.read(ids[:, :23])
        wanted = one_by_one(model, ids[:, 23:], memory)
        memory.forget()
        memory.read(ids[:, :23])
        found = []
        for at in range(23, 60):
            with torch.inference_mode(at % 3 == 0):
                found.append(model(ids[:, at : at + 1], cache=memory.memory).logits.clone())
    assert (torch.cat(found, dim=1) - wanted).abs().max() < 1e-5
