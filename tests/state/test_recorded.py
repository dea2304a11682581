"""Losses as CUDA graphs: what asks for one and what refuses it on any machine, what it computes where there is a GPU."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import masking_utils

from recollect.benchmarks.state_tasks import IGNORED, Labeller
from recollect.state import recorded
from recollect.state.hmt import HMT
from recollect.state.layers import layers, make_layer
from recollect.state.memory_reweaving import MemoryReweaving
from recollect.state.recorded import Recorded
from recollect.state.trainer import Plan, _ahead, learn, train

from .decoders import make_decoder, tokens

LAYERS = [
    *((name, {}) for name in layers()),
    ("attention", {"window_tokens": 8, "conv_tokens": 4}),
    ("linear-attention", {"feature_map": "taylor", "key_size": 8}),
    ("mom", {"num_memories": 0}),
    ("lstm", {"peephole": True}),
    ("lssl", {"learn_matrix": False, "learn_step": False}),
    ("pmi", {"association": "outer"}),
]
IDS = [name + "".join(f" {key} {value}" for key, value in settings.items()) for name, settings in LAYERS]
PLAN = Plan(num_steps=10, learning_rate=1e-3, warmup_steps=2)
ROWS, TOKENS = 8, 40


def labelled(seed):
    """(bits [B, T, 2], whether each differs from the one three before)."""
    bits = torch.randint(2, (ROWS, TOKENS), generator=torch.Generator().manual_seed(seed))
    labels = torch.full_like(bits, IGNORED)
    labels[:, 3:] = bits[:, 3:] ^ bits[:, :-3]
    return F.one_hot(bits, 2).float(), labels


def objective_of(model):
    """The loss of a Labeller, with what its layer adds."""

    def loss(x, labels):
        found = F.cross_entropy(model(x).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return found if model.layer.auxiliary_loss is None else found + model.layer.auxiliary_loss

    return loss


def make(name, settings, device="cpu"):
    return Labeller(2, 2, 32, name, **settings).to(device)


@pytest.mark.parametrize(("name", "settings"), LAYERS, ids=IDS)
def test_no_layer_waits_for_its_device(name, settings):
    """On the device without memory whatever asks for a value fails, as it would in a recording."""
    model = make(name, settings, "meta")
    loss = objective_of(model)(*(each.to("meta") for each in labelled(0)))
    gradients = torch.autograd.grad(
        loss, [each for each in model.parameters() if each.requires_grad], allow_unused=True
    )
    assert sum(each is not None for each in gradients) > 4


def test_learning_is_training_and_batches_come_in_order():
    one, two = make("lstm", {}), make("lstm", {})
    asked = []

    def batch(step):
        asked.append(step)
        return labelled(step)

    learned = learn(one, objective_of(one), batch, PLAN)
    loss = objective_of(two)
    assert learned.losses == train(two, lambda step: loss(*labelled(step)), PLAN)
    assert asked == list(range(10))
    assert not learned.recorded
    assert learned.refused is None
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_batches_are_made_one_step_ahead():
    made = []

    def batch(step):
        made.append(step)
        return labelled(step)

    with _ahead(batch, 5) as given:
        for step in (2, 3, 4):
            assert torch.equal(given(step)[0], labelled(step)[0])
    assert made == [2, 3, 4]


def test_what_a_batch_raises_is_raised():
    def batch(step):
        raise KeyError(step)

    with _ahead(batch, 5) as given, pytest.raises(KeyError, match="0"):
        given(0)


def objective_of_decoder(kind, device):
    """(what is trained, its loss by tokens) of a decoder with a memory around it."""
    backbone = make_decoder().to(device)
    if kind == "hmt":
        model = HMT.from_backbone(backbone, segment_tokens=6, sensory_tokens=2).to(device).train()
        return model, lambda ids: model(ids, labels=ids).loss
    around = MemoryReweaving(backbone, kept_tokens=2, memory_tokens=4, segment_tokens=6).to(device).train()
    return around.adapters, lambda ids: around(ids, labels=ids)["loss"]


@pytest.mark.parametrize("kind", ["hmt", "reweaving"])
def test_no_decoder_waits_for_its_device(kind, monkeypatch):
    monkeypatch.setattr(masking_utils, "is_tracing", lambda tensor=None: True)  # as it is within a recording
    model, loss = objective_of_decoder(kind, "meta")
    found = torch.autograd.grad(loss(tokens(2, 24).to("meta")), list(model.parameters()), allow_unused=True)
    assert sum(each is not None for each in found) > 4


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True  # pyright: ignore


def batch_on_gpu(rows):
    return torch.ones(rows, 3).as_subclass(OnGPU)


def test_a_graph_for_each_shape(monkeypatch):
    shapes = []

    def record(loss, inputs):
        shapes.append(tuple(inputs[0].shape))
        return lambda x: loss(x) + 100

    monkeypatch.setattr(recorded, "_record", record)
    model = torch.nn.Linear(3, 1)
    one = Recorded(model, lambda x: x.sum())
    assert not one.is_recorded
    assert [float(one(batch_on_gpu(rows))) for rows in (2, 4, 2, 4)] == [106, 112, 106, 112]
    assert shapes == [(2, 3), (4, 3)]
    assert one.is_recorded
    monkeypatch.setattr(recorded, "MAX_GRAPHS", 2)
    assert float(one(batch_on_gpu(5))) == 15
    assert float(one(torch.ones(5, 3))) == 15
    one.close()
    assert not one.is_recorded


def test_a_refusal_is_told_and_the_loss_computed(monkeypatch):
    tried = []

    def refuse(loss, inputs):
        tried.append(0)
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        finally:
            raise ValueError("the recording broke off")

    monkeypatch.setattr(recorded, "_record", refuse)
    one = Recorded(torch.nn.Linear(3, 1), lambda x: x.sum())
    assert [float(one(batch_on_gpu(2))) for _ in range(3)] == [6, 6, 6]
    assert len(tried) == 1
    assert re.fullmatch(r"operation not permitted when stream is capturing \([a-z_]+\.py, line \d+\)", one.refused)
    assert not one.is_recorded


@pytest.fixture
def gpu():
    """Skips where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device that PyTorch can use")
    return torch.device("cuda", torch.cuda.current_device())


