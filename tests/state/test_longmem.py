"""LongMem: the side network by its formula, streams in any pieces, batches as their rows, write after read, files."""

from __future__ import annotations

import copy
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from recollect.errors import InvalidInput, NotFound
from recollect.state.decoder import decoder_of, logits_of, read
from recollect.state.longmem import LongMem

from .decoders import FAMILIES, make_decoder, tokens

SMALL: dict[str, Any] = {
    "segment_tokens": 8,
    "num_retrieved_tokens": 6,
    "chunk_tokens": 2,
    "memory_tokens": 24,
}


def make(family: str = "llama", **settings: Any) -> LongMem:
    return LongMem.from_backbone(make_decoder(family), **SMALL | settings)


def logits(model: LongMem, ids: torch.Tensor, mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, mask, **options).logits


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_memory_it_is_copies_of_layers_and_what_the_backbone_added(family):
    """x <- layer(x) + H[end] - H[start], from H[0], then the norm and the model's own head."""
    backbone, ids = make_decoder(family), tokens(2, 7)
    model = LongMem.from_backbone(backbone, **SMALL)
    decoder = decoder_of(backbone)
    hidden = read(decoder, input_ids=ids).hidden
    assert model.side.sources == [1, 3]
    x = hidden[0]
    for source, start, end in ((1, 0, 2), (3, 2, 4)):
        options = read(decoder, input_ids=ids).options[source]
        options["cache"] = None
        with torch.no_grad():
            x = decoder.layers[source](x, **options) + hidden[end] - hidden[start]
    norm = decoder.final_layernorm if family == "phi" else decoder.norm
    with torch.no_grad():
        expected = logits_of(backbone, norm(x))
    assert_equal(logits(model, ids), expected)


def test_with_closed_gates_a_full_memory_changes_nothing():
    model, ids = make(), tokens(2, 20)
    with torch.no_grad():
        model.side.attention.gate.fill_(-1e9)
    closed = logits(model, ids)
    model.reset()
    assert_equal(logits(model, ids, use_memory=False), closed)
    model.reset()
    with torch.no_grad():
        model.side.attention.gate.zero_()
    assert not torch.allclose(logits(model, ids)[:, 8:], closed[:, 8:], atol=1e-3)


