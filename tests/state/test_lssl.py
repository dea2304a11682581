"""LSSL: its three views agree, its state remembers by HiPPO's polynomial, and the structured matrix is HiPPO's."""

from __future__ import annotations

import math

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.hippo import discretize, hippo
from recollect.state.lssl import LSSL, compose, structure
from recollect.state.s4d import S4D


@pytest.mark.parametrize("measure", ["legs", "legt"])
@pytest.mark.parametrize("size", [2, 3, 4, 9, 16])
def test_the_structured_matrix_begins_as_hippo(measure, size):
    torch.testing.assert_close(compose(**structure(measure, size)), hippo(measure, size)[0])


def test_a_matrix_without_structure_cannot_be_learned():
    with pytest.raises(InvalidInput, match="measure: 'random' cannot be learned"):
        LSSL(4, measure="random")
    assert not LSSL(4, 4, measure="random", learn_matrix=False).input.requires_grad


def test_convolution_is_the_recurrence_written_out(x):
    layer = LSSL(8, 5, channels=2)
    A, B = discretize(*layer.system(), layer.log_step.double().exp())
    hidden, found = torch.zeros(3, 8, 5, dtype=torch.float64), []
    for t in range(x.shape[1]):
        hidden = torch.einsum("hnk,bhk->bhn", A, hidden) + B * x[:, t, :, None]
        y = torch.einsum("hmn,bhn->bhm", layer.output.double(), hidden) + layer.skip * x[:, t, :, None]
        found.append(layer.out(torch.nn.functional.gelu(y.flatten(1).float())))
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(found, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state["hidden"], hidden.float(), atol=1e-5, rtol=1e-4)


def test_the_state_holds_the_legendre_coefficients_of_a_window():
    """LegT, whose window is 2 long: after a sine the state's polynomial, read at any age, is the sine at that age."""
    layer = LSSL(1, 16, measure="legt", learn_matrix=False, step_min=1 / 512, step_max=1 / 512)
    time = torch.arange(2048) / 512
    _, state = layer(torch.sin(3 * time).view(1, -1, 1))
    coefficients = state["hidden"][0, 0].double()
    ages = torch.linspace(0.1, 1.9, 19, dtype=torch.float64)
    place = 1 - ages
    legendre = [torch.ones_like(place), place]
    for n in range(1, 15):
        legendre.append(((2 * n + 1) * place * legendre[n] - n * legendre[n - 1]) / (n + 1))
    scale = (2 * torch.arange(16, dtype=torch.float64) + 1).sqrt()
    read = (coefficients * scale) @ torch.stack(legendre)
    expected = torch.sin(3 * (time[-1] - ages))
    assert (read - expected).abs().max() < 0.02


@pytest.mark.parametrize("kind", [LSSL, S4D])
def test_half_the_samples_at_twice_the_rate_end_in_the_same_state(kind):
    torch.manual_seed(0)
    layer = kind(2, 8, step_min=1e-3, step_max=1e-2)
    signal = torch.sin(torch.arange(400) / 40)[None, :, None].repeat(1, 1, 2)
    _, fine = layer(signal)
    layer.rate = 2.0
    _, coarse = layer(signal[:, 1::2])
    assert (fine["hidden"] - coarse["hidden"]).abs().max() < 0.03 * fine["hidden"].abs().max()


def test_kernels_that_are_kept_follow_the_weights(x):
    layer = LSSL(8, 4).eval()
    with torch.no_grad():
        first = layer(x)[0]
        torch.testing.assert_close(layer(x)[0], first)
        layer.log_step += math.log(2.0)
        assert (layer(x)[0] - first).abs().max() > 1e-4
        layer.rate = 0.5
        torch.testing.assert_close(layer(x)[0], first)
    assert layer(x)[0].requires_grad


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="state_size: 1 with 1 channels"):
        LSSL(4, 1)
