"""MAC: what a bank gives, that order and padding do not matter, that groups agree, that the prefix is felt and learned."""

from __future__ import annotations

from itertools import repeat
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.generation import say
from recollect.weights.mac import MAC, growing
from recollect.weights.streams import Question
from recollect.weights.texts import Document
from words import tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()
TEXTS = [
    "ana lives in the red town",
    "bo likes tea",
    "the home of cara is the sea",
    "dan likes rain",
    "the sun is blue",
]
LEARNED = [
    Document("1", TEXTS[0], (Question("the town of ana is", " red"),)),
    Document("2", TEXTS[1], (Question("bo likes", " tea"),)),
]
OTHERWISE = [
    Document("1", "ana lives in the blue town", (Question("the town of ana is", " blue"),)),
    Document("2", "bo likes rain", (Question("bo likes", " rain"),)),
]
BANKS = [[one, other] for one in (LEARNED[0], OTHERWISE[0]) for other in (LEARNED[1], OTHERWISE[1])]
QUESTIONS = ["the town of ana is", "bo likes"]


def make_memory(model=None, **options) -> MAC:
    model = model or tiny_decoder(len(TOKENIZER), width=32, inner=64, heads=4)
    return MAC(model, TOKENIZER, **{"num_vectors": 4, "agg_layers": 2, "agg_heads": 4, **options})


@pytest.fixture(scope="module")
def trained() -> MAC:
    model = tiny_decoder(len(TOKENIZER), width=32, inner=64, heads=4)
    with torch.no_grad():  # weights as small as they are made would let it say nothing with certainty at this width
        for each in model.parameters():
            each.mul_(12 if each.dim() == 2 else 1)
    memory = make_memory(model, backprop_ratio=1.0, agg_layers=1)
    before = {name: x.clone() for name, x in memory.model.state_dict().items()}
    losses = list(memory.learn(repeat((BANKS, None)), 60, 1e-2, clip_norm=1.0))
    assert losses[-1] < 0.1 < losses[0]
    assert all(torch.equal(x, before[name]) for name, x in memory.model.state_dict().items())
    return memory


def test_training_moves_only_the_networks_and_answers_then_depend_on_the_bank(trained):
    for documents, wanted in ((LEARNED, ["red", "tea"]), (OTHERWISE, ["blue", "rain"])):
        trained.forget(trained.bank.handles)
        trained.write([each.text for each in documents])
        assert trained.say(QUESTIONS, 1) == wanted


def test_a_forgotten_document_no_longer_answers_and_its_undo_brings_the_exact_answer_back(trained):
    memory = trained
    memory.forget(memory.bank.handles)
    first = memory.write([LEARNED[0].text])
    without, alone = memory.read(QUESTIONS), memory.say(QUESTIONS, 4)
    second = memory.write([LEARNED[1].text])
    both = memory.read(QUESTIONS)
    removal = memory.forget(second)
    assert removal.size_bytes == 4 * 32 * 4
    assert torch.equal(memory.read(QUESTIONS), without)
    assert memory.say(QUESTIONS, 4) == alone
    removal.undo()
    assert torch.equal(memory.read(QUESTIONS), both)
    assert memory.bank.handles == [*first, *second]
    memory.forget(second)
    other = memory.write([OTHERWISE[1].text])
    assert memory.say(QUESTIONS, 1) == ["red", "rain"]
    memory.forget(other)
    memory.write([LEARNED[1].text])
    assert torch.equal(memory.read(QUESTIONS), both)


def test_documents_are_kept_once():
    memory = make_memory()
    handles = memory.write(TEXTS[:3])
    assert memory.write([TEXTS[1], TEXTS[1], TEXTS[3]])[:2] == [handles[1]] * 2
    assert memory.bank.memories.shape == (4, 4, 32)
    assert memory.write([]) == []
    assert not memory.bank.memories.requires_grad


def test_neither_order_nor_padding_changes_what_is_read():
    memory, asked = make_memory(), ["where lives ana", "bo likes"]
    handles = memory.write(TEXTS)
    read = memory.read(asked)
    torch.testing.assert_close(memory.read(asked, subset=handles[::-1]), read)
    torch.testing.assert_close(memory.read(asked[1:]), read[1:])
    alone = make_memory()
    for text in TEXTS:
        alone.write([text])
    torch.testing.assert_close(alone.bank.memories, memory.bank.memories)


