"""WISE: the model's own weights never move, edits are said, routing is kept, and what is undone was never there."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.generation import say
from recollect.weights.ties import merge_mean, merge_ties
from recollect.weights.wise import WISE
from words import tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()
QUICK = {"num_steps": 12, "num_prefixes": 2, "prefix_tokens": 3, "learning_rate": 5.0, "margins": (1.0, 4.0, 2.0)}

SURE = QUICK | {"num_steps": 100, "num_prefixes": 0, "mask_ratio": 1.0, "learning_rate": 100.0, "norm_constraint": 9.0}


@pytest.fixture
def model():
    return tiny_decoder(len(TOKENIZER), width=16, inner=32, heads=2).eval()


def state(memory):
    return [(tau.clone(), threshold) for tau, threshold in memory.side.memories]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) and x == y for (a, x), (b, y) in zip(one, other, strict=True)
    )


def logits(model, text="ana lives in"):
    ids = torch.tensor([TOKENIZER.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_an_edit_is_said_and_undoing_it_leaves_no_trace(model):
    before, weights = logits(model), {name: each.clone() for name, each in model.state_dict().items()}
    memory = WISE(model, TOKENIZER, **SURE)
    assert torch.equal(logits(model), before)
    edit = memory.edit("ana lives in", " sea")
    assert say(model, TOKENIZER, ["ana lives in"], 1) == ["sea"]
    assert memory.route("ana lives in")[0] == 0
    assert memory.size_bytes() > 0
    edit.undo()
    assert memory.edits == []
    assert torch.equal(logits(model), before)
    memory.remove()
    assert torch.equal(logits(model), before)
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())


def test_a_prompt_below_the_threshold_is_answered_by_the_model_itself(model):
    before = logits(model, "the rain")
    memory = WISE(model, TOKENIZER, **QUICK)
    memory.edit("ana lives in", "sea")
    memory.side.memories = [(tau, 1e9) for tau, _ in memory.side.memories]
    assert memory.route("the rain")[0] is None
    assert torch.equal(logits(model, "the rain"), before)
    memory.side.memories = [(tau, 1e-9) for tau, _ in memory.side.memories]
    assert memory.route("the rain")[0] == 0
    assert not torch.equal(logits(model, "the rain"), before)


def test_undoing_an_edit_in_the_middle_equals_never_having_made_it(model):
    memory = WISE(model, TOKENIZER, **QUICK)
    facts = [("ana lives in", "sea"), ("bo likes", "tea"), ("cara lives in", "town")]
    edits = [memory.edit(*fact) for fact in facts]
    edits[1].undo()
    kept = state(memory)
    memory.remove()
    other = WISE(model, TOKENIZER, **QUICK)
    for fact in (facts[0], facts[2]):
        other.edit(*fact)
    assert same(kept, state(other))


def test_each_row_is_routed_by_its_prompt_and_keeps_its_route_while_the_text_grows(model):
    memory = WISE(model, TOKENIZER, **QUICK)
    memory.edit("ana lives in", "sea")
    ratios = [memory.route(prompt)[1][0] for prompt in ("the rain", "ana lives in")]
    tau, threshold = memory.side.memories[0]
    middle = threshold * sum(ratios) / 2
    memory.side.memories = [(tau, middle)]
    expected = [ratio * threshold > middle for ratio in ratios]
    assert sorted(expected) == [False, True]
    together = say(model, TOKENIZER, ["the rain", "ana lives in"], 4)
    assert memory.side.choice.tolist() == [0 if each else -1 for each in expected]
    assert together == [say(model, TOKENIZER, [prompt], 4)[0] for prompt in ("the rain", "ana lives in")]


def test_groups_have_subspaces_of_their_own_and_only_they_move(model):
    memory = WISE(model, TOKENIZER, group_edits=1, merge_groups=2, **QUICK)
    memory.edit("ana lives in", "sea")
    memory.edit("bo likes", "tea")
    one, two = memory.groups
    assert not torch.equal(one.where, two.where[: len(one.where)])
    assert 0.1 < len(one.where) / memory.side.shape.numel() < 0.3
    assert len(memory.side.memories) == 1
    expected = merge_ties([group.tau(memory.side.shape) for group in memory.groups], [0.5, 0.5], 0.53)
    assert torch.equal(memory.side.memories[0][0], expected)


def test_retrieval_keeps_each_merged_memory_and_merging_keeps_one(model):
    memory = WISE(model, TOKENIZER, group_edits=1, merge_groups=1, mode="retrieve", **QUICK)
    memory.edit("ana lives in", "sea")
    memory.edit("bo likes", "tea")
    assert len(memory.side.memories) == 2
    assert len(memory.route("bo likes")[1]) == 2
    memory.remove()
    merged = WISE(model, TOKENIZER, group_edits=1, merge_groups=1, **QUICK)
    merged.edit("ana lives in", "sea")
    merged.edit("bo likes", "tea")
    assert len(merged.side.memories) == 1


def test_edits_are_the_same_after_saving(model, tmp_path):
    memory = WISE(model, TOKENIZER, **QUICK)
    memory.edit("ana lives in", "sea")
    memory.save(tmp_path / "edits.safetensors")
    kept, ids = state(memory), [edit.id for edit in memory.edits]
    memory.remove()
    other = WISE(model, TOKENIZER, **QUICK)
    other.load(tmp_path / "edits.safetensors")
    assert same(kept, state(other))
    assert [edit.id for edit in other.edits] == ids
    other.undo(ids[0])
    other.remove()
    with pytest.raises(Conflict, match="layer: the edits are for"):
        WISE(model, TOKENIZER, layer="model.layers.0.mlp.down_proj").load(tmp_path / "edits.safetensors")


def test_margins_are_measured_without_any_edit(model):
    memory = WISE(model, TOKENIZER, **QUICK | {"margins": None})
    memory.edit("ana lives in", "sea")
    alpha, beta, gamma = memory.margins
    assert (alpha, gamma) == (beta / 4, beta / 2)
    assert beta > 0


def test_gpt2_keeps_its_weights_the_other_way_round():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(TOKENIZER), n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(config).eval()
    memory = WISE(model, TOKENIZER, **QUICK)
    assert memory.place == "transformer.h.1.mlp.c_proj"
    assert tuple(memory.side.shape) == (16, 64)
    memory.edit("ana lives in", "sea")
    memory.undo(memory.edits[0].id)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mask_ratio": 0}, "mask_ratio: 0 is not above 0"),
        ({"merge": "sum"}, "merge: 'sum' is not known"),
        ({"layer": "model.norm"}, r"layer: 'model\.norm' is not a linear layer"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, arguments, match):
    with pytest.raises(InvalidInput, match=match):
        WISE(model, TOKENIZER, **arguments)


def test_text_needs_a_tokenizer_and_an_edit_needs_words(model):
    memory = WISE(model, **QUICK)
    with pytest.raises(InvalidInput, match="prompt: is text"):
        memory.edit("ana lives in", "sea")
    with pytest.raises(InvalidInput, match="target: is empty"):
        memory.edit([5, 6], [])
    with pytest.raises(NotFound, match="id: there is no edit 'x'"):
        memory.undo("x")


def test_ties_trims_elects_a_sign_and_averages_what_agrees():
    one, two = torch.tensor([4.0, -1.0, 2.0, 0.0]), torch.tensor([2.0, 3.0, -4.0, 0.0])
    assert merge_mean([one, two], [0.5, 0.5]).tolist() == [3.0, 1.0, -1.0, 0.0]
    assert merge_ties([one, two], [0.5, 0.5], 1.0).tolist() == [3.0, 3.0, -4.0, 0.0]
    assert merge_ties([one, two], [0.5, 0.5], 0.34).tolist() == [4.0, 0.0, -4.0, 0.0]