def test_the_joint_attention_by_hand():
    """One layer, all chunks: (1 - s) softmax over the window + s softmax over what left it, by the keys without rotation."""
    backbone = make_decoder(num_hidden_layers=1)
    model = LongMem.from_backbone(backbone, **SMALL | {"num_retrieved_tokens": 24})
    with torch.no_grad():
        model.side.attention.gate.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    ids = tokens(1, 16)
    ours = logits(model, ids)[:, 8:]
    decoder = decoder_of(backbone)
    layer = decoder.layers[0]
    old, new = ids[:, :8], ids[:, 8:]
    q, _, _ = read(decoder, [0], input_ids=new).heads[0]
    _, k, v = read(decoder, [0], input_ids=old).heads[0]
    k, v = (each.repeat_interleave(2, dim=1) for each in (k, v))
    share = torch.sigmoid(model.side.attention.gate).view(1, 4, 1, 1)
    with torch.no_grad():
        far = torch.softmax(q @ k.transpose(-1, -2) * layer.self_attn.scaling, dim=-1) @ v
        x = decoder.embed_tokens(new)
        normed = layer.input_layernorm(x)
        turn = decoder.rotary_emb(x, torch.arange(8)[None])
        shape = (1, 8, -1, 8)
        attention = layer.self_attn
        query, key, value = (
            part(normed).view(shape).transpose(1, 2) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        query, key = apply_rotary_pos_emb(query, key, *turn)
        key, value = (each.repeat_interleave(2, dim=1) for each in (key, value))
        scores = query @ key.transpose(-1, -2) * attention.scaling
        near = torch.softmax(scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf), dim=-1) @ value
        mixed = ((1 - share) * near + share * far).transpose(1, 2).reshape(1, 8, -1)
        y = x + attention.o_proj(mixed)
        y = y + layer.mlp(layer.post_attention_layernorm(y))
        hidden = read(decoder, input_ids=new).hidden
        expected = logits_of(backbone, decoder.norm(y + hidden[1] - hidden[0]))
    assert_equal(ours, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("overlap", [0, 3])
def test_a_stream_in_pieces_equals_one_at_once(family, overlap):
    model, ids = make(family, overlap_tokens=overlap), tokens(2, 37)
    whole = logits(model, ids)
    model.reset()
    cuts = [0, 1, 5, 8, 9, 20, 30, 37]
    pieces = [logits(model, ids[:, start:end]) for start, end in pairwise(cuts)]
    assert_equal(torch.cat(pieces, dim=1), whole)
    model.reset()
    model.read(ids[:, :13])
    model.read(ids[:, 13:22])
    assert_equal(logits(model, ids[:, 22:]), whole[:, 22:])


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_its_rows(side, family):
    model = make(family, overlap_tokens=2)
    lengths = (31, 9, 20)
    rows = [tokens(1, length, seed=length) for length in lengths]
    batch, mask = torch.zeros(3, 31, dtype=torch.long), torch.zeros(3, 31, dtype=torch.long)
    for number, row in enumerate(rows):
        at = slice(31 - row.shape[1], 31) if side == "left" else slice(0, row.shape[1])
        batch[number, at], mask[number, at] = row[0], 1
    together = logits(model, batch, mask)
    more = tokens(3, 12, seed=5)
    after = logits(model, more)
    for number, row in enumerate(rows):
        model.reset()
        assert_equal(together[number][mask[number].bool()], logits(model, row)[0])
        assert_equal(after[number], logits(model, more[number : number + 1])[0])
    assert together.isfinite().all()


def test_generation_of_a_padded_batch_equals_that_of_its_rows_over_turns():
    model = make(overlap_tokens=2)
    rows = [tokens(1, 19, seed=2), tokens(1, 6, seed=3)]
    batch, mask = torch.zeros(2, 19, dtype=torch.long), torch.zeros(2, 19, dtype=torch.long)
    for number, row in enumerate(rows):
        batch[number, 19 - row.shape[1] :], mask[number, 19 - row.shape[1] :] = row[0], 1
    turn = tokens(2, 4, seed=4)
    first = model.generate(batch, mask, max_new_tokens=11)
    second = model.generate(turn, max_new_tokens=5)
    for number, row in enumerate(rows):
        model.reset()
        assert torch.equal(model.generate(row, max_new_tokens=11), first[number : number + 1])
        assert torch.equal(model.generate(turn[number : number + 1], max_new_tokens=5), second[number : number + 1])


def test_greedy_generation_is_the_likeliest_next_token_each_time():
    model, ids = make(), tokens(1, 13)
    reply = model.generate(ids, max_new_tokens=12)
    model.reset()
    whole = logits(model, torch.cat([ids, reply], dim=1))
    assert torch.equal(whole[:, 12:-1].argmax(dim=-1), reply)


def test_generation_stops_at_the_end_and_samples_when_asked():
    model, ids = make(), tokens(2, 9)
    reply = model.generate(ids, max_new_tokens=8)
    model.reset()
    ended = model.generate(ids, max_new_tokens=8, eos_token_id=int(reply[0, 2]))
    stop = reply[0].tolist().index(int(reply[0, 2]))
    assert ended[0, : stop + 1].tolist() == reply[0, : stop + 1].tolist()
    assert not ended[0, stop + 1 :].any()  # padding
    model.reset()
    torch.manual_seed(0)
    drawn = model.generate(ids, max_new_tokens=8, do_sample=True, temperature=3.0)
    assert not torch.equal(drawn, reply)
    model.reset()
    assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=True, top_p=1e-6), reply)
    with pytest.raises(InvalidInput, match="a row holds no token"):
        model.generate(ids, torch.tensor([[1] * 9, [0] * 9]))


