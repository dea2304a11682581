"""S4D: a state-space layer with a diagonal complex matrix, which makes its kernel two lines and its step cheap.

Remembers, for each feature, N / 2 complex numbers that each decay and turn at a rate of their own.

Paper: On the Parameterization and Initialization of Diagonal State Space Models, arXiv:2206.11893 (2022), the successor of
LSSL, arXiv:2110.13985 (2021).
Differs: B is 1 and folded into C; the output goes through GELU and one linear map.
Cost: N float32 values a feature and row; O(N) a token, O(N L) memory a feature for chunks of L tokens.

Shapes: B rows, T tokens, H features (the width), N state size, L tokens a chunk.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.hippo import causal_convolution, log_steps, normal_legs
from recollect.state.layer import State, StateLayer

Start = Literal["lin", "inv", "legs"]


def start_values(start: Start, size: int) -> Tensor:
    """[N / 2] eigenvalues to begin with, complex128: -1/2 + i pi n ("lin"), the inverse law ("inv"), or those of HiPPO."""
    n = torch.arange(size // 2, dtype=torch.float64, device="cpu")
    if start == "lin":
        return -0.5 + 1j * math.pi * n
    if start == "inv":
        return -0.5 + 1j * (size / math.pi) * (size / (2 * n + 1) - 1)
    if start == "legs":
        return normal_legs(size)[0]
    raise InvalidInput(f"start: {start!r:.20} is not known; use lin, inv, legs.")


class S4D(StateLayer):
    """y = Linear(GELU(2 Re(C x) + D u)), x' = diag(lambda) x + u, held over each step (ZOH)."""

    def __init__(
        self,
        dim: int,
        state_size: int = 64,
        start: Start = "legs",
        step_min: float = 1e-3,
        step_max: float = 1e-1,
        rate: float = 1.0,  # times the step: 2 for a signal of which every second sample is given
        chunk_tokens: int = 2048,
    ):
        super().__init__(dim)
        if state_size < 2 or state_size % 2:
            raise InvalidInput(f"state_size: {state_size} is not even; use 2 or a larger even number.")
        self.state_size, self.rate, self.chunk_tokens = state_size, rate, chunk_tokens
        eigenvalues = start_values(start, state_size)
        self.log_decay = nn.Parameter((-eigenvalues.real).log().float().repeat(dim, 1))
        self.turn = nn.Parameter(eigenvalues.imag.float().repeat(dim, 1))
        self.log_step = nn.Parameter(log_steps(dim, step_min, step_max))
        self.output = nn.Parameter(torch.randn(dim, state_size // 2, 2) * 0.5**0.5)  # real and imaginary part
        self.skip = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, dim)

    def rate_factors(self) -> dict[str, float]:
        """Eigenvalues and steps learn slowly, as in the paper."""
        return dict.fromkeys(("log_decay", "turn", "log_step"), 0.25)

    def initial_state(self, num_rows: int = 1) -> State:
        """`hidden` [B, H, N / 2, 2], real and imaginary part: zeros."""
        return {"hidden": self.zeros(num_rows, self.dim, self.state_size // 2, 2)}

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        eigenvalues = torch.complex(-self.log_decay.float().exp(), self.turn.float())
        exponent = self.rate * self.log_step.float().exp()[:, None] * eigenvalues  # [H, N / 2]
        given = torch.expm1(exponent) / eigenvalues
        C = torch.view_as_complex(self.output.float())
        hidden, outputs = torch.view_as_complex(state["hidden"]), []
        for u in x.float().mT.split(self.chunk_tokens, -1):  # [B, H, L]
            L = u.shape[-1]
            powers = torch.exp(exponent[..., None] * torch.arange(L + 1, device=x.device))  # [H, N / 2, L + 1]
            kernel = 2 * torch.einsum("hnl,hn->hl", powers[..., :L], C * given).real
            carried = 2 * torch.einsum("hnl,bhn->bhl", powers[..., 1:], C * hidden).real
            outputs.append(causal_convolution(u, kernel) + carried)
            written = torch.einsum("hnl,bhl->bhn", powers[..., :L].flip(-1), u.to(powers.dtype))
            hidden = powers[..., L] * hidden + given * written
        y = torch.cat(outputs, -1).mT + self.skip.float() * x.float()
        return self.out(F.gelu(y).to(x.dtype)), {"hidden": torch.view_as_real(hidden)}
