"""The side network's parts: which layers it begins from, its place in the cache, gates, gradients."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from recollect.state.bank import MemoryBank
from recollect.state.decoder import decoder_of, read
from recollect.state.sidenet import SideNet

from .decoders import FAMILIES, make_decoder, tokens


def parts(family: str = "llama", **options):
    decoder = decoder_of(make_decoder(family))
    return decoder, SideNet(decoder, **{"reduction": 2, "memory_layer": 1, "num_chunks": 3, "dtype": None} | options)


def test_layers_are_copies_of_the_last_of_their_share_or_of_the_one_that_wrote():
    decoder, side = parts(memory_layer=2)
    assert side.sources == [1, 2]
    for layer, source in zip(side.layers, side.sources, strict=True):
        ours = layer.mlp.down_proj.weight
        theirs = decoder.layers[source].mlp.down_proj.weight
        assert torch.equal(ours, theirs)
        assert ours is not theirs
    assert side.attention is side.layers[1].self_attn
    assert side.attention.gate.tolist() == [0.0] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_it_stands_behind_the_backbone_in_the_cache(family):
    decoder, side = parts(family)
    cache, ids = DynamicCache(), tokens(1, 6)
    reading = read(decoder, input_ids=ids, cache=cache)
    side(reading, None, cache)
    assert len(cache.layers) == 6
    assert [layer.keys.shape[2] for layer in cache.layers] == [6] * 6


def test_a_row_without_memory_attends_to_its_window_alone():
    decoder, side = parts()
    bank = MemoryBank(16, 2)
    bank.add(torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8))
    bank.clear([0])
    reading = read(decoder, input_ids=tokens(2, 6))
    with torch.no_grad():
        with_bank, without = side(reading, bank, DynamicCache()), side(reading, None, DynamicCache())
    torch.testing.assert_close(with_bank[0], without[0])
    assert not torch.allclose(with_bank[1], without[1], atol=1e-3)
    assert side.attention.inner.far is None


def test_all_of_it_learns_from_what_the_bank_says():
    decoder, side = parts()
    bank = MemoryBank(16, 2)
    bank.add(torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8))
    side(read(decoder, input_ids=tokens(1, 6)), bank, DynamicCache()).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in side.parameters())
    assert side.attention.found.shape == (1, 4, 6, 3)
