"""State-space maths as plain functions: HiPPO matrices, discretisation, powers of a matrix, and long convolution.

A system x' = A x + B u, whose state x holds the coefficients of a polynomial that fits the history of u.

Papers: HiPPO, arXiv:2008.07669 (2020); LSSL, arXiv:2110.13985 (2021); S4, arXiv:2111.00396 (2021) for the normal form.

Shapes: N state size, L tokens, H features; leading dimensions are batched.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recollect.errors import InvalidInput

Measure = Literal["legs", "legt", "random"]


def hippo(measure: Measure, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(A [N, N], B [N]) in float64.

    "legs": all of the history, scaled Legendre; "legt": a sliding window of the last 2 units of time, translated Legendre;
    "random": normal, of spectral norm 1 and shifted by -1 to be stable: the control without HiPPO. Raises InvalidInput for
    another measure.
    """
    n = torch.arange(size, dtype=torch.float64, device="cpu")
    root = (2 * n + 1).sqrt()
    if measure == "legs":
        full = root[:, None] * root
        return -(full.tril(-1) + torch.diag(n + 1)), root
    if measure == "legt":
        sign = (-1.0) ** (n - n[:, None])
        return -0.5 * root[:, None] * root * torch.where(n <= n[:, None], 1.0, sign), root / 2
    if measure == "random":
        normal = torch.randn(
            size, size, dtype=torch.float64, device="cpu", generator=torch.Generator("cpu").manual_seed(seed)
        )
        eye = torch.eye(size, dtype=torch.float64, device="cpu")
        return normal / torch.linalg.matrix_norm(normal, 2) - eye, torch.ones_like(n)
    raise InvalidInput(f"measure: {measure!r:.20} is not known; use legs, legt, random.")


def normal_legs(size: int) -> tuple[Tensor, Tensor]:
    """(eigenvalues [N / 2], eigenvectors [N, N / 2]) of the normal part of "legs", of each conjugate pair the upper one.

    A = V diag(lambda) V* - P P^T with P_n = sqrt(n + 1/2); every lambda has the real part -1/2. complex128.
    """
    A, _ = hippo("legs", size)
    root = (torch.arange(size, dtype=torch.float64, device="cpu") + 0.5).sqrt()
    skew = A + root[:, None] * root + 0.5 * torch.eye(size, dtype=torch.float64, device="cpu")
    imaginary, vectors = torch.linalg.eigh(-1j * skew)
    upper = slice(size - size // 2, None)
    return -0.5 + 1j * imaginary[upper], vectors[:, upper]


def discretize(A: Tensor, B: Tensor, step: Tensor, alpha: float = 0.5) -> tuple[Tensor, Tensor]:
    """(A [H, N, N], B [H, N]) of x_t = A x_{t-1} + B u_t, for steps [H], by the generalised bilinear transform.

    `alpha` 0: Euler; 1/2: bilinear; 1: backward Euler. What cannot be solved comes out as numbers that are not finite, since
    to ask would be to wait for the GPU.
    """
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    scaled = step[:, None, None] * A
    both = torch.cat([eye + (1 - alpha) * scaled, (step[:, None] * B)[..., None]], -1)
    solved, _ = torch.linalg.solve_ex(eye - alpha * scaled, both)
    return solved[..., :-1], solved[..., -1]


def krylov(A: Tensor, b: Tensor, length: int) -> Tensor:
    """[..., N, L]: b, A b, A^2 b, ... for A [..., N, N] and b [..., N], by squaring A in logarithmic depth."""
    columns, power = b[..., None], A
    while columns.shape[-1] < length:
        columns = torch.cat([columns, power @ columns], -1)
        if columns.shape[-1] < length:
            power = power @ power
    return columns[..., :length]


def causal_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = sum_i kernel_i x_{t - i} over the last dimension, by FFT in float32; x [..., L], kernel [..., L], broadcast."""
    size = 2 * x.shape[-1]
    product = torch.fft.rfft(x.float(), size) * torch.fft.rfft(kernel.float(), size)
    return torch.fft.irfft(product, size)[..., : x.shape[-1]]


def log_steps(num: int, smallest: float, largest: float) -> Tensor:
    """[num] logarithms of step sizes, evenly random between those of the smallest and the largest."""
    if not 0 < smallest <= largest:
        raise InvalidInput(f"step_min: steps from {smallest} to {largest} are none; use 0 < step_min <= step_max.")
    low, high = torch.tensor([smallest, largest], device="cpu").log()
    return low + torch.rand(num) * (high - low)
