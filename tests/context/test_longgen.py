"""LongGen: the plan of layers, the patterns against a mask over the whole stream, the cache by its formula, training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recollect.context.longgen import LongGen, raise_rope_base
from recollect.errors import InvalidInput

from . import test_contract as contract
from .conftest import FAMILIES, SCALINGS, logits_of, make_model
from .stepwise import stepwise_logits


class Hybrid(LongGen):
    """LongGen with a budget for its sparse layers, as the contract asks for one."""

    @classmethod
    def with_budget(cls, attended_tokens: int) -> Hybrid:
        return cls(num_sink_tokens=2, window_tokens=attended_tokens - 2)


SPARSE = LongGen(full_share=0.0, num_sink_tokens=2, window_tokens=5, chunk_tokens=4)
BLOCKS = replace(SPARSE, pattern="blocks", block_tokens=3, num_local_blocks=2, num_stride_blocks=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_ample_room_it_is_plain_attention(family, ids):
    contract.test_with_an_ample_budget_it_is_plain_attention_on_every_family(Hybrid, family, ids)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_with_scaled_positions(scaling, ids):
    contract.test_with_scaled_positions(Hybrid, scaling, ids)


@pytest.mark.parametrize("budget", [256, 12])
def test_the_contract_but_for_the_bound(model, ids, tmp_path, budget):
    contract.test_in_bfloat16(Hybrid, ids)
    contract.test_read_in_pieces_is_read_at_once(Hybrid, model, ids)
    contract.test_a_padded_batch_equals_its_rows(Hybrid, model, ids, budget)
    contract.test_generate_greedily_by_sampling_and_with_beams(Hybrid, model, ids)
    contract.test_beams_of_a_tight_memory_carry_their_own_past(Hybrid, model, ids)
    contract.test_two_attached_models_do_not_disturb_each_other(Hybrid, ids)
    contract.test_an_exception_leaves_the_model_and_the_memory_as_they_were(Hybrid, ids)
    contract.test_generation_goes_on_over_turns_on_one_memory(Hybrid, model, ids)
    contract.test_a_reply_that_breaks_off_leaves_the_memory_as_it_was(Hybrid, ids)
    contract.test_a_saved_memory_goes_on_as_the_kept_one_does(Hybrid, model, ids, tmp_path)
    contract.test_a_memory_of_another_kind_is_refused(Hybrid, model, ids, tmp_path)
    contract.test_wrong_use_is_refused_in_one_sentence(Hybrid, model, ids)


def test_the_plan_of_layers():
    plan = LongGen()
    assert plan.full_layers(12) == [4, 5, 6, 7]
    assert plan.full_layers(8) == [2, 3, 4]
    assert plan.full_layers(2) == [0]
    assert replace(plan, place="bottom").full_layers(12) == [0, 1, 2, 3]
    assert replace(plan, place="top").full_layers(12) == [8, 9, 10, 11]
    assert replace(plan, place="interleaved").full_layers(12) == [1, 4, 7, 10]
    assert replace(plan, full_share=0.0).full_layers(12) == []
    assert replace(plan, full_share=1.0).full_layers(12) == list(range(12))


@pytest.mark.parametrize("policy", [SPARSE, BLOCKS], ids=["window", "blocks"])
def test_a_sparse_layer_shows_what_the_pattern_says_at_true_distances(policy, ids):
    model = make_model(num_hidden_layers=1)

    def seen(i: int, j: int) -> bool:
        if policy is SPARSE:
            return j < 2 or i - j < 5
        return i // 3 - j // 3 < 2 or j // 3 % 3 == 0

    def place(i: int) -> tuple[list[int], list[int], list[int]]:
        kept = [j for j in range(i + 1) if seen(i, j)]
        return kept, [0] * len(kept), [i - j for j in kept]

    with policy.attach(model):
        ours = logits_of(model, ids)
    torch.testing.assert_close(ours, stepwise_logits(model, ids, place), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("policy", [SPARSE, BLOCKS], ids=["window", "blocks"])
def test_the_cache_is_what_the_formula_says(policy, model, ids):
    policy = replace(policy, full_share=0.5)
    with policy.attach(model) as memory:
        memory.read(ids)
        full, sparse = memory.memory.units[0].layers
    assert full["keys"].tensor.shape == (2, 24, 2, 8)
    num = policy.kept_tokens(24)
    assert num == (2 + 4 if policy.pattern == "window" else 3 + 9)  # sinks and window; block 7, and 0, 3 and 6
    assert sparse["keys"].shape == sparse["values"].shape == (2, 2, num, 8)
    assert policy.kept_share(24, 2) == pytest.approx(0.5 + 0.5 * num / 24)


def test_the_papers_share_of_the_cache():
    """26.5 of 69.2 GB at 128K: twelve full layers of 32 and a 64th in the others."""
    policy = LongGen(full_share=12 / 32)
    assert policy.kept_share(131072, 32) == pytest.approx(26.5 / 69.2, abs=0.005)


def test_gradients_are_those_of_plain_attention_where_nothing_is_dropped(ids):
    model = make_model()
    model(ids, labels=ids).loss.backward()
    plain = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    with LongGen().attach(model):
        model(ids, labels=ids).loss.backward()
    for weight, expected in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-4)


def test_a_larger_base_slows_the_rotation_down(ids):
    model = make_model()
    before = model.model.rotary_emb.inv_freq.clone()
    raise_rope_base(model, 256)
    after = model.model.rotary_emb.inv_freq
    assert model.config.max_position_embeddings == 256
    assert after[0] == before[0]
    torch.testing.assert_close(after[-1], before[-1] / 4)  # 256 / 64: the slowest turns as far as it did
    raise_rope_base(model, 512, base=123.0)
    assert model.config.rope_parameters["rope_theta"] == 123.0
    with pytest.raises(InvalidInput, match="length: 100 is below the trained 512"):
        raise_rope_base(model, 100)
    with pytest.raises(InvalidInput, match="has no plain rotary positions"):
        raise_rope_base(make_model(rope_parameters={"rope_theta": 1e4} | SCALINGS["linear"]), 256)


def test_settings_that_are_not_known_are_refused():
    with pytest.raises(InvalidInput, match="place: 'left' is not known; use middle, bottom"):
        LongGen(place="left")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="pattern: 'stars' is not known; use window, blocks"):
        LongGen(pattern="stars")  # type: ignore[arg-type]
