"""HiP: the search by hand and against exact top-k, attention against a whole mask, causality, and no token lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from recollect.context.hip import HiP, block_attention, rate, search
from recollect.errors import InvalidInput

from .conftest import LENGTH, logits_of, make_model
from .test_attention import make_layer
from .test_think import turn


def small(**changes) -> HiP:
    known = {
        "num_sink_tokens": 2,
        "num_far_tokens": 4,
        "window_tokens": 3,
        "query_block_tokens": 4,
        "query_stride_tokens": 1,
        "refresh_tokens": 1,
        "num_dense_layers": 0,
    }
    return HiP(**(known | changes))


def line(values) -> torch.Tensor:
    """Keys [1, S, 1, 1] of these numbers."""
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def found_by(keys: torch.Tensor, num: int, first: int = 0, end: int | None = None, block: int = 1) -> list[int]:
    ends = torch.tensor([keys.shape[1] // block if end is None else end])
    return search(torch.ones(1, 1, 1, 1, 1), keys, ends, first, num, block, rate)[0].flatten().tolist()


def test_the_search_by_hand():
    # Ranges 0-3 and 4-7; their halves are judged by 1, 3, 5, 7 (scores 1, 0, 2, 4), and those of 4-5 and 6-7 one by one.
    assert found_by(line([0, 1, 9, 0, 0, 2, 5, 4]), 2) == [6, 7]  # 9 stands alone in a dull range and is missed
    assert found_by(line([0, 1, 9, 8, 0, 2, 5, 4]), 2) == [2, 3]  # with a like neighbour it is found
    assert found_by(line([9, 9, 0, 1, 0, 0, 5, 4]), 2, first=2) == [6, 7]  # what lies before is not searched
    assert found_by(line([0, 0, 0, 3, 0, 9]), 4, end=3) == [-1, 0, 1, 2]  # no more than there are


@pytest.mark.parametrize(("length", "num"), [(100, 8), (256, 16), (333, 7)])
def test_in_smooth_keys_it_finds_the_exact_best_blocks(length, num):
    places = torch.arange(float(length))
    for middle in (0.2, 0.5, 0.83):
        keys = line((-((places - middle * length) / length).abs()).tolist())
        best = keys.flatten().topk(num).indices.sort().values
        found = torch.tensor(found_by(keys, num))
        assert (found[:, None] == best).any(0).float().mean() >= 0.85  # but for ties at the border
        assert int(keys.argmax()) in found


def test_what_it_finds_is_ascending_without_doubles_and_before_the_near_tokens():
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 2, 5, 3, 4, generator=generator), torch.randn(2, 90, 2, 4, generator=generator)
    ends = torch.tensor([0, 2, 9, 25, 44])
    chosen, products = search(queries, keys, ends, 1, 6, 2, rate)
    assert chosen.shape == (2, 2, 5, 6)
    for number, end in enumerate(ends.tolist()):
        for row in chosen[:, :, number].flatten(0, 1).tolist():
            known = [block for block in row if block >= 0]
            assert known == sorted(set(known))
            assert len(known) == min(6, max(0, end - 1))
            assert all(1 <= block < end for block in known)
    assert products == 2 * 2 * 5 * 3 * 3 * 12 * 2  # three rounds from ranges of 8 blocks to 1


def test_a_block_is_rated_by_its_best_key_and_its_best_query():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 1, 2, 2)
    keys = torch.tensor([[1.0, 0], [0, 7], [2, 3], [-1, -2]]).view(1, 4, 1, 2)
    assert rate(queries, keys, torch.tensor([0, 1]).view(1, 1, 1, 2), 2).flatten().tolist() == [7.0, 3.0]


def test_block_attention_equals_attention_under_a_whole_mask():
    generator = torch.Generator().manual_seed(0)
    B, H, G, T, S, D, q, b = 2, 4, 2, 10, 40, 8, 4, 2
    queries = torch.randn(B, H, T, D, generator=generator)
    keys, values = torch.randn(2, B, S, G, D, generator=generator)
    ends = torch.tensor([11, 13, 15])
    chosen = torch.stack([torch.randperm(11, generator=generator)[:5] for _ in range(B * G * 3)]).view(B, G, 3, 5)
    chosen[0, 1, 1, 2:] = -1
    near = keys[:, 10:].transpose(1, 2)
    ours = block_attention(queries, queries, keys, near, values, chosen, ends, q, b, 0.3)
    for row in range(B):
        for head in range(H):
            for token in range(T):
                number, at = token // q, S - T + token
                blocks = chosen[row, head // 2, number].tolist()
                seen = [block * b + each for block in blocks if block >= 0 for each in range(b)]
                seen += range(int(ends[number]) * b, at + 1)
                weights = (keys[row, seen, head // 2] @ queries[row, head, token] * 0.3).softmax(0)
                expected = weights @ values[row, seen, head // 2]
                torch.testing.assert_close(ours[row, head, token], expected)


@pytest.mark.parametrize("chunk", [1, 5, 512])
@pytest.mark.parametrize("changes", [{}, {"refresh_tokens": 4}, {"query_block_tokens": 3, "key_block_tokens": 1}])
def test_when_the_search_covers_everything_it_is_full_attention(ids, chunk, changes):
    model = make_model()
    with small(num_far_tokens=32, chunk_tokens=chunk, **changes).attach(model):
        ours = logits_of(model, ids)
    torch.testing.assert_close(ours, logits_of(model, ids), atol=1e-5, rtol=1e-5)


def test_what_comes_later_changes_nothing(ids):
    model, changed = make_model(), ids.clone()
    changed[:, 17:] = 3
    with small(query_block_tokens=5).attach(model):
        one, other = logits_of(model, ids), logits_of(model, changed)
    assert (one[:, 17:] - other[:, 17:]).abs().max() > 0.1
    # A query block is one set of keys, chosen by all its queries; blocks that end before the change know nothing of it.
    torch.testing.assert_close(one[:, :15], other[:, :15], atol=0, rtol=0)


def test_a_decoded_token_uses_the_last_search_until_it_is_due(model, ids):
    with small(refresh_tokens=4).attach(model) as memory:
        memory.read(ids[:, :19])
        seen = []
        for token in range(19, LENGTH):
            memory.read(ids[:, token : token + 1])
            state = memory.memory.units[0].layers[0]
            seen.append(int(state["host_end"][0]))
    assert seen == [8, 9, 9, 9, 9]  # searched at 19, the first, and at 20: (19 - 2) // 2 and (20 - 2) // 2


def test_the_search_grows_as_t_log_t(model):
    products = []
    for length in (256, 512, 1024, 2048):
        tokens = torch.randint(2, 60, (1, length), generator=torch.Generator().manual_seed(0))
        with small(num_far_tokens=16, query_block_tokens=32, query_stride_tokens=8).attach(model) as memory:
            memory.read(tokens)
            products.append(memory.stats()["search_products"])
            assert memory.stats()["attended_tokens"] <= 2 + 16 + 3 + 32 + 1
    assert all(1.9 < more / less < 2.6 for less, more in pairwise(products))


def test_dense_layers_attend_to_everything(ids):
    model = make_model()
    with small(num_dense_layers=2, chunk_tokens=7).attach(model):
        ours = logits_of(model, ids)
    torch.testing.assert_close(ours, logits_of(model, ids), atol=1e-5, rtol=1e-5)


def test_far_keys_stand_at_one_distance_when_asked():
    """The same tokens a thousand positions later, behind the same first ones: only near distances count."""
    outputs = []
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 1, 20, 8, generator=generator)
    for distance in (9, None):
        policy = small(num_far_tokens=32, far_distance_tokens=distance)
        layer = make_layer(rotate=turn)
        policy.attend(layer, queries[:, :, :19], keys[:, :, :19], values[:, :, :19])
        layer = replace(layer, num_read=19)
        outputs.append(policy.attend(layer, *(x[:, :, 19:] for x in (queries, keys, values)))[0, 0, 0])
    at = torch.arange(20)
    begin = 2 + (19 - 3 + 1 - 2) // 2 * 2
    far = turn(queries[0, 0, 19:], torch.tensor([9]))[0] @ keys[0, 0, :begin].T
    near = turn(queries[0, 0, 19:], at[19:])[0] @ turn(keys[0, 0], at)[begin:].T
    expected = (torch.cat([far, near]) * 0.5).softmax(0) @ values[0, 0]
    torch.testing.assert_close(outputs[0], expected, atol=1e-5, rtol=1e-5)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"num_sink_tokens": 3}, "num_sink_tokens"),
        ({"num_far_tokens": 5}, "num_far_tokens"),
        ({"num_far_tokens": 0}, "num_far_tokens"),
        ({"far_distance_tokens": 8, "num_dense_layers": 1}, "num_dense_layers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, field):
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        small(**wrong)