@torch.no_grad()
def test_groups_are_read_one_by_one_and_then_what_they_gave():
    memory, asked = make_memory(), ["where lives ana", "bo likes"]
    handles = memory.write(TEXTS)
    assert torch.equal(memory.read(asked, group=5), memory.read(asked))
    parts = [memory.read(asked, subset=part) for part in (handles[:2], handles[2:4], handles[4:])]
    questions = memory.ask(asked)[:, None]
    pair = memory.aggregate(questions, torch.stack(parts[:2], 1))
    last = memory.aggregate(questions, parts[2][:, None])
    by_hand = memory.aggregate(questions, torch.stack([pair[:, 0], last[:, 0]], 1))[:, 0]
    torch.testing.assert_close(memory.read(asked, group=2), by_hand)
    assert not torch.allclose(by_hand, memory.read(asked))


@torch.no_grad()
def test_the_aggregator_is_attention_of_the_questions_vectors_to_all_vectors_of_the_bank():
    memory = make_memory(agg_layers=1, agg_heads=1)
    asked, bank = torch.randn(1, 1, 4, 32), torch.randn(1, 3, 4, 32)
    block: Any = memory.aggregator[0]
    x, context = asked.flatten(0, 2), bank.flatten(0, 2)
    read = F.layer_norm(context, (32,))
    scores = F.layer_norm(x, (32,)) @ block.query.weight.T @ (read @ block.key.weight.T).T / 32**0.5
    wanted = x + scores.softmax(1) @ read @ block.value.weight.T @ block.out.weight.T
    wanted = wanted + block.forwards(F.layer_norm(wanted, (32,)))
    torch.testing.assert_close(memory.aggregate(asked, bank).flatten(0, 2), wanted)


@torch.no_grad()
def test_what_is_alike_is_found_before_training():
    memory = make_memory()
    handles = memory.write(TEXTS)
    block: Any = memory.aggregator[0]
    bank = memory.bank.memories
    assert torch.equal(block.query.weight, block.key.weight)
    assert torch.equal(memory.ask(TEXTS), memory.encode(TEXTS))
    shift = bank.mean(0)
    alike = F.cosine_similarity((memory.ask(["bo likes"]) - shift).flatten(1), (bank - shift).flatten(1))
    assert handles[int(alike.argmax())] == handles[1]


def decoders() -> dict[str, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    ends: dict[str, Any] = {"vocab_size": len(TOKENIZER), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    grouped: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    return {
        "Llama": tiny_decoder(len(TOKENIZER), width=32, inner=64, heads=4),
        "Qwen3, grouped": Qwen3ForCausalLM(Qwen3Config(**sizes, **grouped, **ends)),
        "GPT-2": GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **ends)),
    }


@pytest.mark.parametrize("name", ["Llama", "Qwen3, grouped", "GPT-2"])
@torch.no_grad()
def test_a_decoder_says_the_same_in_any_batch_and_as_one_pass_over_the_whole(name):
    model = decoders()[name].eval()
    memory = make_memory(model)
    prompts = ["the home of cara is", "bo"]
    assert memory.say(prompts, 4) == say(model, TOKENIZER, prompts, 4)
    memory.write(TEXTS)
    modulations = memory.read(prompts)
    said = memory.say(prompts, 4)
    assert memory.say(prompts[1:], 4) == said[1:]
    ids = [0, *TOKENIZER.encode(prompts[1])]
    for token in TOKENIZER.encode(said[1]):
        row = torch.tensor([ids])
        logits = memory._logits(row, torch.ones_like(row), memory._cache(modulations[1:]), 1)
        assert int(logits[0, -1].argmax()) == token
        ids.append(token)


@torch.no_grad()
def test_the_prefix_is_in_every_layer_and_of_the_size_of_the_decoders_own_keys_and_values():
    memory = make_memory()
    memory.write(TEXTS)
    made = memory.prefix(memory.read(["bo likes"]))
    assert len(made) == 2
    for layer, (key, value) in enumerate(made):
        assert key.shape == value.shape == (1, 4, 2, 8)
        for at, each in enumerate((key, value)):
            share = each.square().mean().sqrt() / memory.scales[2 * layer + at]
            assert 0.5 < float(share) < 2


