"""CMT: the decoder never moves, the bank is what was written, matching picks documents, and training lowers the losses."""

from __future__ import annotations

import pytest
import torch

from recollect.benchmarks.facts import tiny_decoder
from recollect.errors import Conflict, InvalidInput, NotFound
from recollect.weights.cmt import CMT, Example
from recollect.weights.generation import say
from words import tokenizer as make_tokenizer

TOKENIZER = make_tokenizer()
DOCUMENTS = ["ana lives in sea", "bo likes tea", "cara lives in town", "dan likes rain"]
EXAMPLES = [
    Example("ana lives in sea", "ana lives in", " sea"),
    Example("bo likes tea", "bo likes", " tea"),
    Example("cara lives in town", "cara lives in", " town"),
    Example("dan likes rain", "dan likes", " rain"),
]


@pytest.fixture
def model():
    return tiny_decoder(len(TOKENIZER), width=16, inner=32, heads=2).eval()


def made(model, **more):
    return CMT(model, TOKENIZER, **{"num_vectors": 2, "rank": 2, **more})


def test_learning_lowers_the_loss_and_never_moves_the_decoder(model):
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    before = say(model, TOKENIZER, DOCUMENTS, 3)
    memory = made(model, learning_rate=1e-2)
    first = memory.losses(EXAMPLES)
    memory.train(EXAMPLES, 25, 4)
    last = memory.losses(EXAMPLES)
    assert all(float(last[name].detach()) < float(first[name].detach()) for name in ("nll", "match", "total"))
    assert memory.close() is model
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
    assert say(model, TOKENIZER, DOCUMENTS, 3) == before


def test_every_learned_part_gets_a_gradient(model):
    memory = made(model, margin=100.0)
    memory.losses(EXAMPLES)["total"].backward()
    assert all(each.grad is not None for each in memory.parts.parameters())
    adapter = {name: each.grad for name, each in memory.model.named_parameters() if "lora_B" in name}
    assert adapter
    assert all(each is not None and each.abs().sum() > 0 for each in adapter.values())


def test_the_best_k_are_read_best_first_and_the_rest_has_no_say(model):
    memory = made(model, top_k=2)
    handles = memory.write(DOCUMENTS)
    reading = memory.read(["bo likes"])
    assert reading.prefix.shape == (1, 2, 16)
    assert reading.scores.shape == (1, 2)
    assert reading.scores[0, 0] >= reading.scores[0, 1]
    for handle in set(handles) - set(reading.handles[0]):
        memory.bank.remove(handle)
    torch.testing.assert_close(memory.read(["bo likes"]).prefix, reading.prefix)
    memory.bank.remove(reading.handles[0][0])
    assert not torch.allclose(memory.read(["bo likes"]).prefix, reading.prefix)


def test_the_gathered_prefix_knows_the_scores(model):
    gather = made(model).parts["gather"]
    query, memories = torch.randn(1, 2, 16), torch.randn(1, 2, 2, 16)
    only = gather(query, memories[:, :1], torch.ones(1, 1))
    torch.testing.assert_close(gather(query, memories, torch.tensor([[1.0, 0.0]])), only, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(gather(query, memories, torch.tensor([[0.5, 0.5]])), only, atol=1e-3)


def test_without_matching_every_document_counts_the_same(model):
    memory = made(model, matching=False, top_k=None)
    memory.write(DOCUMENTS)
    reading = memory.read(["bo likes"])
    assert reading.scores.tolist() == [[0.0] * 4]
    assert float(memory.losses(EXAMPLES)["match"]) == 0.0


def test_questions_of_one_document_are_no_wrong_memories_of_each_other(model):
    memory, again = made(model), [*EXAMPLES, Example("ana lives in sea", "ana", " lives")]
    scores = memory._scores(
        memory.compress([each.question for each in again]), memory._pooled("key", memory.compress(DOCUMENTS))
    )
    wanted = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2, 3, 0]))
    torch.testing.assert_close(memory.losses(again)["match"], wanted)


def test_the_margin_counts_only_what_is_missing(model):
    memory, sizes = made(model), []
    for memory.margin in (-100.0, 100.0):
        sizes.append(float(memory.losses(EXAMPLES)["aware"].detach()))
    assert sizes[0] == 0.0
    assert sizes[1] > 90


