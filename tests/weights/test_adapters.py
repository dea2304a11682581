"""Adapters start as nothing, stand beside the MLPs, and are all that is trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recollect.benchmarks.digits import make_glyphs, small_vit
from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.adapters import adapter_weights, add_adapters


def test_a_new_adapter_changes_nothing_and_a_trained_one_adds_its_bottleneck():
    model, pictures = small_vit(4, width=12, layers=2).eval(), make_glyphs(2, 2).tensors[0]
    with torch.no_grad():
        plain = model(pictures).logits
        names = add_adapters(model, bottleneck=3, scale=0.5)
        model.eval()
        assert torch.equal(model(pictures).logits, plain)
        assert len(names) == 2
        adapter = model.get_submodule(names[0])
        adapter.adapter_up.normal_()
        x = torch.randn(1, 5, 12)
        low = F.relu(x @ adapter.adapter_down.T)
        assert torch.allclose(adapter(x), adapter.module(x) + 0.5 * low @ adapter.adapter_up.T, atol=1e-6)
        assert not torch.allclose(model(pictures).logits, plain)


def test_all_else_is_frozen_but_the_head():
    model = small_vit(4, width=12, layers=2)
    add_adapters(model)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == set(adapter_weights(model)) | {"classifier.weight", "classifier.bias"}
    with pytest.raises(InvalidInput, match="has an adapter already"):
        add_adapters(model)
    with pytest.raises(InvalidInput, match="matches no module"):
        add_adapters(small_vit(4, width=12, layers=1), pattern="xyz")


def test_they_fit_a_language_model():
    model = tiny_decoder(16, width=16, inner=24, layers=1, heads=2).eval()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        plain = model(ids).logits
        assert add_adapters(model) == ["model.layers.0.mlp"]
        assert torch.equal(model.eval()(ids).logits, plain)
