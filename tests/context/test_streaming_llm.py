"""StreamingLLM against attention that is computed from its definition, one token at a time."""

from __future__ import annotations

import math

import torch

from recollect.context.streaming_llm import StreamingLLM

from .conftest import logits_of, make_model
from .stepwise import stepwise_logits


def test_positions_are_those_in_the_cache(ids):
    model = make_model(num_hidden_layers=1)
    sinks, window = 3, 6

    def place(i: int) -> tuple[list[int], list[int], list[int]]:
        kept = [j for j in range(i + 1) if j < sinks or i - j < window]
        return kept, list(range(len(kept))), [len(kept) - 1] * len(kept)

    with StreamingLLM(num_sink_tokens=sinks, window_tokens=window, chunk_tokens=5).attach(model):
        ours = logits_of(model, ids)
    torch.testing.assert_close(ours, stepwise_logits(model, ids, place), atol=1e-5, rtol=1e-5)


def test_it_keeps_no_more_than_it_says(model, ids):
    with StreamingLLM(num_sink_tokens=4, window_tokens=8).attach(model) as memory:
        memory.read(ids)
        floats = memory.size_bytes().device / 4
        assert floats == (4 + 8) * 2 * 2 * 2 * 2 * 8  # tokens, rows, layers, keys and values, heads, head size
        assert memory.stats()["attended_tokens"] == 12
        assert math.isfinite(float(logits_of(model, ids[:, :1], cache=memory.memory).sum()))
