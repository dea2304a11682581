"""S4D: its kernel against the recurrence of one number by hand, and what its eigenvalues begin as."""

from __future__ import annotations

import math

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.s4d import S4D, start_values


def test_the_state_is_the_recurrence_held_over_each_step():
    layer = S4D(1, 2, start="lin")
    with torch.no_grad():
        layer.log_step.fill_(math.log(0.1))
    x = torch.tensor([[[1.0], [0.0], [2.0]]])
    _, state = layer(x)
    kept = math.exp(-0.05)  # lambda = -1/2, step 0.1
    given = (1 - kept) / 0.5
    expected = given * (kept**2 * 1.0 + 2.0)
    assert state["hidden"][0, 0, 0].tolist() == pytest.approx([expected, 0.0], abs=1e-6)


def test_what_the_eigenvalues_begin_as():
    assert start_values("lin", 6).tolist() == pytest.approx([-0.5, -0.5 + 1j * math.pi, -0.5 + 2j * math.pi])
    assert start_values("inv", 4)[0].imag.item() == pytest.approx(4 / math.pi * 3)
    assert (start_values("legs", 8).real + 0.5).abs().max() < 1e-9
    with pytest.raises(InvalidInput, match="start: 'real' is not known"):
        start_values("real", 4)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="state_size: 5 is not even"):
        S4D(4, 5)