on_gpu = pytest.mark.filterwarnings("ignore")  # of PyTorch about streams


def gradients(model, loss):
    weights = [each for each in model.parameters() if each.requires_grad]
    return [each for each in torch.autograd.grad(loss, weights, allow_unused=True) if each is not None]


@on_gpu
@pytest.mark.parametrize(("name", "settings"), LAYERS, ids=IDS)
def test_recorded_is_eager_on_a_gpu(gpu, name, settings):
    """Loss and gradients of batches that were not recorded, and a training; -rs lists the layers that are refused."""
    model = make(name, settings, gpu).train()
    objective = objective_of(model)
    one = Recorded(model, objective)
    for seed in range(3):
        given = [each.to(gpu) for each in labelled(seed)]
        ours, theirs = one(*given), objective(*given)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for mine, plain in zip(gradients(model, ours), gradients(model, theirs), strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()) + 1e-7)
    if one.refused:
        pytest.skip(f"recording is refused: {one.refused}")
    assert one.is_recorded
    two, three = make(name, settings, gpu), make(name, settings, gpu)
    learned = learn(two, objective_of(two), labelled, PLAN)
    loss = objective_of(three)
    plain = train(three, lambda step: loss(*(each.to(gpu) for each in labelled(step))), PLAN)
    assert learned.recorded
    assert learned.losses == pytest.approx(plain, rel=2e-3)


@on_gpu
@pytest.mark.parametrize("kind", ["hmt", "reweaving"])
def test_decoders_with_a_memory_on_a_gpu(gpu, kind):
    torch.manual_seed(0)
    model, loss = objective_of_decoder(kind, gpu)
    one = Recorded(model, loss)
    for seed in range(3):
        ids = tokens(4, 24, seed).to(gpu)
        ours, theirs = one(ids), loss(ids)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for mine, plain in zip(gradients(model, ours), gradients(model, theirs), strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()) + 1e-7)
    if one.refused:
        pytest.skip(f"recording is refused: {one.refused}")


@on_gpu
def test_a_loss_that_waits_is_refused_and_leaves_the_gpu_usable(gpu):
    model = make("linear-attention", {}, gpu)
    objective = objective_of(model)
    given = [each.to(gpu) for each in labelled(0)]
    before = torch.cuda.current_stream()
    waits = Recorded(model, lambda x, labels: objective(x, labels) * (1.0 if x.sum().item() > 0 else 2.0))
    torch.manual_seed(3)
    expected = torch.rand(2, device=gpu)
    torch.manual_seed(3)
    torch.testing.assert_close(waits(*given), objective(*given))
    assert waits.refused
    assert torch.equal(torch.rand(2, device=gpu), expected)
    assert torch.cuda.current_stream() == before
    works = Recorded(model, objective)
    torch.testing.assert_close(works(*given), objective(*given), rtol=1e-4, atol=1e-5)
    assert works.is_recorded


@on_gpu
def test_random_numbers_are_drawn_anew_and_by_the_seed_on_a_gpu(gpu):
    model = torch.nn.Linear(64, 64).to(gpu)
    one = Recorded(model, lambda x: F.dropout(model(x), 0.5).square().mean())
    x = torch.ones(4, 64, device=gpu)
    found = []
    for seed in (0, 1, 0, 1):
        torch.manual_seed(seed)
        found.append(float(one(x)))
    assert one.is_recorded
    assert found[:2] == found[2:]
    assert found[0] != found[1]


@on_gpu
def test_a_recorded_run_that_was_cut_off_goes_on_on_a_gpu(gpu, tmp_path):
    whole, cut, fresh = (make("linear-attention", {}, gpu) for _ in range(3))
    plan = replace(PLAN, save_steps=5)
    expected = learn(whole, objective_of(whole), labelled, plan)

    def batch(step):
        if step == 7:
            raise KeyboardInterrupt
        return labelled(step)

    with pytest.raises(KeyboardInterrupt):
        learn(cut, objective_of(cut), batch, plan, tmp_path)
    learned = learn(fresh, objective_of(fresh), labelled, plan, tmp_path)
    assert learned.recorded
    assert learned.losses == pytest.approx(expected.losses, rel=1e-4)


def test_every_layer_is_here():
    assert {name for name, _ in LAYERS} == layers().keys()
    assert all(make_layer(name, 32, **settings).dim == 32 for name, settings in LAYERS)
