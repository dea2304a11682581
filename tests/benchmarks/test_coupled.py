"""The coupled memory: with an empty bank it is the decoder, it learns, and what it wrote before an update is another thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recollect.benchmarks.coupled import Coupled
from recollect.state.adapt import Streams
from recollect.state.longmem import LongMem, LongMemSettings
from recollect.state.trainer import Plan

SETTINGS = LongMemSettings(segment_tokens=8, num_retrieved_tokens=4, chunk_tokens=2, memory_tokens=32)


@pytest.fixture
def backbone() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def ids(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_with_an_empty_bank_it_is_the_decoder(backbone):
    model = Coupled(backbone, SETTINGS, 1).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids(2, 8)), backbone(ids(2, 8)).logits)
    assert len(model.memory) == 0
    model.flush()
    assert len(model.memory) == 16
    with torch.no_grad():
        assert not torch.allclose(model(ids(2, 8)), backbone(ids(2, 8)).logits, atol=1e-3)


def test_it_writes_what_a_bank_of_the_frozen_decoder_holds_until_it_is_trained(backbone):
    text = ids(2, 16)
    frozen = LongMem.from_backbone(backbone, memory_layer=0, segment_tokens=8, num_retrieved_tokens=4, chunk_tokens=2)
    frozen.memorize(text)
    coupled = Coupled(backbone, SETTINGS, 0).eval()
    coupled.memorize(text)
    torch.testing.assert_close(coupled.memory.keys, frozen.memory.keys)
    documents = [ids(1, 60, seed)[0].tolist() for seed in range(4)]
    losses = coupled.adapt(Streams(documents, 2, 8), Plan(num_steps=20, learning_rate=1e-2, warmup_steps=1))
    assert losses[-1] < losses[0]
    assert len(coupled.memory) == 0
    coupled.memorize(text)
    assert (coupled.memory.keys - frozen.memory.keys).abs().max() > 0.05
    assert all(weight.grad is None for weight in backbone.parameters())
