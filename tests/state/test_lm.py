"""MemoryLM with every layer: trains, saves, loads, generates; padding, turns, beams, truncated gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from recollect.errors import InvalidInput, NotFound, Unavailable
from recollect.state.layers import layers
from recollect.state.lm import MemoryLM, MemoryLMConfig, StateCache, memory_lm

from .conftest import CASES, DIM, Case

VOCABULARY = 20
CAUSAL = [case for case in CASES if layers()[case.name].causal]


def make(*cases: Case | str) -> MemoryLM:
    blocks = [case if isinstance(case, str) else {"layer": case.name, **case.settings} for case in cases]
    model = memory_lm(VOCABULARY, DIM, blocks, initializer_range=0.5, pad_token_id=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (2, 13), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=CAUSAL, ids=str)
def model(request: pytest.FixtureRequest) -> MemoryLM:
    """A model with each causal layer between attention and an LSTM."""
    torch.manual_seed(0)
    return make(request.param, "lstm")


def close(ours: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)


def test_generation_carries_the_state(model, ids):
    """Greedy and beam search give what they give when everything is read anew at each step."""
    for way in ({}, {"num_beams": 3}):
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False, **way}
        if not any(block.layer.prefix_tokens for block in model.blocks):
            assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))
    torch.manual_seed(0)
    sampled = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=True)
    assert sampled.shape == (2, 16)


def test_saved_and_loaded_by_transformers(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is MemoryLM
    assert again.lm_head.weight is again.embed.weight
    close(again(ids).logits, model(ids).logits)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(ids).logits.isfinite().all()


def test_a_step_of_training_lowers_the_loss(model, ids):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    loss = model(ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    assert model(ids, labels=ids).loss < loss
    assert model(ids).cache is None


def test_left_padding_is_kept_out_of_every_state(ids):
    model = make("attention", "linear-attention", "lstm")
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    padded = model(ids * mask, attention_mask=mask)
    close(padded.logits[:1, 4:], model(ids[:1, 4:]).logits)
    close(padded.logits[1:], model(ids[1:]).logits)
    together = model.generate(ids * mask, attention_mask=mask, max_new_tokens=5, do_sample=False)
    alone = model.generate(ids[:1, 4:], attention_mask=mask[:1, 4:], max_new_tokens=5, do_sample=False)
    assert torch.equal(together[:1, 13:], alone[:, 9:])
    whole = model(ids * mask, attention_mask=mask).logits
    first = model((ids * mask)[:, :2], attention_mask=mask[:, :2])
    close(model((ids * mask)[:, 2:], attention_mask=mask, cache=first.cache).logits, whole[:, 2:])


def test_right_padding_is_for_training_only(ids):
    model = make("lstm")
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    close(model(ids, attention_mask=mask, use_cache=False).logits[:, :9], model(ids[:, :9]).logits)
    with pytest.raises(InvalidInput, match="attention_mask: only left padding"):
        model(ids, attention_mask=mask)
    mask[0, 11:] = 1
    with pytest.raises(InvalidInput, match="attention_mask: only left padding"):
        model(ids, attention_mask=mask, use_cache=False)
    with pytest.raises(InvalidInput, match="attention_mask: has 5 columns; give 13"):
        model(ids, attention_mask=mask[:, :5])


def test_turns_go_on_from_a_memory_that_was_saved(ids, tmp_path):
    model = make("linear-attention", "attention")
    memory = model(ids[:, :9]).cache
    memory.save(tmp_path / "memory.safetensors")
    loaded = StateCache.load(tmp_path / "memory.safetensors")
    assert loaded.num_read == 9
    assert loaded.size_bytes() == memory.size_bytes() > 0
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    mask = torch.ones_like(ids)
    reply = model.generate(ids, attention_mask=mask, cache=loaded, max_new_tokens=4, do_sample=False)
    assert torch.equal(reply, whole)
    with pytest.raises(NotFound, match="path: there is no file"):
        StateCache.load(tmp_path / "nothing")
    with pytest.raises(Unavailable, match="crop: a state cannot be wound back"):
        memory.crop(1)


def test_rows_of_a_memory_are_chosen_and_repeated(ids):
    model = make("lstm")
    memory = model(ids[:, :9]).cache
    memory.batch_repeat_interleave(2)
    rows = torch.tensor([0, 0, 1, 1])
    close(model(ids[rows, 9:], cache=memory).logits, model(ids).logits[rows, 9:])
    memory.batch_select_indices(torch.tensor([2]))
    close(model(ids[1:, 9:], cache=memory).logits, model(ids).logits[1:, 9:])


def test_documents_in_one_sequence_do_not_see_each_other(ids):
    model = make("lstm", "attention")
    reset = torch.zeros_like(ids, dtype=torch.bool)
    reset[:, 6] = True
    close(model(ids, reset=reset).logits[:, 6:], model(ids[:, 6:]).logits)


def test_blocks_without_an_mlp_and_heads_of_their_own(ids):
    model = memory_lm(VOCABULARY, DIM, ["lstm"], mlp_ratio=0, tie_word_embeddings=False)
    assert not any("mlp" in name for name, _ in model.named_parameters())
    assert model.lm_head.weight is not model.embed.weight
    assert model(ids, logits_to_keep=1).logits.shape == (2, 1, VOCABULARY)
    assert model(inputs_embeds=model.embed(ids)).logits.shape == (2, 13, VOCABULARY)


def test_what_cannot_model_language_is_refused():
    with pytest.raises(InvalidInput, match="blocks: bidirectional-rnn looks ahead"):
        memory_lm(VOCABULARY, DIM, ["bidirectional-rnn"])
    with pytest.raises(InvalidInput, match="names no layer"):
        MemoryLMConfig(blocks=[{"dim": 3}])
    with pytest.raises(InvalidInput, match="layer: 'lsdm' is not known"):
        memory_lm(VOCABULARY, DIM, ["lsdm"])
