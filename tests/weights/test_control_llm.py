"""Control LLM: the model is unchanged at the start and at weight zero, only twins learn, and pairs become blocks again."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.control_llm import INTERPOLATORS, ControlLLM, diverge, slerp
from recollect.weights.generation import say
from words import tokenizer as make_tokenizer

from .conftest import assert_same, copies

TOKENIZER = make_tokenizer()
IDS = torch.tensor([[0, 4, 5, 6, 7, 8], [0, 9, 10, 11, 2, 2]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS != 2).long(), "labels": IDS.masked_fill(IDS == 2, -100)}


@pytest.fixture
def model():
    return tiny_decoder(len(TOKENIZER), width=16, inner=24, heads=2, layers=4).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=BATCH["attention_mask"]).logits


def learn(expanded, steps=5):
    model = expanded.model
    model.train()
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**BATCH).loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("interpolator", INTERPOLATORS)
def test_expanding_changes_nothing_and_learning_is_undone_to_the_bit(model, interpolator):
    before, weights = logits(model), copies(model)
    expanded = ControlLLM(every=2, interpolator=interpolator).expand(model)
    torch.testing.assert_close(logits(model), before)
    learn(expanded)
    assert not torch.allclose(logits(model), before, atol=1e-3)
    with expanded.forced(0):
        assert torch.equal(logits(model), before)
    expanded.undo()
    assert torch.equal(logits(model), before)
    assert_same(copies(model), weights)
    assert all(each.requires_grad for each in model.parameters())


def test_only_twins_and_what_interpolates_are_trained(model):
    expanded = ControlLLM(every=2).expand(model)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained
    assert all(".twin." in name or name.endswith(("logit", "direction")) for name in trained)
    assert sorted(expanded.pairs) == [1, 3]
    assert expanded.size_bytes() == 4 * sum(each.numel() for each in model.parameters() if each.requires_grad)


def test_the_loss_in_training_contains_the_divergence_without_padding(model):
    expanded = ControlLLM(every=4, divergence="mse", divergence_weight=1000.0).expand(model)
    learn(expanded, 3)
    model.train()
    together = model(**BATCH).loss
    extra = expanded.divergence().detach()
    model.eval()
    assert float(extra) > 0
    torch.testing.assert_close(together.detach(), model(**BATCH).loss.detach() + extra, rtol=1e-4, atol=1e-4)
    pair = expanded.pairs[3]
    counted = BATCH["attention_mask"].bool()
    torch.testing.assert_close(extra, 1000 * pair.divergence[counted].mean().detach())


def test_a_heavier_divergence_keeps_the_twin_nearer(model):
    def apart(weight):
        fresh = tiny_decoder(len(TOKENIZER), width=16, inner=24, heads=2, layers=4)
        expanded = ControlLLM(every=4, divergence="mse", divergence_weight=weight).expand(fresh)
        learn(expanded, 10)
        logits(fresh)
        return float(expanded.pairs[3].divergence.mean())

    assert apart(100.0) < apart(0.0)


@pytest.mark.parametrize("how", ["lerp", "slerp"])
def test_pairs_become_blocks_of_the_original_size(model, how):
    shapes = {name: each.shape for name, each in model.state_dict().items()}
    expanded = ControlLLM(every=2, interpolator="lerp").expand(model)
    learn(expanded)
    logits(model)
    pair = expanded.pairs[1]
    one, two = pair.block.mlp.down_proj.weight.clone(), pair.twin.mlp.down_proj.weight.clone()
    weight = torch.tensor(expanded.weights()[0])
    expanded.merge(how)
    assert {name: each.shape for name, each in model.state_dict().items()} == shapes
    expected = torch.lerp(one, two, weight) if how == "lerp" else slerp(one, two, weight)
    torch.testing.assert_close(model.model.layers[1].mlp.down_proj.weight.detach(), expected)
    assert model.config.num_hidden_layers == 4


def test_generation_with_a_cache_equals_generation_without(model):
    learn(ControlLLM(every=2).expand(model))
    text = "ana lives in the"
    grown = text
    for _ in range(4):
        grown += " " + say(model, TOKENIZER, [grown], 1)[0]
    assert f"{text} {say(model, TOKENIZER, [text], 4)[0]}" == grown


def test_slerp_keeps_to_the_arc_and_has_finite_gradients_at_the_same_point():
    one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(slerp(one, two, torch.tensor(0.5)), torch.tensor([[2**-0.5, 2**-0.5]]))
    same = torch.tensor([[1.0, 2.0]], requires_grad=True)
    slerp(same, same.detach(), torch.tensor(0.5)).sum().backward()
    assert torch.isfinite(same.grad).all()


def test_divergences_are_those_computed_by_hand():
    one, two = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert float(diverge("mse", one, two)) == 5.0
    assert float(diverge("cosine", one, two)) == 0.5
    assert float(diverge("dot", one, two)) == 0.5 * 0.5 + 0.5 * 4
    assert float(diverge("cosine", one, 2 * one)) == 0.0


def test_what_cannot_be_is_refused(model):
    with pytest.raises(InvalidInput, match="interpolator: 'mean'"):
        ControlLLM(interpolator="mean")
    with pytest.raises(InvalidInput, match="every: 5 is more than"):
        ControlLLM(every=5).expand(model)
    with pytest.raises(InvalidInput, match="no list of blocks"):
        ControlLLM().expand(torch.nn.Linear(2, 2))
    with pytest.raises(InvalidInput, match="weights: none have been measured"):
        ControlLLM(every=2).expand(model).merge()
