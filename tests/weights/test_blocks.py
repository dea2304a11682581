"""A decoder's blocks are found, and those below a layer run once where nothing in them is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import InvalidInput
from recollect.weights.blocks import decoder_blocks, run_once_below


def test_the_list_of_blocks_is_found_with_its_place():
    model = tiny_decoder(12, width=8, inner=8, heads=2, layers=3)
    blocks, (owner, name) = decoder_blocks(model)
    assert len(blocks) == 3
    assert getattr(owner, name) is blocks
    with pytest.raises(InvalidInput, match="model: Linear has no list of blocks"):
        decoder_blocks(nn.Linear(2, 2))


def test_blocks_below_run_once_and_the_rest_learns_as_ever():
    model = tiny_decoder(12, width=8, inner=8, heads=2, layers=3)
    blocks, _ = decoder_blocks(model)
    module: Any = model.model.layers[1].mlp.down_proj
    runs = [0, 0, 0]
    for number, block in enumerate(list(blocks)):

        def count(module, args, output, number=number):
            runs[number] += 1

        block.register_forward_hook(count)
    ids = torch.randint(3, 12, (2, 5), generator=torch.Generator().manual_seed(0))

    def gradient():
        return torch.autograd.grad(model(input_ids=ids, labels=ids).loss, module.weight)[0]

    wanted, before = gradient(), list(blocks)
    runs[:] = [0, 0, 0]
    with run_once_below(model, module):
        found = [gradient() for _ in range(3)]
    assert runs == [1, 3, 3]
    assert all(torch.equal(each, wanted) for each in found)
    assert list(blocks) == before
