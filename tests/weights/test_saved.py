"""Bytes held for backward passes, counted by hand on small graphs."""

from __future__ import annotations

import torch
from torch import nn

from recollect.weights.saved import SavedBytes


def test_each_storage_is_counted_once_as_long_as_it_is_held_and_weights_are_not():
    layer, x = nn.Linear(8, 4, bias=False), torch.randn(16, 8)
    with SavedBytes(layer) as saved:
        out = layer(x)  # holds x for the gradient of the weight, and the weight itself
        assert saved.now == 16 * 8 * 4
        squared = out * out  # holds out twice, in one storage
        assert saved.now == (16 * 8 + 16 * 4) * 4
        squared.sum().backward()
    assert saved.now == 0
    assert saved.peak == (16 * 8 + 16 * 4) * 4


def test_frozen_layers_hold_nothing_and_two_passes_count_the_larger():
    layer = nn.Linear(8, 8).requires_grad_(False)
    with SavedBytes(layer) as saved:
        layer(torch.randn(4, 8))
        assert saved.now == 0
        for rows in (2, 5, 3):
            x = torch.randn(rows, 8, requires_grad=True)
            (x * x).sum().backward()
    assert saved.peak == 5 * 8 * 4
    assert saved.now == 0
