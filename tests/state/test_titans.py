"""Titans: what each way of joining sees, that the memory carries past the segment, and what persistent vectors are."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.titans import Titans, TitansMAG, TitansMAL


def influence(layer, x, at):
    """Whether an input at place 0 moves the output at `at`."""
    changed = x.clone()
    changed[:, 0] += 1
    return float((layer(changed)[0] - layer(x)[0])[:, at].abs().max().detach())


@pytest.mark.parametrize(("kind", "near"), [(Titans, "segment_tokens"), (TitansMAG, "window_tokens")])
def test_only_the_memory_carries_past_the_segment_or_window(kind, near, x):
    """With weights that do not learn nothing passes; the convolution is left out, which would."""
    for learn in (True, False):
        layer = kind(8, **{near: 4}, learn=learn, conv_tokens=0)
        assert influence(layer, x, 3) > 1e-6
        assert (influence(layer, x, 20) > 1e-7) == learn


def test_what_the_memory_tells_a_token_does_not_leak_to_earlier_ones(x):
    layer = Titans(8, segment_tokens=8)
    changed = x.clone()
    changed[:, 7] += 1
    torch.testing.assert_close(layer(changed)[0][:, :7], layer(x)[0][:, :7])


def test_the_memory_reads_the_persistent_vectors_first():
    layer = TitansMAL(8, num_persistent=3, conv_tokens=0)
    state = layer.initial_state(2)
    assert state["memory"]["place"].tolist() == [3, 3]
    start = layer.memory.initial_state(2)["weights"]["0"]
    assert (state["memory"]["weights"]["0"] - start).abs().max() > 1e-6
    assert TitansMAG(8, num_persistent=0).initial_state(1)["memory"]["place"].tolist() == [0]


def test_a_segment_ends_with_nothing_kept_of_it_but_the_memory(x):
    layer = Titans(8, segment_tokens=7)
    _, state = layer(x)  # 21 tokens
    assert not state["keys"].any()
    assert state["memory"]["place"].tolist() == [0, 0, 0]
    _, state = layer(x[:, :9])
    assert state["keys"][:, :2].any()
    assert not state["keys"][:, 2:].any()


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="segment_tokens: 1 with 4 persistent vectors"):
        Titans(8, segment_tokens=1)
