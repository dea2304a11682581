"""LSSL: a linear differential equation for each feature, whose state is an optimal summary of the feature's history.

Remembers, for each feature, the coefficients of a polynomial that is fitted to the past of its input; HiPPO matrices make it
so. A sequence is read as a convolution; what came before enters through powers of the matrix, and the state after it comes
from the same powers. One token is one step of the recurrence.

Paper: Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers, arXiv:2110.13985
(2021), sections 3 to 5.
Differs: all features share A and B, and differ in step and in C. Products are made with dense matrices, since the paper's
fast algorithm is unstable. `learn_matrix` False is LSSL-f. Use S4D where fidelity is not the point: it is cheaper.
Cost: N float32 values a feature and row; O(N^2 + N L) operations and O(N L) memory a feature for chunks of L tokens.

Shapes: B rows, T tokens, H features (the width), N state size, M channels, L tokens a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.hippo import Measure, causal_convolution, discretize, hippo, krylov, log_steps
from recollect.state.layer import State, StateLayer


class LSSL(StateLayer):
    """y = Linear(GELU(C x + D u)), x' = A x + B u."""

    def __init__(
        self,
        dim: int,
        state_size: int = 64,  # the paper: 256
        channels: int = 1,
        measure: Measure = "legs",
        learn_matrix: bool = True,
        learn_step: bool = True,
        step_min: float = 1e-3,
        step_max: float = 1e-1,
        alpha: float = 0.5,
        rate: float = 1.0,  # times the step: 2 for a signal of which every second sample is given
        chunk_tokens: int = 512,
    ):
        super().__init__(dim)
        if state_size < 2 or channels < 1:
            raise InvalidInput(f"state_size: {state_size} with {channels} channels is too small; use 2 or more with 1.")
        self.state_size, self.alpha, self.rate, self.chunk_tokens = state_size, alpha, rate, chunk_tokens
        A, B = hippo(measure, state_size)
        if learn_matrix:
            for name, value in structure(measure, state_size).items():
                self.register_parameter(name, nn.Parameter(value.float()))
        else:
            self.register_buffer("matrix", A.float())
        self.learn_matrix = learn_matrix
        self.input = nn.Parameter(B.float(), requires_grad=learn_matrix)
        self.log_step = nn.Parameter(log_steps(dim, step_min, step_max), requires_grad=learn_step)
        self.output = nn.Parameter(torch.randn(dim, channels, state_size) / state_size**0.5)
        self.skip = nn.Parameter(torch.ones(dim, channels))
        self.out = nn.Linear(dim * channels, dim)
        self._cached: tuple[object, tuple[Tensor, Tensor]] | None = None

    def rate_factors(self) -> dict[str, float]:
        """The matrix and the steps learn slowly, as in the paper."""
        learned = dict.fromkeys(("p", "q", "diagonal", "lower", "middle", "upper", "input"), 0.025)
        return (learned if self.learn_matrix else {}) | {"log_step": 0.25}

    def system(self) -> tuple[Tensor, Tensor]:
        """(A [N, N], B [N]) as they are now, in float64."""
        B = self.input.double()
        if not self.learn_matrix:
            return self.get_buffer("matrix").double(), B
        parts = {name: self.get_parameter(name).double() for name in STRUCTURE}
        return compose(**parts), B

    def _discrete(self) -> tuple[Tensor, Tensor]:
        """(A [H, N, N], B [H, N]) of a step; kept while no gradient is wanted and nothing they depend on has changed."""
        weights = [*self.parameters(), *self.buffers()]
        key = (self.rate, [(each._version, each.data_ptr(), each.dtype) for each in weights])
        if torch.is_grad_enabled():
            self._cached = None
        elif self._cached is not None and self._cached[0] == key:
            return self._cached[1]
        found = discretize(*self.system(), self.rate * self.log_step.double().exp(), self.alpha)
        if not torch.is_grad_enabled():
            self._cached = (key, found)
        return found

    def initial_state(self, num_rows: int = 1) -> State:
        """`hidden` [B, H, N]: zeros."""
        return {"hidden": self.zeros(num_rows, self.dim, self.state_size)}

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        A, B = self._discrete()
        hidden, outputs = state["hidden"], []
        for u in x.float().mT.split(self.chunk_tokens, -1):  # [B, H, L]
            y, hidden = self._chunk(u, hidden, A, B)
            outputs.append(y)
        y = torch.cat(outputs, -1)  # [B, H, M, T]
        y = y + self.skip.float()[..., None] * x.float().mT[:, :, None]
        return self.out(F.gelu(y.flatten(1, 2).mT).to(x.dtype)), {"hidden": hidden}

    def _chunk(self, u: Tensor, hidden: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [B, H, M, L] and the next hidden [B, H, N] of inputs u [B, H, L]."""
        L, C = u.shape[-1], self.output.double()
        rows = torch.stack([krylov(A.mT, C[:, m], L + 1) for m in range(C.shape[1])], 1)  # C A^t: [H, M, N, L + 1]
        kernel = torch.einsum("hmnl,hn->hml", rows[..., :L], B).float()
        carried = torch.einsum("hmnl,bhn->bhml", rows[..., 1:].float(), hidden)
        y = causal_convolution(u[:, :, None], kernel) + carried
        columns = krylov(A, B, L)  # A^t B: [H, N, L]
        kept = torch.linalg.matrix_power(A, L).float()
        hidden = torch.einsum("hnk,bhk->bhn", kept, hidden) + torch.einsum("hnl,bhl->bhn", columns.flip(-1).float(), u)
        return y, hidden


STRUCTURE = ("p", "q", "diagonal", "lower", "middle", "upper")


def structure(measure: Measure, size: int) -> dict[str, Tensor]:
    """The parameters of A = -diag(p) (T^-1 + diag(diagonal)) diag(q), T tridiagonal: O(N) numbers that give a HiPPO matrix.

    Raises InvalidInput for a measure that has no such form.
    """
    n = torch.arange(size, dtype=torch.float64, device="cpu")
    root, ones = (2 * n + 1).sqrt(), torch.ones(size - 1, dtype=torch.float64, device="cpu")
    if measure == "legs":  # T^-1 is the lower triangle of ones
        return {
            "p": root,
            "q": root,
            "diagonal": -n / (2 * n + 1),
            "lower": -ones,
            "middle": torch.ones_like(n),
            "upper": 0 * ones,
        }
    if measure == "legt":
        middle = torch.zeros_like(n)
        middle[0] = middle[-1] = 0.5
        return {
            "p": root / 2,
            "q": root,
            "diagonal": 0 * n,
            "lower": -0.5 * ones,
            "middle": middle,
            "upper": 0.5 * ones,
        }
    raise InvalidInput(f"measure: {measure!r:.20} cannot be learned; use legs, legt, or learn_matrix=False.")


def compose(p: Tensor, q: Tensor, diagonal: Tensor, lower: Tensor, middle: Tensor, upper: Tensor) -> Tensor:
    """A [N, N] from the parameters of `structure`."""
    tridiagonal = torch.diag(middle) + torch.diag(lower, -1) + torch.diag(upper, 1)
    eye = torch.eye(len(p), dtype=p.dtype, device=p.device)
    inverse, _ = torch.linalg.solve_ex(tridiagonal, eye)  # `inv` would wait for a GPU to ask whether there is one
    return -p[:, None] * (inverse + torch.diag(diagonal)) * q
