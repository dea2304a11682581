"""Rotation at attention time is the model's own rotation."""

from __future__ import annotations

import sys

import pytest
import torch

from recollect.context.rotary import Rotary, Unrotated

from .conftest import SCALINGS, make_model, tiny


def rotary_of(model):
    module = sys.modules[type(model.model.layers[0].self_attn).__module__]
    return Rotary(model.model.rotary_emb, module.apply_rotary_pos_emb), module.apply_rotary_pos_emb


@pytest.mark.parametrize("scaling", ["none", *SCALINGS])
@pytest.mark.parametrize("length", [5, 64, 100])
def test_it_turns_as_the_model_does_at_every_length(scaling, length):
    model = make_model(rope_parameters={"rope_theta": 1e4} | SCALINGS.get(scaling, {"rope_type": "default"}))
    rotary, apply = rotary_of(model)
    x, positions = torch.randn(2, 4, length, 8), torch.arange(length)
    for _ in range(2):  # a longer input in between leaves no trace
        turned = rotary.rotate(x, positions, length)
        rotary.rotate(torch.randn(1, 1, 200, 8), torch.arange(200), 200)
    cos, sin = make_model(rope_parameters=model.config.rope_parameters).model.rotary_emb(x, positions[None])
    torch.testing.assert_close(turned, apply(x, x, cos, sin)[0])
    torch.testing.assert_close(rotary.rotate_back(turned, positions, length), x)


def test_products_depend_on_distances_only():
    rotary, _ = rotary_of(tiny())
    query, key = torch.randn(2, 1, 1, 1, 8)
    products = [
        (rotary.rotate(query, torch.tensor([at + 7]), 64) * rotary.rotate(key, torch.tensor([at]), 64)).sum()
        for at in (0, 20, 50)
    ]
    torch.testing.assert_close(products[0], products[1])
    torch.testing.assert_close(products[0], products[2])


def test_only_part_of_the_head_is_turned_where_the_model_says_so():
    rotary, _ = rotary_of(tiny("phi"))
    x = torch.randn(1, 2, 3, 8)
    turned = rotary.rotate(x, torch.arange(3), 3)
    assert rotary.width() == 4
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert not torch.equal(turned[:, :, 1:, :4], x[:, :, 1:, :4])


def test_a_family_that_pairs_neighbours_is_turned_by_its_own_function():
    def apply(queries, keys, cos, sin):
        def turned(x):
            pairs = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
            return x * cos[:, None] + pairs * sin[:, None]

        return turned(queries), turned(keys)

    rotary, x, positions = Rotary(tiny().model.rotary_emb, apply), torch.randn(2, 3, 5, 8), torch.arange(5)
    cos, sin = rotary.angles(x, positions, 5)
    torch.testing.assert_close(rotary.rotate(x, positions, 5), apply(x, x, cos, sin)[0])


@pytest.mark.parametrize("scaling", ["none", "yarn"])
def test_place_0_turns_nothing_but_may_stretch(scaling):
    parameters = {"rope_theta": 1e4} | SCALINGS.get(scaling, {"rope_type": "default"})
    rotary, _ = rotary_of(make_model(rope_parameters=parameters))
    x = torch.randn(2, 4, 3, 8)
    there = rotary.rotate(x, torch.zeros(3, dtype=torch.long), 9)
    torch.testing.assert_close(rotary.rotate(x, slice(1), 9), there)
    assert torch.equal(there, x) == (scaling == "none")
    torch.testing.assert_close(rotary.rotate(x, slice(7, 8), 9), rotary.rotate(x, torch.full((3,), 7), 9))
    torch.testing.assert_close(rotary.rotate(x, slice(4, 7), 9), rotary.rotate(x, torch.arange(4, 7), 9))


def test_the_stand_in_does_not_rotate():
    _, apply = rotary_of(tiny())
    x = torch.randn(2, 4, 3, 8)
    cos, sin = Unrotated(8)(torch.zeros(2, 3, 32))
    assert torch.equal(apply(x, x, cos, sin)[0], x)