def test_later_tokens_never_change_earlier_logits():
    model, ids = make(), tokens(1, 30)
    before = logits(model, ids)
    other = ids.clone()
    other[:, 20:] = tokens(1, 10, seed=9)
    model.reset()
    after = logits(model, other)
    assert_equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 21:], after[:, 21:], atol=1e-2)


def test_a_window_is_written_when_the_next_token_comes_and_is_not_read_by_itself():
    model, ids = make(), tokens(1, 9)
    alone = logits(model, ids[:, :8])
    assert len(model.memory) == 0
    logits(model, ids[:, 8:])
    assert len(model.memory) == 8
    model.flush()
    assert len(model.memory) == 9
    model.reset()
    assert_equal(logits(model, ids[:, :8]), alone)


def test_demonstrations_are_shared_by_many_queries_that_write_nothing():
    model = make()
    model.memorize(tokens(1, 21, seed=7))
    assert len(model.memory) == 21
    queries = tokens(3, 12, seed=8)
    together = logits(model, queries, write=False)
    assert len(model.memory) == 21
    for number in range(3):
        model.reset(memory=False)
        assert_equal(logits(model, queries[number : number + 1], write=False)[0], together[number])


def test_special_tokens_are_not_written():
    model, ids = make(), tokens(1, 10)
    ids[0, [0, 4]] = 1
    model.memorize(ids)
    assert len(model.memory) == 8
    model = make(skip_special_tokens=False)
    model.memorize(ids)
    assert len(model.memory) == 10


def test_rows_are_reset_one_by_one():
    model, ids, new = make(), tokens(2, 20), tokens(2, 10, seed=3)
    logits(model, ids)
    model.reset([1])
    after = logits(model, new)
    model.reset()
    assert_equal(after[1], logits(model, new[1:])[0])
    model.reset()
    logits(model, ids[:1])
    assert_equal(after[0], logits(model, new[:1])[0])


def test_the_backbone_is_never_changed():
    backbone = make_decoder().train()
    before = copy.deepcopy(backbone.state_dict())
    config, registered = copy.deepcopy(backbone.config.to_dict()), backbone.config._attn_implementation
    model = LongMem.from_backbone(backbone, **SMALL).train()
    assert not backbone.training
    ids = tokens(2, 16)
    for start in (0, 8):
        part = ids[:, start : start + 8]
        loss = model(part, labels=part).loss
        assert loss is not None
        loss.backward()
    assert all(weight.grad is None and weight.requires_grad for weight in backbone.parameters())
    assert all(weight.grad is not None for weight in model.side.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert backbone.config.to_dict() == config
    assert backbone.config._attn_implementation == registered
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in backbone.modules())


def test_the_loss_is_that_of_the_next_token():
    model, ids = make(), tokens(2, 8)
    labels = ids.clone()
    labels[:, :5] = -100
    with torch.no_grad():
        output = model(ids, labels=labels)
    expected = -output.logits.log_softmax(-1)[:, 4:7].gather(2, ids[:, 5:, None]).mean()
    torch.testing.assert_close(output.loss, expected)


def test_the_memory_layer_is_where_it_is_wanted():
    def place(count: int, **settings: Any) -> tuple[int, list[int], int]:
        model = LongMem.from_backbone(make_decoder(num_hidden_layers=count), **SMALL | settings)
        return model.memory_layer, model.side.sources, model.side.reader

    assert place(24) == (17, list(range(1, 24, 2)), 8)  # the paper's
    assert place(4) == (3, [1, 3], 1)
    assert place(5) == (3, [1, 3, 4], 1)
    assert place(4, memory_layer=0) == (0, [0, 3], 0)  # begun from the layer whose keys it meets
    assert place(4, memory_layer=2, reduction=4) == (2, [2], 0)
    with pytest.raises(InvalidInput, match="memory_layer: 4 is not one of 0 to 3"):
        place(4, memory_layer=4)


