"""SirLLM: scores are the surprise of each token, the choice and the decay follow the paper's closed form."""

from __future__ import annotations

import pytest
import torch

from recollect.context.sirllm import SirLLM
from recollect.errors import InvalidInput

from .conftest import logits_of


def small(**changes) -> SirLLM:
    return SirLLM(
        **({"num_sink_tokens": 1, "num_recent_tokens": 2, "num_entropy_tokens": 5, "chunk_tokens": 2} | changes)
    )


def test_scores_are_minus_log_probability_however_the_text_is_cut(model, ids):
    plain = logits_of(model, ids).log_softmax(-1)
    expected = -plain[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    with SirLLM(num_entropy_tokens=100, chunk_tokens=5).attach(model) as memory:
        memory.read(ids[:, :8])
        memory.read(ids[:, 8:9])
        memory.read(ids[:, 9:])
        scores = memory.memory.units[0].shared["scores"]
    torch.testing.assert_close(scores[:, 1:], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        scores[:, 0], scores[:, 1:5].amax(dim=1)
    )  # nothing predicts the first: its chunk's greatest


def test_what_stays_by_hand():
    scores = torch.tensor([[0.0, 7.0, 1.0, 9.0, 2.0, 3.0, 0.5, 0.1]])
    policy = small()
    assert policy.choose(scores, 5, 2).tolist() == [[0, 1, 3, 6, 7]]  # a sink, the two greatest, the two newest
    assert policy.choose(scores, 6, 2).tolist() == [[0, 1, 3, 5, 6, 7]]  # room left goes to the newest
    assert policy.choose(torch.tensor([[9.0, 7, 1, 0, 2, 3, 0.5, 8]]), 5, 2).tolist() == [
        [0, 4, 5, 6, 7]
    ]  # two chosen twice
    assert policy.choose(scores, 3, 0).tolist() == [[0, 6, 7]]


def test_scores_fade_by_turns_not_by_tokens(model, ids):
    with small(num_entropy_tokens=100, decay=0.5).attach(model) as memory:
        memory.read(ids[:, :4])
        first = memory.memory.units[0].shared["scores"].clone()
        memory.read(ids[:, 4:9])
        for token in range(9, 12):
            memory.read(ids[:, token : token + 1])  # as generated tokens come: one by one, and not a turn
        memory.read(ids[:, 12:20])
        torch.testing.assert_close(memory.memory.units[0].shared["scores"][:, :4], first * 0.25)


def test_all_layers_keep_the_same_tokens_and_the_budget_holds(model, ids):
    policy = small()
    with policy.attach(model) as memory:
        reply = memory.generate(ids, max_new_tokens=5, do_sample=False)
        unit = memory.memory.units[0]
        assert reply.shape == (2, 5)
        assert unit.shared["scores"].shape == (2, 8)
        assert {state["keys"].shape for state in unit.layers} == {(2, 2, 8, 8)}
        assert memory.stats()["attended_tokens"] == 8


def test_a_surprising_token_outlives_dull_ones(model, ids):
    """Of a stream of one repeated token with another in it, the other is kept."""
    stream = torch.full((1, 40), 7)
    stream[0, 10] = 23
    with small(num_entropy_tokens=8, chunk_tokens=4).attach(model) as memory:
        memory.read(stream)
        unit = memory.memory.units[0]
        odd = unit.shared["scores"][0].argmax()
        with small(num_entropy_tokens=100).attach(_twin(model)) as whole:
            whole.read(stream[:, :11])
            expected = whole.memory.units[0].layers[0]["values"][0, :, 10]
    torch.testing.assert_close(unit.layers[0]["values"][0, :, odd], expected, atol=1e-5, rtol=1e-5)


def _twin(model):
    import copy

    from .conftest import make_model

    twin = make_model()
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    return twin


def test_a_chunk_that_would_evict_everything_is_refused():
    with pytest.raises(
        InvalidInput, match=r"chunk_tokens: 6 would evict everything; use 5 \(num_entropy_tokens\) or fewer"
    ):
        small(chunk_tokens=6)
