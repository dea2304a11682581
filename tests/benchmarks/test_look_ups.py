"""What is measured of look-ups, and policies whose look-ups change at a share that was given."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("torch", reason="torch is not installed")
import torch
from rich.console import Console

from recollect.benchmarks import context_speed, look_ups
from recollect.context.em_llm import EMLLM
from recollect.context.infllm import InfLLM
from recollect.errors import InvalidInput

SMALL = {"num_first_tokens": 2, "window_tokens": 16, "chunk_tokens": 8}
POLICIES = {
    "infllm": InfLLM(**SMALL, block_tokens=4, num_blocks=5, num_cached_blocks=8),
    "em-llm": EMLLM(**SMALL, memory_tokens=20, min_event_tokens=2, max_event_tokens=6),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return context_speed.llama(2, "cpu", "float32", 64)


def test_a_row_for_each_policy_and_number_of_tokens(model):
    ids = torch.randint(3, 900, (1, 160))
    found = look_ups.measure(model, ids, POLICIES, every=(1, 4), num_steps=16)
    assert [(row["method"], row["look_up_tokens"]) for row in found["rows"]] == [
        (name, tokens) for name in POLICIES for tokens in (1, 4)
    ]
    for row in found["rows"]:
        assert 0 < row["copied"] < 1
        assert 0 < row["changed"] < 1
        assert row["nats"] > 0
        assert row["settings"]["look_up_tokens"] == row["look_up_tokens"]
    console = Console(record=True, width=140)
    look_ups.show(found, console)
    assert "16 tokens decoded after 144" in console.export_text()
    with pytest.raises(InvalidInput, match="ids: 20 tokens are too few to look up twice"):
        look_ups.measure(model, ids[:, :20], POLICIES, every=(1,), num_steps=4)


@pytest.mark.parametrize("changed", [0.0, 0.4])
@pytest.mark.parametrize("name", POLICIES)
def test_look_ups_change_at_the_share_that_was_given(model, name, changed):
    policy = look_ups.repeating(POLICIES[name], changed)
    seen: dict[int, list[set[int]]] = {}
    watched = look_ups._watched(policy, seen)
    watched.look_up_tokens = 2
    ids = torch.randint(3, 900, (1, 160))
    with watched.attach(model) as memory, torch.no_grad():
        memory.read(ids[:, :140])
        seen.clear()
        for at in range(140, 160):
            model(ids[:, at : at + 1], cache=memory.memory)
    assert len(seen) == 2
    for found in seen.values():
        assert len(found) == 10
        for old, new in pairwise(found):
            assert len(old) == len(new)
            assert len(new - old) <= round(changed * len(new))
        num = sum(len(new - old) for old, new in pairwise(found))
        wanted = sum(round(changed * len(new)) for new in found[1:])
        assert num == wanted or (name == "em-llm" and num > wanted / 2)  # few events are short enough


def test_what_is_drawn_is_new_and_no_larger():
    sizes = torch.tensor([4, 2, 2, 9, 1, 4, 0, 0, 0])  # the last are room for what may come
    news = [look_ups.redrawn(torch.tensor([[0, -1, 1]]), sizes, 1.0)[0].tolist() for _ in range(20)]
    for new in news:
        assert new[0] in (0, 2, 4, 5)
        assert new[1] == -1
        assert new[2] in (1, 2, 4)
        assert new[0] != new[2]
    assert {new[0] for new in news} >= {2, 4, 5}


def test_a_share_above_one_is_refused():
    with pytest.raises(InvalidInput, match=r"copied: 1\.5 is no share"):
        look_ups.repeating(POLICIES["infllm"], 1.5)
