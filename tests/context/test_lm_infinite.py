"""LM-Infinite against its two rules: a Lambda-shaped mask, and distances that never exceed the window."""

from __future__ import annotations

import torch

from recollect.context.lm_infinite import LMInfinite

from .conftest import logits_of, make_model
from .stepwise import stepwise_logits


def test_the_mask_and_the_capped_distance(ids):
    model = make_model(num_hidden_layers=1)
    sinks, window = 3, 6

    def place(i: int) -> tuple[list[int], list[int], list[int]]:
        kept = [j for j in range(i + 1) if j < sinks or i - j < window]
        return kept, [0] * len(kept), [min(i - j, window - 1) for j in kept]

    with LMInfinite(num_sink_tokens=sinks, window_tokens=window, chunk_tokens=5).attach(model):
        ours = logits_of(model, ids)
    torch.testing.assert_close(ours, stepwise_logits(model, ids, place), atol=1e-5, rtol=1e-5)


def test_a_far_sink_is_seen_alike_from_everywhere(model):
    """A stream that repeats one token gives the same logits for ever once the window is full of it."""
    with LMInfinite(num_sink_tokens=2, window_tokens=6).attach(model):
        logits = logits_of(model, torch.full((1, 40), 7))
    torch.testing.assert_close(logits[:, 20], logits[:, 39], atol=1e-5, rtol=1e-5)
