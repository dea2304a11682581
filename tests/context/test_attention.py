"""One softmax over several parts: the fused form equals the readable one, and both equal plain attention."""

from __future__ import annotations

import pytest
import torch

from recollect.context.attention import Band, Part, Window, attend, attend_fused, attend_in_pieces, sink_window
from recollect.context.cache import Layer


def make_layer(**changes):
    """A layer whose rotation only adds nothing, with scaling 0.5."""
    known = {
        "index": 0,
        "num_layers": 1,
        "state": {},
        "shared": {},
        "num_read": 0,
        "rotate": lambda x, positions, length: x,
        "scaling": 0.5,
        "softcap": None,
        "dropout": 0.0,
        "counts": {},
    }
    return Layer(**(known | changes))


def random_parts(generator, masked=True):
    B, H, G, T, D = 2, 4, 2, 3, 8
    parts = []
    for S in (5, 1, 7):
        keys, values = torch.randn(2, B, G, S, D, generator=generator)
        mask = torch.rand(T, S, generator=generator) < 0.7
        mask[:, 0] = True
        parts.append(
            Part(torch.randn(B, H, T, D, generator=generator), keys, values, mask if masked and S != 1 else None)
        )
    return parts


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_fused_form_equals_the_readable_one_gradients_too(masked, softcap):
    parts = random_parts(torch.Generator().manual_seed(0), masked)
    leaves = [tensor.requires_grad_() for part in parts for tensor in (part.queries, part.keys, part.values)]
    output, weights = attend(parts, make_layer(softcap=softcap))
    fused = attend_fused(parts, make_layer(softcap=softcap))
    torch.testing.assert_close(fused, output)
    torch.testing.assert_close(torch.cat(weights, dim=-1).sum(-1), torch.ones(2, 4, 3))
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad((output * slope).sum(), leaves),
        torch.autograd.grad((fused * slope).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("piece", [1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_running_softmax_over_pieces_equals_the_readable_form(piece, softcap):
    parts = random_parts(torch.Generator().manual_seed(0))
    parts[0].mask = parts[0].mask.clone()
    parts[0].mask[1] = False  # a query that sees nothing of the first part
    ours, expected = make_layer(softcap=softcap), make_layer(softcap=softcap)
    torch.testing.assert_close(attend_in_pieces(parts, ours, piece), attend(parts, expected)[0])
    assert ours.counts == expected.counts


def test_parts_with_equal_queries_are_one_attention():
    generator = torch.Generator().manual_seed(0)
    whole = random_parts(generator, masked=False)[0]
    halves = [Part(whole.queries, whole.keys[:, :, cut], whole.values[:, :, cut]) for cut in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(attend(halves, make_layer())[0], attend([whole], make_layer())[0])
    for head in range(4):  # head h of the queries meets head h // 2 of the keys
        scores = whole.queries[0, head] @ whole.keys[0, head // 2].T * 0.5
        torch.testing.assert_close(
            scores.softmax(-1) @ whole.values[0, head // 2], attend([whole], make_layer())[0][0, head]
        )


def test_the_band_by_hand():
    expected = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    device = torch.device("cpu")
    assert Band(2, most=3).tensor(3, 5, device).int().tolist() == expected
    assert Band(1).tensor(2, 3, device).int().tolist() == [[1, 1, 0], [1, 1, 1]]
    assert Band(4, least=3).tensor(2, 4, device).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


def test_the_keys_in_a_band_are_counted():
    for ahead in range(-3, 9):
        for least in range(4):
            for most in (least + 1, least + 3, 1 << 30):
                band = Band(ahead, least, most)
                seen = band.tensor(5, 6, torch.device("cpu"))
                assert [band.count(query, 6) for query in range(5)] == seen.sum(dim=1).tolist()


def test_the_keys_a_query_looks_at_are_counted():
    layer = make_layer()
    attend_fused(random_parts(torch.Generator().manual_seed(0), masked=False), layer)
    assert int(layer.counts["attended_tokens"]) == 5 + 1 + 7


def test_a_window_keeps_its_last_tokens_and_the_first_ones():
    layer = make_layer()
    keys = torch.arange(6.0).view(1, 1, 6, 1)
    window = Window(3, 2, lambda stream, sinks: (stream, sinks, 6))
    sink_window(layer, torch.zeros(1, 1, 6, 1), keys, keys, window)
    assert layer.state["window_keys"].flatten().tolist() == [3, 4, 5]
    assert layer.state["sink_values"].flatten().tolist() == [0, 1]
