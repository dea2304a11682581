"""SlidingWindow equals the model's own window, where a model has one."""

from __future__ import annotations

import pytest
import torch

from recollect.context.sliding_window import SlidingWindow

from .conftest import logits_of, make_model


@pytest.mark.parametrize("family", ["mistral", "phi3"])
def test_it_is_the_window_that_a_model_was_built_with(family, ids):
    plain, windowed = make_model(family, sliding_window=None), make_model(family, sliding_window=7)
    assert not torch.allclose(logits_of(plain, ids), logits_of(windowed, ids), atol=1e-3)
    with SlidingWindow(window_tokens=7, chunk_tokens=4).attach(plain) as memory:
        torch.testing.assert_close(logits_of(plain, ids), logits_of(windowed, ids), atol=1e-5, rtol=1e-5)
        assert memory.stats()["attended_tokens"] == 7
