"""HiPPO matrices and discretisation against values computed by hand or by another road."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.hippo import causal_convolution, discretize, hippo, krylov, log_steps, normal_legs


def test_the_matrices_by_hand():
    A, B = hippo("legs", 3)
    root = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64).sqrt()
    torch.testing.assert_close(B, root)
    expected = [[-1, 0, 0], [-root[1], -2, 0], [-root[2], -root[1] * root[2], -3]]
    torch.testing.assert_close(A, torch.tensor(expected, dtype=torch.float64))
    A, B = hippo("legt", 2)
    torch.testing.assert_close(A, -0.5 * torch.tensor([[1, -(3**0.5)], [3**0.5, 3]], dtype=torch.float64))
    torch.testing.assert_close(B, root[:2] / 2)
    with pytest.raises(InvalidInput, match="measure: 'lagt' is not known"):
        hippo("lagt", 3)  # type: ignore[arg-type]


def test_the_random_matrix_is_stable():
    assert (torch.linalg.eigvals(hippo("random", 16)[0]).real < 0).all()


def test_the_normal_part_has_real_parts_of_minus_a_half_and_gives_the_matrix_back():
    values, vectors = normal_legs(6)
    torch.testing.assert_close(values.real, torch.full((3,), -0.5, dtype=torch.float64))
    root = (torch.arange(6, dtype=torch.float64) + 0.5).sqrt()
    normal = 2 * (vectors * values) @ vectors.mH  # the other of each pair is the conjugate
    torch.testing.assert_close(normal.real - root[:, None] * root, hippo("legs", 6)[0])


def test_discretisation_of_a_decay_by_hand():
    """x' = -x + u: Euler gives 1 - dt, backward Euler 1 / (1 + dt)."""
    A, B, step = torch.tensor([[-1.0]]), torch.tensor([1.0]), torch.tensor([0.5])
    for alpha, kept in ((0.0, 0.5), (0.5, 0.75 / 1.25), (1.0, 1 / 1.5)):
        Ab, Bb = discretize(A, B, step, alpha)
        assert Ab.item() == pytest.approx(kept)
        assert Bb.item() == pytest.approx(1 - kept)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_powers_and_convolution_are_their_loops(length):
    A, b = torch.randn(2, 3, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    expected = torch.stack([torch.einsum("hij,hj->hi", torch.linalg.matrix_power(A, t), b) for t in range(length)], -1)
    torch.testing.assert_close(krylov(A, b, length), expected)
    x, kernel = torch.randn(2, length), torch.randn(length)
    slow = torch.stack([(x[:, : t + 1] * kernel[: t + 1].flip(0)).sum(-1) for t in range(length)], -1)
    torch.testing.assert_close(causal_convolution(x, kernel), slow, atol=1e-5, rtol=1e-4)


def test_steps_lie_between_their_bounds():
    steps = log_steps(100, 1e-3, 1e-1).exp()
    assert 0.99e-3 < steps.min() < steps.max() < 1.01e-1
    with pytest.raises(InvalidInput, match=r"step_min: steps from 1 to 0\.1 are none"):
        log_steps(3, 1, 0.1)