def test_only_the_share_of_documents_with_gradients_asks():
    memory = make_memory(backprop_ratio=0.25)
    documents = [Document(text, text, (Question(text, " red"),)) for text in TEXTS[:4]]
    seen, asked = [], []
    encode, ask = memory.encode, memory.ask
    memory.encode = lambda texts: seen.append((list(texts), torch.is_grad_enabled())) or encode(texts)
    memory.ask = lambda questions: asked.append(list(questions)) or ask(questions)
    memory.loss([documents, documents], Random(1)).backward()
    (first, one), (second, other) = seen
    assert (len(first), one, len(second), other) == (2, True, 6, False)
    assert asked == [first]
    assert sorted(first + second) == sorted(2 * TEXTS[:4])


def test_without_distractors_the_share_makes_no_difference_to_the_gradients():
    made = []
    for ratio in (1.0, 0.25):
        memory = make_memory(backprop_ratio=ratio)
        memory.loss([[each] for each in LEARNED], Random(1)).backward()
        made.append([each.grad for each in memory.parameters() if each.grad is not None])
    assert len(made[0]) > 50
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_every_network_gets_a_gradient_and_the_decoder_none():
    memory = make_memory(backprop_ratio=1.0)
    list(memory.learn(repeat(([LEARNED], None)), 2, 3e-3))  # the second layers of the residual MLPs begin at zero
    memory.zero_grad()
    memory.loss([LEARNED], Random(1)).backward()
    for name, each in memory.named_parameters():
        assert not each.requires_grad or (each.grad is not None and each.grad.abs().sum() > 0), name
    assert all(each.grad is None for each in memory.model.parameters())


def test_banks_grow_from_one_document_to_the_batch():
    documents = [Document(str(at), str(at)) for at in range(20)]
    steps = list(growing(documents, 40, 8, group=2))
    assert all(sum(len(bank) for bank in banks) == 8 for banks, _ in steps)
    sizes = [len(banks[0]) for banks, _ in steps]
    assert sizes[0] == 1
    assert set(sizes[20:]) == {1, 2, 4, 8}
    assert max(sizes[:5]) == 1
    assert {group for _, group in steps} == {None, 2}
    assert [group for _, group in growing(documents, 4, 8)] == [None] * 4


def test_networks_and_bank_come_back_from_their_files(tmp_path):
    memory, other = make_memory(), make_memory(seed=1)
    memory.write(TEXTS)
    memory.save(tmp_path / "networks")
    memory.bank.save(tmp_path / "bank")
    other.write(TEXTS)
    assert not torch.equal(other.read(["bo likes"]), memory.read(["bo likes"]))
    other.load(tmp_path / "networks")
    other.bank.load(tmp_path / "bank")
    assert torch.equal(other.read(["bo likes"]), memory.read(["bo likes"]))
    (tmp_path / "other").write_text("words")
    with pytest.raises(Conflict, match="have other shapes"):
        make_memory(num_vectors=2).load(tmp_path / "networks")
    with pytest.raises(InvalidInput, match="holds no networks"):
        other.load(tmp_path / "other")
    with pytest.raises(NotFound, match="path: there is no file"):
        other.load(tmp_path / "none")


def test_another_body_with_its_own_tokenizer_can_read():
    words = make_tokenizer(["sea", "tea", "bo", "likes"], ends=False)
    encoder = tiny_decoder(len(words), width=16, inner=32, heads=2, seed=3).get_decoder()
    memory = make_memory(encoder=encoder, encoder_tokenizer=words)
    memory.write(TEXTS[:2])
    assert memory.read(["bo likes"]).shape == (1, 4, 32)
    assert all(
        torch.equal(one, other)
        for one, other in zip(encoder.parameters(), memory.documents.body.parameters(), strict=True)
    )


def test_what_cannot_be_used_is_refused():
    for options, field in (
        ({"num_vectors": 9}, "num_vectors: 9"),
        ({"backprop_ratio": 0}, "backprop_ratio: 0"),
        ({"agg_heads": 5}, "agg_heads: 5"),
    ):
        with pytest.raises(InvalidInput, match=field):
            make_memory(**options)
    memory = make_memory()
    with pytest.raises(NotFound, match="bank: there is no memory"):
        memory.read(["bo likes"])
    with pytest.raises(InvalidInput, match="text: it is empty"):
        memory.write([TEXTS[0], " "])
    assert not len(memory.bank)
    memory.write(TEXTS)
    with pytest.raises(InvalidInput, match="group: 1 is below 2"):
        memory.read(["bo likes"], group=1)
    with pytest.raises(InvalidInput, match="banks: they are not of one size"):
        memory.loss([LEARNED, LEARNED[:1]], Random(0))
    with pytest.raises(InvalidInput, match="banks: a document has no questions"):
        memory.loss([[Document("1", "the sea")]], Random(0))
