"""PMI: what alpha and top_k mean, no order among perceptions, the paper's association, and what is ours in it."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.pmi import PMI

SMALL = {"num_slots": 4, "num_segments": 3, "num_heads": 2, "head_size": 4, "top_k": 2}


def made(**settings) -> PMI:
    torch.manual_seed(0)
    return PMI(8, **SMALL | settings)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))


def test_with_alpha_one_it_is_a_shared_workspace(x):
    layer = made(alpha=1.0)
    state = layer.initial_state(2)
    other = state | {"lasting": torch.randn_like(state["lasting"])}
    torch.testing.assert_close(layer(x, state)[0], layer(x, other)[0])
    layer = made()
    assert not torch.equal(layer(x, state)[0], layer(x, other)[0])


def test_with_room_for_all_the_competition_is_soft(x):
    layer = made(top_k=6)
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    heads = [
        torch.softmax(q[..., part] @ k[..., part].transpose(1, 2), -1) @ v[..., part]
        for part in (slice(4), slice(4, 8))
    ]
    expected = layer.out(torch.cat(heads, dim=-1))
    torch.testing.assert_close(layer._attend(x, x, 6), expected)
    torch.testing.assert_close(layer._attend(x, x), expected)
    assert not torch.allclose(layer._attend(x, x, 2), expected, atol=1e-4)


def test_the_order_of_perceptions_is_nothing(x):
    layer, order = made(), torch.randperm(6)
    y, state = layer(x)
    moved, other = layer(x[:, order])
    torch.testing.assert_close(moved, y[:, order])
    torch.testing.assert_close(other["working"], state["working"])


def test_working_memory_begins_as_rows_of_the_identity():
    state = made().initial_state(3)
    assert torch.equal(state["working"], torch.eye(4, 8).expand(3, -1, -1))
    assert torch.equal(state["lasting"][0], state["lasting"][2])
    assert state["lasting"].min() >= 0


def test_the_papers_association_forgets_its_segments_and_then_stands_still(x):
    """All segments become one as the wide sum outweighs them; a layer-normed memory sums to 0, and so nothing is added."""
    torch.manual_seed(0)
    layer = PMI(256, num_heads=2, head_size=4)
    x = torch.randn(2, 6, 256)
    _, first = layer(x)
    lasting = first["lasting"]
    likeness = torch.cosine_similarity(lasting[:, 0], lasting[:, 1], dim=-1)
    assert likeness.min() > 0.99
    _, second = layer(torch.randn(2, 6, 256), first)
    torch.testing.assert_close(second["lasting"], lasting, atol=1e-3, rtol=1e-3)


def test_outer_products_gather_what_comes(x):
    layer = made(association="outer")
    _, first = layer(x)
    _, second = layer(x.flip(1) + 1.0, first)
    assert (second["lasting"] - first["lasting"]).abs().max() > 1e-2
    assert first["lasting"].shape == (2, 3, 8, 8)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match="association: 'inner' is not known; use scalar, outer"):
        made(association="inner")
    with pytest.raises(InvalidInput, match="alpha: must be 0 to 1"):
        made(alpha=1.5)
