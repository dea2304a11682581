"""EM-LLM: each token is seen once, events follow surprise, neighbours come along, the budget is filled as the paper says."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch

from recollect.context.em_llm import EMLLM, fill
from recollect.context.growing import Growing
from recollect.errors import InvalidInput

from .conftest import logits_of, make_model
from .stepwise import stepwise_logits
from .test_attention import make_layer


def small(**changes) -> EMLLM:
    known = {
        "num_first_tokens": 2,
        "window_tokens": 6,
        "memory_tokens": 8,
        "min_event_tokens": 1,
        "max_event_tokens": 4,
        "chunk_tokens": 4,
    }
    return EMLLM(**(known | changes))


@pytest.mark.parametrize("gamma", [0.5, inf])
@pytest.mark.parametrize("refinement", ["modularity", "conductance", None])
def test_with_every_event_fetched_each_token_is_seen_once(ids, gamma, refinement):
    model = make_model(num_hidden_layers=1)

    def place(i: int) -> tuple[list[int], list[int], list[int]]:
        return list(range(i + 1)), [0] * (i + 1), [min(i - j, 5) for j in range(i + 1)]

    with small(memory_tokens=1000, gamma=gamma, refinement=refinement).attach(model) as memory:
        ours = logits_of(model, ids)
        for unit in memory.memory.units:
            (state,) = unit.layers
            lengths = unit.shared["events"].tensor[0]
            assert int(lengths.sum()) == state["host_tokens"].tensor.shape[1]
            assert int(lengths.sum()) + 2 + state["keys"].shape[2] == ids.shape[1]
            assert unit.shared["host_surprise"].shape[1] == state["keys"].shape[2]
            assert set(lengths.tolist()) == {4} if gamma == inf else len(set(lengths.tolist())) > 1
    torch.testing.assert_close(ours, stepwise_logits(model, ids, place), atol=1e-5, rtol=1e-5)


def test_a_surprising_token_opens_an_event_in_every_layer(model):
    """A dull stream with one other token in it is cut there."""
    stream = torch.full((1, 60), 7)
    stream[0, 30] = 23
    policy = small(gamma=2.0, refinement=None, max_event_tokens=100, num_first_tokens=0)
    with policy.attach(model) as memory:
        memory.read(stream)
        (unit,) = memory.memory.units
        starts = unit.shared["events"].tensor[0].cumsum(0).tolist()
    assert [state["representatives"].tensor.shape[1] for state in unit.layers] == 2 * [len(starts)]
    assert 30 in starts  # the first event that ends there is followed by one that opens with the other token


def test_the_budget_is_met_as_nearly_as_whole_events_allow():
    assert fill(torch.tensor([3, 5, 4]), 8).tolist() == [True, True, False]
    assert fill(torch.tensor([3, 5, 4]), 7).tolist() == [True, True, False]  # 8 is nearer to 7 than 3 is
    assert fill(torch.tensor([3, 9, 4]), 7).tolist() == [True, False, False]  # 12 is not
    assert fill(torch.tensor([5]), 0).tolist() == [False]


def test_neighbours_come_from_a_queue_after_and_before():
    vectors = torch.eye(6)[None]
    events = Growing(torch.full((1, 6), 2))
    layer = make_layer(state={"representatives": Growing(vectors)}, shared={"events": events})
    policy = replace(small(), memory_tokens=8, contiguity=0.75)  # one similar event, room for three beside it

    before = None

    def ask(event: int) -> list[int]:
        nonlocal before
        before = policy.choose(layer, torch.eye(6)[event].view(1, 1, 1, 6), before)
        return [event for event in before[0].tolist() if event >= 0]

    assert ask(3) == [3, 4, 2]
    assert ask(0) == [0, 1, 4, 2]  # the older content of the queue stays behind the new
    assert ask(4) == [4, 5, 3, 1]
    assert replace(policy, contiguity=0.0).choose(layer, torch.eye(6)[3].view(1, 1, 1, 6), None)[0, 0] == 3


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(InvalidInput, match="refinement: 'cuts' is not known; use modularity, conductance or None"):
        small(refinement="cuts")
    with pytest.raises(InvalidInput, match="max_event_tokens: 2 is too small; use 3"):
        small(min_event_tokens=3, max_event_tokens=2)
