"""Memory Reweaving: the decoder until the gates open; then earlier segments are felt through what was kept, and only so."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recollect.errors import InvalidInput
from recollect.state.layer import load_state, save_state, size_bytes
from recollect.state.memory_reweaving import MemoryReweaving

IDS = torch.randint(0, 40, (2, 21), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).eval()


def reweaving(backbone, is_open=True):
    torch.manual_seed(1)
    model = MemoryReweaving(backbone, memory_tokens=7, kept_tokens=3, segment_tokens=6)
    if is_open:
        for adapter in model.adapters:
            torch.nn.init.constant_(adapter.share, 1.0)
            torch.nn.init.constant_(adapter.gate.bias, 2.0)
    return model.eval()


def test_with_closed_gates_each_segment_is_read_by_the_decoder_alone(backbone):
    model = reweaving(backbone, is_open=False)
    with torch.no_grad():
        alone = torch.cat([backbone(IDS[:, start : start + 6]).logits for start in (0, 6, 12, 18)], 1)
        assert torch.equal(model(IDS)["logits"], alone)
        assert torch.equal(backbone(IDS[:, :6]).logits, alone[:, :6])  # no hook is left behind
    assert not backbone._forward_hooks
    assert not any(layer._forward_hooks for layer in backbone.model.layers)


def test_an_earlier_segment_is_felt_through_what_was_kept(backbone):
    model, changed = reweaving(backbone), IDS.clone()
    changed[:, :6] = (changed[:, :6] + 1) % 40
    with torch.no_grad():
        one, two = model(IDS), model(changed)
        assert (one["logits"][:, 6:] - two["logits"][:, 6:]).abs().max() > 1e-3
        state = model(IDS[:, :12])["state"]
        assert torch.equal(model(IDS[:, 12:], state)["logits"], one["logits"][:, 12:])
        mixed = {
            name: torch.cat([one[:1], two[1:]])
            for name, one, two in zip(state, state.values(), model(changed[:, :12])["state"].values(), strict=True)
        }
        together = model(IDS[:, 12:], mixed)["logits"]
        assert torch.allclose(together[0], one["logits"][0, 12:], atol=1e-6)  # rows do not feel each other's memory
        assert torch.allclose(together[1], two["logits"][1, 12:], atol=1e-6)


def test_the_state_is_bounded_saved_and_the_most_surprising(backbone, tmp_path):
    model = reweaving(backbone)
    with torch.no_grad():
        state = model(IDS)["state"]
        assert state["latents"].shape == (2, 7, 3, 16)
        assert state["ages"].tolist() == [[3, 2, 2, 2, 1, 1, 1]] * 2
        assert size_bytes(state) == 2 * 7 * (3 * 16 * 4 + 8)
        save_state(state, tmp_path / "state.safetensors")
        loaded = load_state(tmp_path / "state.safetensors")
        assert torch.equal(model(IDS[:, :6], loaded)["logits"], model(IDS[:, :6], state)["logits"])
    assert model.choose(torch.tensor([[0.0, 3.0, 1.0, 9.0, 2.0, 0.5]])).tolist() == [[1, 3, 4]]


def test_only_the_adapters_learn(backbone):
    model = reweaving(backbone).train()
    before = {name: each.clone() for name, each in backbone.state_dict().items()}
    output = model(IDS, labels=IDS)
    output["loss"].backward()
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in model.adapters.parameters())
    assert all(each.grad is None for each in backbone.parameters())
    assert all(torch.equal(before[name], each) for name, each in backbone.state_dict().items())
    assert not output["state"]["latents"].requires_grad


def test_reconstruction_of_a_copy_costs_nothing(backbone):
    model = reweaving(backbone)
    latents = torch.randn(1, 5, 1, 16).expand(-1, -1, 3, -1)
    for adapter in model.adapters:
        adapter.reconstruct = lambda x: torch.nn.functional.layer_norm(x, (16,))
    assert model.reconstruction_loss(latents) < 1e-10


def test_generation_goes_on_from_the_segments_before(backbone, tmp_path):
    model = reweaving(backbone)
    new = model.generate(IDS[:, :14], max_new_tokens=8)
    assert new.shape == (2, 8)
    ids = IDS[:, :14]
    with torch.no_grad():
        for token in new.T:  # each token is the likeliest after all before it, read at once
            assert torch.equal(model(ids)["logits"][:, -1].argmax(-1), token)
            ids = torch.cat([ids, token[:, None]], 1)
    model.save_adapters(str(tmp_path / "adapters.safetensors"))
    other = reweaving(backbone, is_open=False)
    other.load_adapters(str(tmp_path / "adapters.safetensors"))
    assert torch.equal(other.generate(IDS[:, :14], max_new_tokens=8), new)
    with pytest.raises(InvalidInput, match="holds adapters of another model"):
        MemoryReweaving(backbone, layers=[0]).load_adapters(str(tmp_path / "adapters.safetensors"))


def test_wrong_settings_are_refused(backbone):
    with pytest.raises(InvalidInput, match=r"layers: \[9\] are not layers of a model with 4"):
        MemoryReweaving(backbone, layers=[9])
    with pytest.raises(InvalidInput, match="kept_tokens: must be at least 1"):
        MemoryReweaving(backbone, kept_tokens=0)
