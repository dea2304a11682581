"""InfLLM: every token is seen once, representatives and look-up by hand, and what the two replacement rules evict."""

from __future__ import annotations

import pytest
import torch

from recollect.context.far import representative
from recollect.context.growing import Growing
from recollect.context.infllm import InfLLM
from recollect.errors import InvalidInput

from .conftest import logits_of, make_model
from .stepwise import stepwise_logits
from .test_attention import make_layer


def small(**changes) -> InfLLM:
    known = {
        "num_first_tokens": 2,
        "window_tokens": 6,
        "block_tokens": 3,
        "num_blocks": 2,
        "num_cached_blocks": 3,
        "chunk_tokens": 4,
    }
    return InfLLM(**(known | changes))


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_with_every_block_fetched_each_token_is_seen_once_near_or_far(ids, chunk):
    """Tokens in a chunk's border region must not be counted both as near and as far."""
    model = make_model(num_hidden_layers=1)

    def place(i: int) -> tuple[list[int], list[int], list[int]]:
        return list(range(i + 1)), [0] * (i + 1), [min(i - j, 5) for j in range(i + 1)]

    with small(num_blocks=9, num_cached_blocks=9, chunk_tokens=chunk).attach(model) as memory:
        ours = logits_of(model, ids)
        assert memory.stats()["blocks"] == 2 * 5  # (24 tokens - 2 first - 6 in the window) // 3, for each row
    torch.testing.assert_close(ours, stepwise_logits(model, ids, place), atol=1e-5, rtol=1e-5)


def test_representatives_are_the_keys_with_most_attention_in_each_head():
    keys = torch.arange(4.0)[None, None, :, None].expand(1, 2, 4, 1) + torch.tensor([0.0, 10.0])[None, :, None, None]
    mass = torch.tensor([[[9.0, 0, 0, 8], [0, 9, 8, 0], [0, 0, 8, 9], [1, 2, 3, 4]]])  # [rows, 4 query heads, 4 tokens]
    assert representative(keys, mass, 2).tolist() == [[1.5, 1.5, 12.5, 12.5]]
    assert representative(keys, mass, 9).tolist() == [[1.5, 1.5, 11.5, 11.5]]


def test_the_blocks_that_match_the_queries_of_all_heads_are_chosen():
    layer = make_layer(state={"representatives": Growing(torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]]))})
    queries = torch.tensor([[[[0.0, 3.0], [2.0, 1.0]], [[4.0, -1.0], [2.0, 1.0]]]])  # means: 1, 2 and 3, 0
    assert small(num_blocks=1).choose(layer, queries, None).tolist() == [[2]]  # products 1, 2 + 0, 3
    assert small(num_blocks=2).choose(layer, queries, None).tolist() == [[2, 1]]


def stored(num_blocks: int = 6):
    """A layer with blocks whose every number is the block's own."""
    tokens = torch.arange(float(num_blocks)).repeat_interleave(3).view(1, -1, 1, 1, 1).expand(-1, -1, 2, -1, -1)
    return make_layer(
        state={
            "host_tokens": Growing(tokens),
            "representatives": Growing(torch.zeros(1, num_blocks, 1)),
        }
    )


def bring(policy, layer, *wanted):
    slots = policy._bring(layer, torch.tensor([list(wanted)]), torch.zeros(1, 1, 1, 1))
    keys, values, seen = policy._fetched(layer, slots)
    found = [each.unflatten(2, (-1, 3))[0, 0, slots[0], :, 0].tolist() for each in (keys, values)]
    assert found == [[[float(block)] * 3 for block in wanted]] * 2
    assert seen.sum() == 3 * len(wanted) == seen.unflatten(-1, (-1, 3))[0, 0, 0, slots[0]].sum()
    layer.num_read += 1
    return slots


def test_the_least_recently_used_block_is_evicted():
    policy, layer = small(replacement="lru"), stored()
    for wanted in ((0, 1), (2, 1), (3, 1), (0, 1)):
        bring(policy, layer, *wanted)
    assert layer.counts == {"tokens_copied": 5 * 3}  # 0 1, 2, 3 in the place of 0, 0 in the place of 2
    assert set(layer.state["slot_block"][0].tolist()) == {0, 1, 3}


def test_the_block_with_least_attention_is_evicted_under_lru_s():
    policy, layer = small(replacement="lru-s", decay=0.5), stored()
    for wanted, gained in (((0, 1), (8.0, 1.0)), ((0, 2), (1.0, 3.0))):
        slots = bring(policy, layer, *wanted)
        mass = torch.zeros(1, 1, 9)
        mass[0, 0, 3 * slots[0]] = torch.tensor(gained)
        layer.state["slot_score"] = policy._credited(layer.state["slot_score"], slots, mass)
    score = dict(zip(layer.state["slot_block"][0].tolist(), layer.state["slot_score"][0].tolist(), strict=True))
    assert score == pytest.approx({0: 5.0, 1: 0.5, 2: 3.0})  # halved at each look-up, then credited
    bring(policy, layer, 3, 0)
    assert set(layer.state["slot_block"][0].tolist()) == {
        0,
        2,
        3,
    }  # least recently used would have kept 2 and 1 alike


def test_blocks_lie_in_host_memory_and_the_device_is_flat_but_for_representatives(model, ids):
    with small().attach(model) as memory:
        memory.read(ids.repeat(1, 4))
        first = memory.size_bytes()
        memory.read(ids.repeat(1, 8))
        later = memory.size_bytes()
        for unit in memory.memory.units:
            for state in unit.layers:
                assert state["host_tokens"].tensor.device.type == "cpu"
                assert state["slot_keys"].shape[2] == 3 * 3
                assert state["keys"].shape[2] < 6 + 3
    assert later.host > 1.9 * first.host
    assert (
        later.device - first.device <= 2 * 2 * (8 * 24 // 3) * 2 * 4 * 8 * 4
    )  # rows, layers, blocks, doubling, heads, size, bytes


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(InvalidInput, match="chunk_tokens: 7 is above window_tokens; use 6 or fewer"):
        small(chunk_tokens=7)
    with pytest.raises(InvalidInput, match="num_cached_blocks: 1 is too small; use 2"):
        small(num_cached_blocks=1)
    with pytest.raises(InvalidInput, match="replacement: 'fifo' is not known; use lru or lru-s"):
        small(replacement="fifo")
