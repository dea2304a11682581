"""RAPID: exact in distribution without transfer, greedy as the target is, the fused law by hand, and what it retrieves."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare

from recollect.context import rapid
from recollect.context.rapid import RAPID, lexical_scores
from recollect.context.recorded import Recorded
from recollect.context.streaming_llm import StreamingLLM
from recollect.errors import InvalidInput

from .conftest import make_model

DRAWS = 4000
BOUND = 1e-4  # a right sampler is below this p-value once in 10,000 seeds; the seed is fixed


class Words:
    """A tokenizer of a made vocabulary: token 7 is the word w7, and a blank line is 5."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [5] if text == "\n\n" else [int(word[1:]) for word in text.split()]

    def decode(self, token_ids) -> str:
        return " ".join(f"w{token}" for token in token_ids)


def first_tokens(policy: RAPID, scores: torch.Tensor, beliefs: torch.Tensor) -> torch.Tensor:
    """How often each token of the vocabulary came first, over many rounds of one draft of two tokens."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(scores.shape[1])
    for _ in range(DRAWS):
        drafted = torch.multinomial(beliefs, 1, generator=generator)[:, 0].tolist()
        accepted, following = policy.verify(scores, beliefs, drafted, generator)
        counts[drafted[0] if accepted else following] += 1
    return counts


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_without_transfer_tokens_are_distributed_as_the_targets(temperature):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 8, generator=generator)
    beliefs = (1.5 * torch.randn(2, 8, generator=generator)).softmax(-1)
    expected = (scores[0].double() / temperature).softmax(-1)
    counts = first_tokens(RAPID(transfer=0.0, temperature=temperature), scores, beliefs)
    assert chisquare(counts, DRAWS * expected).pvalue > BOUND
    moved = first_tokens(RAPID(transfer=5.0, temperature=temperature), scores, beliefs)
    assert chisquare(moved, DRAWS * expected).pvalue < BOUND  # the test can tell


def test_the_second_token_of_a_round_is_the_targets_too():
    """After an accepted draft comes the next draft, the rest of the target, or, when all are accepted, the bonus."""
    policy, generator = RAPID(transfer=0.0), torch.Generator().manual_seed(2)
    scores = torch.randn(3, 6, generator=generator)
    beliefs = torch.randn(2, 6, generator=generator).softmax(-1)
    seconds, bonus = torch.zeros(6), torch.zeros(6)
    for _ in range(DRAWS):
        drafted = torch.multinomial(beliefs, 1, generator=generator)[:, 0].tolist()
        accepted, following = policy.verify(scores, beliefs, drafted, generator)
        if accepted:
            seconds[drafted[1] if accepted == 2 else following] += 1
        if accepted == 2:
            bonus[following] += 1
    for counts, row in ((seconds, 1), (bonus, 2)):
        expected = counts.sum().item() * scores[row].double().softmax(-1)
        assert chisquare(counts, expected).pvalue > BOUND


def test_a_model_samples_as_it_does_without_a_drafter():
    """Two tokens after a short prompt, drawn with a drafter of other weights, against the exact joint distribution."""
    target = make_model(vocab_size=6, bos_token_id=None, pad_token_id=None, num_hidden_layers=1)
    drafter = make_model(vocab_size=6, bos_token_id=None, pad_token_id=None, num_hidden_layers=1, initializer_range=0.4)
    prompt = [1, 4, 2, 3]
    with torch.no_grad():
        first = target(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        rows = torch.tensor([[*prompt, token] for token in range(6)])
        joint = first[:, None] * target(rows).logits[:, -1].double().softmax(-1)
    policy, generator = RAPID(transfer=0.0, num_draft_tokens=2), torch.Generator().manual_seed(3)
    counts, draws = torch.zeros(6, 6), 600
    for _ in range(draws):
        reply = policy.generate(target, Words(), prompt[:2], prompt[2:], 2, drafter, generator=generator)
        counts[tuple(reply.tokens)] += 1
    assert chisquare(counts.sum(1), draws * first).pvalue > BOUND
    assert chisquare(counts.sum(0), draws * joint.sum(0)).pvalue > BOUND
    assert chisquare(counts.sum(0), draws * joint.sum(0).flip(0)).pvalue < BOUND


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_greedily_and_without_transfer_it_says_what_the_target_says(ids, same, family):
    target = make_model(family, attn_implementation="sdpa")
    drafter = None if same else make_model(initializer_range=0.4)
    tokens = ids[0].tolist()
    policy = RAPID(transfer=0.0, temperature=0.0, chunk_tokens=4, draft_context_tokens=8, least_confidence=0.0)
    reply = policy.generate(target, Words(), tokens[:-3], tokens[-3:], 15, drafter)
    plain = target.generate(ids[:1], attention_mask=torch.ones_like(ids[:1]), max_new_tokens=15, do_sample=False)
    assert reply.tokens == plain[0, len(tokens) :].tolist()
    assert reply.stats["tokens"] == 15
    assert 0 <= reply.stats["acceptance"] < 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_drafts_come_from_a_recorded_step(ids, monkeypatch, dtype):
    """Grouped heads; in bfloat16 only that it runs, because likeliest tokens may tie."""
    steps = []

    class Seen(Recorded):
        def __init__(self):
            super().__init__()
            steps.append(self)

    monkeypatch.setattr(rapid, "Recorded", Seen)
    model, tokens = make_model(attn_implementation="sdpa", head_dim=16).to("cuda", dtype), ids[0].tolist()
    policy = RAPID(transfer=0.0, temperature=0.0, chunk_tokens=4, draft_context_tokens=8, least_confidence=0.0)
    reply = policy.generate(model, Words(), tokens[:-3], tokens[-3:], 40)
    ids = ids[:1].to("cuda")
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
    assert len(reply.tokens) == 40
    assert reply.tokens == plain[0, len(tokens) :].tolist() or dtype == torch.bfloat16
    assert [step.is_recorded for step in steps] == [True]


def test_a_drafter_that_reads_all_is_always_right(model, ids):
    """Both read the same prompt, so every draft stays, and each pass of the target brings all drafted tokens and one more."""
    tokens = ids[0].tolist()
    policy = RAPID(transfer=0.0, temperature=0.0, num_draft_tokens=4, least_confidence=0.0, num_first_tokens=99)
    reply = policy.generate(model, Words(), tokens[:-3], tokens[-3:], 10)
    assert reply.stats["acceptance"] == 1.0
    assert reply.stats["target_calls"] == 2
    assert reply.stats["tokens_per_call"] == 5.0
    assert reply.stats["draft_tokens"] == len(tokens)


def test_bounded_memories_go_back_by_reading_again(ids):
    target, drafter, tokens = make_model(), make_model(initializer_range=0.4), ids[0].tolist()
    policy = RAPID(transfer=0.0, temperature=0.0, chunk_tokens=4, draft_context_tokens=8, least_confidence=0.0)
    window = StreamingLLM(num_sink_tokens=2, window_tokens=6)
    with window.attach(target) as memory:
        expected = memory.generate(ids[:1], max_new_tokens=12, do_sample=False)[0].tolist()
        reply = policy.generate(target, Words(), tokens[:-3], tokens[-3:], 12, drafter)
        itself = policy.generate(target, Words(), tokens[:-3], tokens[-3:], 12)
    assert reply.tokens == itself.tokens == expected
    assert reply.stats["acceptance"] < 1


def test_it_stops_at_a_stop_token(model, ids):
    tokens = ids[0].tolist()
    policy = RAPID(transfer=0.0, temperature=0.0)
    whole = policy.generate(model, Words(), tokens[:-3], tokens[-3:], 12).tokens
    stop = whole[5]
    reply = policy.generate(model, Words(), tokens[:-3], tokens[-3:], 12, stop={stop})
    assert reply.tokens == whole[: whole.index(stop) + 1]


def test_the_fused_distribution_by_hand():
    plain = torch.tensor([[0.5, 0.3, 0.2]]).double()
    beliefs = torch.tensor([[0.1, 0.88, 0.02]]).double()
    fused = RAPID(transfer=2.0, tail=0.1).fuse(plain.log(), plain, beliefs)[0]
    weights = [0.5 * math.exp(2 * (0.1 - 0.5)), 0.3 * math.exp(2 * (0.88 - 0.3)), 0.2]  # 0.02 is below 0.1 * 0.88
    assert fused.tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_transfer_lets_more_drafts_stay():
    generator = torch.Generator().manual_seed(4)
    scores, beliefs = torch.randn(2, 12, generator=generator), torch.randn(1, 12, generator=generator).softmax(-1)
    kept = {}
    for transfer in (0.0, 5.0):
        draws = torch.multinomial(beliefs[0], 1000, replacement=True, generator=generator).tolist()
        policy = RAPID(transfer=transfer)
        kept[transfer] = sum(policy.verify(scores, beliefs, [token], generator)[0] for token in draws)
    assert kept[5.0] > kept[0.0] + 50


def test_matching_chunks_are_read_in_the_order_of_the_context():
    context = [0, 11, 12, 13, 21, 22, 23, 31, 32, 33, 41, 42, 22]
    policy = RAPID(chunk_tokens=3, draft_context_tokens=6)
    assert policy.retrieve(Words(), context, [22, 33]) == [0, 21, 22, 23, 5, 31, 32, 33]
    assert policy.retrieve(Words(), context, [99]) == [0]  # nothing matches
    backwards = RAPID(chunk_tokens=3, draft_context_tokens=3, scorer=lambda question, chunks: range(len(chunks)))
    assert backwards.retrieve(Words(), context, [99]) == [0, 41, 42, 22]
    wide = RAPID(chunk_tokens=1, draft_context_tokens=1, num_first_tokens=0)
    assert len(wide.retrieve(Words(), [7] * 96, [7])) == 4 * 1 + 3  # a 24th of 96, with blank lines between


def test_lexical_scores_by_hand():
    scores = lexical_scores("Where is the key?", ["the key", "the door", "a tree"])
    rare, common = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    assert scores == pytest.approx([rare + common, common, 0.0])  # all are as long as the mean, so 2.2 / 2.2


@pytest.mark.parametrize("wrong", [{"num_draft_tokens": 0}, {"transfer": -1.0}, {"temperature": -0.1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidInput, match=f"^{next(iter(wrong))}: "):
        RAPID(**wrong)


def test_an_empty_question_is_refused(model):
    with pytest.raises(InvalidInput, match=r"^question: is empty"):
        RAPID().generate(model, Words(), [1], [], 5)
    with pytest.raises(InvalidInput, match=r"^max_new_tokens: 0"):
        RAPID().generate(model, Words(), [1], [2], 0)
