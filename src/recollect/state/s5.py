"""S5: one state-space system with many inputs and outputs for all features, run by an associative scan.

Remembers P / 2 complex numbers that all features write to and read from.

Paper: Simplified State Space Layers for Sequence Modeling, arXiv:2208.04933 (2022), a successor of LSSL, arXiv:2110.13985.
Differs: the output goes through GELU and one linear map.
Cost: P float32 values a row, O(P D) a token, O(P T) memory for T tokens.

Shapes: B rows, T tokens, D width, P state size, J blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.hippo import log_steps, normal_legs
from recollect.state.layer import State, StateLayer
from recollect.state.scan import linear_scan


class S5(StateLayer):
    """y = Linear(GELU(2 Re(C x) + D u)), x' = diag(lambda) x + B u; begins as `num_blocks` HiPPO systems side by side."""

    def __init__(
        self,
        dim: int,
        state_size: int = 64,
        num_blocks: int = 1,
        step_min: float = 1e-3,
        step_max: float = 1e-1,
        rate: float = 1.0,  # times the step: 2 for a signal of which every second sample is given
    ):
        super().__init__(dim)
        if num_blocks < 1 or state_size < 2 * num_blocks or state_size % (2 * num_blocks):
            raise InvalidInput(f"state_size: {state_size} does not make {num_blocks} blocks of even size; use another.")
        self.state_size, self.rate = state_size, rate
        size = state_size // num_blocks
        eigenvalues, vectors = normal_legs(size)
        self.log_decay = nn.Parameter((-eigenvalues.real).log().float().repeat(num_blocks))
        self.turn = nn.Parameter(eigenvalues.imag.float().repeat(num_blocks))
        self.log_step = nn.Parameter(log_steps(state_size // 2, step_min, step_max))
        vectors = vectors.to(torch.complex64)
        given = torch.randn(num_blocks, size, dim, device="cpu") / dim**0.5
        read = torch.randn(num_blocks, dim, size, device="cpu") / state_size**0.5
        self.input = nn.Parameter(torch.view_as_real(vectors.mH @ given.to(vectors.dtype)).flatten(0, 1))  # [P/2, D, 2]
        self.output = nn.Parameter(
            torch.view_as_real(read.to(vectors.dtype) @ vectors).transpose(0, 1).flatten(1, 2).contiguous()
        )  # [D, P/2, 2]
        self.skip = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, dim)

    def rate_factors(self) -> dict[str, float]:
        """Eigenvalues, steps and the input matrix learn slowly, as in the paper."""
        return dict.fromkeys(("log_decay", "turn", "log_step", "input"), 0.25)

    def initial_state(self, num_rows: int = 1) -> State:
        """`hidden` [B, P / 2, 2], real and imaginary part: zeros."""
        return {"hidden": self.zeros(num_rows, self.state_size // 2, 2)}

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        eigenvalues = torch.complex(-self.log_decay.float().exp(), self.turn.float())
        exponent = self.rate * self.log_step.float().exp() * eigenvalues
        given = torch.view_as_complex(self.input.float()) * (torch.expm1(exponent) / eigenvalues)[:, None]
        u = x.float()
        written = torch.einsum("btd,pd->btp", u.to(given.dtype), given)
        hidden = linear_scan(exponent.exp()[None, None], written, torch.view_as_complex(state["hidden"]))
        y = 2 * torch.einsum("btp,dp->btd", hidden, torch.view_as_complex(self.output.float())).real
        y = self.out(F.gelu(y + self.skip.float() * u).to(x.dtype))
        return y, {"hidden": torch.view_as_real(hidden[:, -1])}
