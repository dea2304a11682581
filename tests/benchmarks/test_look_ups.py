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


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", POLICIES)
def test_look_ups_copy_the_share_that_was_given(model, name, share):
    policy = look_ups.repeating(POLICIES[name], share)
    seen: dict[int, list[set[int]]] = {}
    watched = look_ups._watched(policy, seen)
    watched.look_up_tokens = 2
    ids = torch.randint(3, 900, (1, 160), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with watched.attach(model) as memory, torch.no_grad():
        memory.read(ids[:, :130])
        told = []
        for start, end in ((130, 134), (134, 160)):  # what the first look-ups find is copied whole
            seen.clear()
            for at in range(start, end):
                model(ids[:, at : at + 1], cache=memory.memory)
            told.append(memory.stats())
    assert all(old == new for found in seen.values() for old, new in pairwise(found))
    chosen, copied = (told[1][name] - told[0][name] for name in ("tokens_chosen", "tokens_copied"))
    assert chosen > 300
    assert (
        abs(copied / chosen - share) < 0.15
    )  # what is found, and counted as chosen, differs a little from what is kept


def test_a_share_above_one_is_refused():
    with pytest.raises(InvalidInput, match=r"copied: 1\.5 is no share"):
        look_ups.repeating(POLICIES["infllm"], 1.5)