def test_a_saved_side_network_is_the_same_and_holds_no_backbone(tmp_path):
    backbone, ids = make_decoder(), tokens(1, 20)
    model = LongMem.from_backbone(backbone, dtype=torch.float32, memory_layer=1, **SMALL)
    with torch.no_grad():
        for weight in model.side.parameters():
            weight.add_(0.1)
    model.save_pretrained(tmp_path)
    model.memorize(ids)
    model.memory.save(tmp_path / "memory.safetensors")
    other = LongMem.from_pretrained(tmp_path, backbone)
    other.memory.load(tmp_path / "memory.safetensors")
    assert torch.equal(logits(model, ids), logits(other, ids))
    side = sum(weight.numel() * 4 for weight in model.side.parameters())
    assert side < (tmp_path / "side.safetensors").stat().st_size < side + 4096
    with pytest.raises(InvalidInput, match="was made for another"):
        LongMem.from_pretrained(tmp_path, make_decoder(intermediate_size=40))
    with pytest.raises(NotFound, match="there is no side network"):
        LongMem.from_pretrained(tmp_path / "none", backbone)


def test_a_backbone_in_bfloat16_with_a_side_network_in_float32():
    backbone, ids = make_decoder().bfloat16(), tokens(2, 20)
    model = LongMem.from_backbone(backbone, dtype=torch.float32, **SMALL)
    assert next(model.side.parameters()).dtype == torch.float32
    assert logits(model, ids).isfinite().all()
    assert model.memory.keys.dtype == torch.bfloat16


def test_wrong_use_is_refused_in_one_sentence():
    model, ids = make(), tokens(2, 20)
    logits(model, ids)
    with pytest.raises(InvalidInput, match="input_ids: 1 rows cannot go on with 2 streams; call reset first"):
        model(ids[:1])
    model.reset()
    with pytest.raises(InvalidInput, match="input_ids: hold no token"):
        model(ids, torch.zeros_like(ids))
    model.train()
    with pytest.raises(InvalidInput, match="in training, give one window at a time"):
        model(ids)
    for settings, message in (
        ({"overlap_tokens": 8}, "overlap_tokens: must be below segment_tokens, 8"),
        ({"chunk_tokens": 7}, "chunk_tokens: must be at least 1"),
        ({"reduction": 0}, "reduction: 0 is below 1"),
        ({"search": "fast"}, "search: 'fast' is not known"),
    ):
        with pytest.raises(InvalidInput, match=message):
            make(**settings)


def test_the_pages_examples_run_on_a_local_checkpoint(tmp_path, monkeypatch):
    """Both blocks of docs/systems/longmem.md, with a smaller window and fewer steps."""
    import transformers

    from recollect.benchmarks.testbed import make_tokenizer

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(300), pad_token="<|pad|>")
    make_decoder(vocab_size=300, eos_token_id=2).save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    page = Path(__file__).resolve().parents[2] / "docs" / "systems" / "longmem.md"
    first, second = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    text = "the miller walked to the harbour, and laughed. " * 20
    space: dict[str, Any] = {"texts": [text, text[9:]], "long_text": text, "question": "the miller"}
    monkeypatch.chdir(tmp_path)
    exec(first.replace("1024", "32").replace("2000", "2"), space)
    space["backbone"] = transformers.AutoModelForCausalLM.from_pretrained("checkpoint")
    space["demonstrations"] = text
    space["questions"] = tokenizer(
        ["a miller", "the old sailor came"], return_tensors="pt", padding=True, padding_side="left"
    )
    exec(second, space)
    assert space["replies"].shape[0] == 2
    assert len(space["model"].memory) > 100
