"""The side networks adapt, are held, and leave the model as it was."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.digits import STYLES, Perceptron, ResidualNet, make_glyphs, pretrain
from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.checkpoint import load_tree, save_tree
from recollect.weights.ecotta import EcoTTA, entropy_of
from recollect.weights.saved import SavedBytes

from .conftest import assert_same, copies

PARTS = ["parts.0", "parts.1"]


@pytest.fixture(scope="module")
def data():
    return make_glyphs(3, 24)


@pytest.fixture
def net(data):
    return pretrain(ResidualNet(width=8, parts=(1, 1), classes=3), data, num_epochs=6, rate=1e-2)


def attached(net, data, **options) -> EcoTTA:
    eco = EcoTTA(net, PARTS, [data.tensors[0][:2]], **options)
    eco.warm_up([list(data.tensors)] * 10)
    return eco


def batch_of(data):
    return [STYLES["faint"](data.tensors[0][::2])]


def test_the_model_itself_never_changes_and_is_given_back(net, data):
    before, flags = copies(net), [each.requires_grad for each in net.parameters()]
    eco = attached(net, data)
    for _ in range(3):
        eco.step(batch_of(data))
    held = {name.replace(".part.", "."): each for name, each in net.state_dict().items() if ".part." in name}
    assert all(torch.equal(each, before[name]) for name, each in held.items())
    eco.detach()
    assert_same(copies(net), before)
    assert [each.requires_grad for each in net.parameters()] == flags


def test_a_step_answers_as_after_the_distances_and_lowers_the_entropy(net, data):
    eco = attached(net, data, strength=0.0, entropy_margin=1.0)
    batch = batch_of(data)
    before = eco.predict(batch)
    assert torch.allclose(eco.step(batch), before, atol=1e-5)
    for _ in range(5):
        eco.step(batch)
    assert entropy_of(eco.predict(batch)).mean() < entropy_of(before).mean()


def test_the_distance_of_each_part_is_to_the_frozen_part_on_the_same_input(net, data):
    eco = attached(net, data, strength=1.0, entropy_margin=0.0)
    batch = batch_of(data)
    eco.step(batch)
    first = list(eco.stats["gaps"])
    with eco._adapting(), torch.no_grad():
        x = torch.relu(net.stem(batch[0]))
        part = net.parts[0]
        by_hand = (part.norm(part.part(x)) + part.bypass(x) - part.part(x)).abs().mean()
    for _ in range(20):
        eco.step(batch)
    assert eco.stats["gaps"][0] < first[0]
    assert eco.stats["used_share"] == 0.0
    assert float(by_hand) < first[0]  # one step was taken between


def test_computing_again_changes_no_gradient_and_holds_less(net, data):
    found = []
    for again in (False, True):
        eco = attached(net, data, recomputes=again, entropy_margin=1.0)
        with SavedBytes(net) as saved:
            logits = eco.step(batch_of(data))
        found.append((logits, [each.detach().clone() for each in eco.parameters()], saved.peak))
        eco.detach()
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert found[1][2] < found[0][2]


def test_reset_and_a_saved_state(net, data, tmp_path):
    eco = attached(net, data)
    batch = batch_of(data)
    start = eco.predict(batch)
    eco.step(batch)
    save_tree(eco.state_dict(), tmp_path, "eco")
    following = eco.step(batch)
    eco.reset()
    assert torch.equal(eco.predict(batch), start)
    eco.load_state_dict(load_tree(tmp_path, "eco"))
    assert torch.equal(eco.step(batch), following)


def test_with_nothing_confident_and_strength_zero_nothing_is_learned(net, data):
    eco = attached(net, data, strength=0.0, entropy_margin=0.0)
    before = [each.detach().clone() for each in eco.parameters()]
    eco.step(batch_of(data))
    assert all(torch.equal(one, other) for one, other in zip(before, eco.parameters(), strict=True))


def test_one_step_on_the_sum_adds_both_gradients(net, data):
    steps = []
    for options in ({"strength": 0.0}, {"entropy_margin": 0.0}, {}):
        eco = attached(net, data, two_steps=False, **({"strength": 0.5, "entropy_margin": 1.0} | options))
        before = [each.detach().clone() for each in eco.parameters()]
        eco.step(batch_of(data))
        steps.append([one.detach() - two for one, two in zip(eco.parameters(), before, strict=True)])
        eco.detach()
    for entropy, distance, both in zip(*steps, strict=True):
        assert torch.allclose(entropy + distance, both, atol=1e-6)


def test_a_language_model_starts_unchanged_and_adapts():
    model = tiny_decoder(16, width=16, inner=24, layers=2, heads=2).eval()
    batch = {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    with torch.no_grad():
        plain = model(**batch).logits
    eco = EcoTTA(model, ["model.layers.0", "model.layers.1"], batch, bypass="bottleneck", entropy_margin=1.0)
    assert torch.allclose(eco.predict(batch), plain, atol=1e-6)
    for _ in range(3):
        eco.step(batch)
    assert not torch.allclose(eco.predict(batch), plain, atol=1e-6)
    eco.detach()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, plain)


def test_parts_of_vectors_take_a_linear_bypass(data):
    model = pretrain(Perceptron(width=16, classes=3, hidden=2), data, num_epochs=10)
    eco = EcoTTA(model, ["body.1"], [data.tensors[0][:4]], bypass="linear")
    assert eco.warm_up([list(data.tensors)] * 5) < 2.0
    eco.step(batch_of(data))
    assert isinstance(eco.parts[0].bypass[0], torch.nn.Linear)


def test_what_cannot_be_attached_is_refused(net, data):
    example = [data.tensors[0][:2]]
    with pytest.raises(InvalidInput, match="parts: there are none"):
        EcoTTA(net, [], example)
    with pytest.raises(InvalidInput, match="no module 'blocks'"):
        EcoTTA(net, ["blocks"], example)
    with pytest.raises(InvalidInput, match="bypass: 'other'"):
        EcoTTA(net, PARTS, example, bypass="other")  # type: ignore[arg-type]