def test_with_an_empty_bank_the_decoder_answers_by_itself(model):
    wanted = say(model, TOKENIZER, ["ana lives in", "bo"], 3)
    memory = made(model)
    assert memory.write([]) == []
    assert memory.say(["ana lives in", "bo"], 3) == wanted
    with pytest.raises(NotFound, match="bank: there is no memory"):
        memory.read(["bo"])


def test_a_batch_is_answered_as_its_rows_are(model):
    memory = made(model)
    memory.write(DOCUMENTS)
    questions = ["ana lives in", "bo"]
    both = memory.read(questions).prefix
    for at, question in enumerate(questions):
        torch.testing.assert_close(memory.read([question]).prefix[0], both[at], atol=1e-5, rtol=1e-5)
    assert memory.say(questions, 2) == [memory.say([question], 2)[0] for question in questions]


def test_a_prefix_stands_right_before_its_question_whatever_else_is_in_the_batch(model):
    memory, prefix = made(model), torch.randn(2, 2, 16)
    examples = [Example("bo", "ana lives in the red town", " sea tea"), Example("bo", "bo", " tea")]
    both = memory._nll(prefix, examples)
    for at, example in enumerate(examples):
        torch.testing.assert_close(memory._nll(prefix[at : at + 1], [example])[0], both[at], atol=1e-5, rtol=1e-5)
    rows, mask = memory._rows([[5, 6, 7], [8]], prefix)
    assert mask.tolist() == [[1] * 5, [0, 0, 1, 1, 1]]
    assert torch.equal(rows[0, :2], prefix[0])
    assert torch.equal(rows[1, 2:4], prefix[1])
    assert torch.equal(rows[1, 4], model.get_input_embeddings().weight[8])


def test_a_bank_comes_back_from_its_file(model, tmp_path):
    memory = made(model)
    first, second, *_ = memory.write(DOCUMENTS)
    memory.bank.remove(second)
    memory.bank.save(tmp_path / "bank.safetensors")
    wanted = memory.read(["bo likes"])
    memory.bank.remove(first)
    memory.bank.load(tmp_path / "bank.safetensors")
    found = memory.read(["bo likes"])
    assert torch.equal(found.prefix, wanted.prefix)
    assert found.handles == wanted.handles
    assert memory.write(["the sea"]) == ["5"]


def test_what_was_learned_comes_back_from_its_file(model, tmp_path):
    memory = made(model, learning_rate=1e-2)
    memory.train(EXAMPLES, 3, 4)
    memory.save(tmp_path / "compressor")
    memory.write(DOCUMENTS)
    wanted = memory.read(["bo likes"]).prefix
    again = made(memory.close(), seed=1)
    again.write(DOCUMENTS)
    assert not torch.equal(again.read(["bo likes"]).prefix, wanted)
    again.load(tmp_path / "compressor")
    for handle in list(again.bank.handles):
        again.bank.remove(handle)
    again.write(DOCUMENTS)
    assert torch.equal(again.read(["bo likes"]).prefix, wanted)
    (tmp_path / "other").write_text("words")
    with pytest.raises(InvalidInput, match="does not hold a compressor"):
        again.load(tmp_path / "other")
    with pytest.raises(NotFound, match="path: there is no file"):
        again.load(tmp_path / "none")
    with pytest.raises(Conflict, match="have other shapes"):
        made(again.close(), num_vectors=3).load(tmp_path / "compressor")


def test_what_cannot_be_used_is_said(model, tmp_path):
    memory = made(model)
    with pytest.raises(NotFound, match="handle: there is no memory '9'"):
        memory.bank.remove("9")
    with pytest.raises(NotFound, match="path: there is no file"):
        memory.bank.load(tmp_path / "none")
    (tmp_path / "other").write_text("words")
    with pytest.raises(InvalidInput, match="does not hold a bank"):
        memory.bank.load(tmp_path / "other")
    memory.write(["the sea"])
    memory.bank.save(tmp_path / "bank")
    with pytest.raises(Conflict, match="path: its memories are"):
        type(memory.bank)(3, 16).load(tmp_path / "bank")
    with pytest.raises(InvalidInput, match="text: it is empty"):
        memory.write([" "])
    with pytest.raises(InvalidInput, match="examples: they have fewer than two"):
        memory.losses(EXAMPLES[:1])


@pytest.mark.parametrize("name", ["num_vectors", "top_k", "rank", "layers", "temperature"])
def test_sizes_below_one_are_refused(model, name):
    with pytest.raises(InvalidInput, match=f"{name}: 0 is"):
        made(model, **{name: 0})
