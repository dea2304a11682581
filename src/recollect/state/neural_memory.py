"""The neural memory of Titans: a small network whose weights are the state, and which learns while it reads.

Remembers what maps keys to values. Each token's key and value make a loss; its gradient is the surprise, which moves the
weights through a momentum, while a gate lets them decay. Alone it is the paper's LMM; `titans.py` joins it with attention.

Paper: Titans: Learning to Memorize at Test Time, arXiv:2501.00663 (2025), section 3.
Differs: the paper gives no sizes, no range of the gates and no order of convolution, SiLU and norm; ours are the defaults
below and the order of Gated DeltaNet. A token's gradient is clipped, without which a chunk of repeated tokens makes
the weights diverge. Surprise is measured at the weights with which a chunk began, as in the paper's
parallel form; `chunk_tokens` 1 is the rule token by token. No weights are kept a token: since the gradient of one token is
an outer product in each layer of the network, what a later token reads is attention over the chunk (`read_and_write`).
Cost: weights, their momentum and the chunk's first weights, 3 P float32 values a row, P parameters of the network (2 P with
chunks of one token, one less without momentum); O(P + C d) a token for chunks of C tokens.

Shapes: B rows, T tokens, D width, H heads, d head size, L tokens of one chunk.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect.errors import InvalidInput
from recollect.state.convolution import ShortConvolution
from recollect.state.layer import State, StateLayer, grouped

Weights = list[Tensor]  # of a network's layers, each [B, H, inputs, outputs]


class NeuralMemory(StateLayer):
    """A memory in each head: S_t = eta S - theta grad |M(k_t) - v_t|^2, W_t = (1 - alpha) W + S_t, read y_t = M(q_t)."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 2,
        depth: int = 2,  # of the network; the paper finds 2 and more best
        expansion: int = 2,  # inner width over the head size
        chunk_tokens: int = 16,
        max_step: float = 0.5,  # the largest theta
        max_surprise: float = 1.0,  # longer gradients of a token are scaled to this; not in the paper
        momentum: bool = True,
        forget: bool = True,
        learn: bool = True,  # False: the weights stay as they began, the control without a memory
        conv_tokens: int = 4,
    ):
        super().__init__(dim)
        if dim % num_heads:
            raise InvalidInput(f"num_heads: {num_heads} does not divide {dim}; use another number.")
        if depth < 1 or expansion < 1 or chunk_tokens < 1:
            raise InvalidInput("depth: depth, expansion and chunk_tokens count from 1; use larger ones.")
        self.num_heads, self.chunk_tokens = num_heads, chunk_tokens
        self.max_step, self.max_surprise = max_step, max_surprise
        self.momentum, self.forget, self.learn = momentum, forget, learn
        size = dim // num_heads
        sizes = [size, *[expansion * size] * (depth - 1), size]
        self.start = nn.ParameterList(torch.randn(num_heads, one, two) / (2 * one**0.5) for one, two in pairwise(sizes))
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.conv = ShortConvolution(3 * dim, conv_tokens) if conv_tokens else None
        gates = [-2.0, *([1.0] if momentum else []), *([-4.0] if forget else [])] if learn else []  # logits at first
        self.gates = nn.Linear(dim, len(gates) * num_heads) if gates else None
        if self.gates:
            with torch.no_grad():
                self.gates.weight.mul_(0.1)
                self.gates.bias.copy_(torch.tensor(gates).repeat_interleave(num_heads))
        self.norm = nn.RMSNorm(size)
        self.gate = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, num_rows: int = 1) -> State:
        """`weights` by layer [B, H, inputs, outputs], their `momentum`, the chunk's `first` weights, `place` [B] in the chunk."""
        weights = {str(n): each.float().expand(num_rows, *each.shape) for n, each in enumerate(self.start)}
        state: State = {"weights": weights, "place": torch.zeros(num_rows, dtype=torch.int64, device="cpu")}
        if self.learn and self.momentum:
            state["momentum"] = {name: torch.zeros_like(each) for name, each in weights.items()}
        if self.learn and self.chunk_tokens > 1:
            state["first"] = weights
        return state | ({"tail": self.conv.initial_tail(num_rows)} if self.conv else {})

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        said, state = self.answer(x, state)
        return self.gated(said, x), state

    def answer(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(y [B, T, D] normalised by head, the state after x [B, T, D]): `mix` without the gate and the projection."""
        return grouped(self._answer, x, state, state["place"])

    def gated(self, said: Tensor, by: Tensor) -> Tensor:
        """An answer [B, T, D] gated by the input or by what stands beside it [B, T, D], and projected."""
        return self.out(said * F.silu(self.gate(by)))

    def _answer(self, x: Tensor, state: State, place: int) -> tuple[Tensor, State]:
        """All rows at the same place of their chunk."""
        new: State = {}
        projected = self.project(x)
        if self.conv:
            projected, new["tail"] = self.conv(projected, state["tail"])
        q, k, v = (
            F.silu(projected.float()).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )  # [B, H, T, d]
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = list(state["weights"].values())
        if not self.learn:
            y, moved = look(weights, q), {"weights": state["weights"], "place": state["place"]}
        else:
            y, moved = self._learn(x, q, k, v, state, weights, place)
        return self.norm(y.transpose(1, 2).to(x.dtype)).flatten(2), self._in_order(moved | new)

    def _learn(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, weights: Weights, place: int
    ) -> tuple[Tensor, State]:
        step, eta, keep = self._gates(x)
        momentum = list(state["momentum"].values()) if self.momentum else None
        first = list(state["first"].values()) if "first" in state else weights
        outputs, T, at = [], x.shape[1], 0
        while at < T:
            span = slice(at, min(T, at + self.chunk_tokens - place))
            gates = (
                step[..., span],
                None if eta is None else eta[..., span],
                None if keep is None else keep[..., span],
            )
            y, weights, momentum = read_and_write(
                q[:, :, span], k[:, :, span], v[:, :, span], *gates, first, weights, momentum, self.max_surprise
            )
            outputs.append(y)
            place = (place + span.stop - at) % self.chunk_tokens
            first, at = (first if place else weights), span.stop
        moved: State = {"weights": _named(weights), "place": torch.full_like(state["place"], place)}
        if momentum is not None:
            moved["momentum"] = _named(momentum)
        if "first" in state:
            moved["first"] = _named(first)
        return torch.cat(outputs, 2), moved

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """theta [B, H, T], log eta and log (1 - alpha), None for those that are left out."""
        assert self.gates
        found = self.gates(x).float().mT.unflatten(1, (-1, self.num_heads)).unbind(1)
        eta = F.logsigmoid(found[1]) if self.momentum else None
        return self.max_step * found[0].sigmoid(), eta, F.logsigmoid(-found[-1]) if self.forget else None

    @staticmethod
    def _in_order(state: State) -> State:
        return {name: state[name] for name in ("weights", "place", "momentum", "first", "tail") if name in state}


def _named(weights: Weights) -> State:
    return {str(n): each for n, each in enumerate(weights)}


def look(weights: Weights, x: Tensor) -> Tensor:
    """What the network says to x [B, H, L, d]: linear maps with GELU between them."""
    for number, weight in enumerate(weights):
        x = x @ weight if number == 0 else F.gelu(x) @ weight
    return x


def read_and_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    step: Tensor,
    log_eta: Tensor | None,
    log_keep: Tensor | None,
    first: Weights,
    weights: Weights,
    momentum: Weights | None,
    max_surprise: float,
) -> tuple[Tensor, Weights, Weights | None]:
    """(y [B, H, L, d], weights, momentum) of L tokens, whose surprise is measured at the weights `first`.

    Unrolled, W_t = keep_t W + carry_t S - sum_j G[t, j] u_j, where u_j = a_j^T e_j is the gradient of token j in a layer, a_j
    what came into the layer and e_j the error that went out. Then h W_t is attention of h over all a_j with values e_j.
    """
    inputs, products, inner = [], [], k
    for number, weight in enumerate(first):  # forward, at the chunk's first weights
        inputs.append(inner if number == 0 else F.gelu(inner))
        inner = inputs[-1] @ weight
        products.append(inner)
    errors = [2 * (inner - v)]
    for number in range(len(first) - 1, 0, -1):  # backward
        errors.append(torch.ops.aten.gelu_backward(errors[-1] @ first[number].mT, products[number - 1]))
    errors.reverse()
    squares = [a.square().sum(-1) * e.square().sum(-1) for a, e in zip(inputs, errors, strict=True)]
    clip = (max_surprise * (torch.stack(squares).sum(0) + 1e-12).rsqrt()).clamp(max=1.0)[..., None]
    errors = [clip * each for each in errors]

    L = q.shape[2]
    lower = torch.ones(L, L, dtype=torch.bool, device=q.device).tril()
    decay, keep = (lower.to(step.dtype), torch.ones_like(step)) if log_keep is None else _ratios(log_keep, lower)
    if log_eta is None:
        G, passed, rest = decay * step[..., None, :], None, None
    else:
        pushed, passed = _ratios(log_eta, lower)  # of what a gradient is at i in the momentum; of the old momentum
        G, rest = (decay @ pushed) * step[..., None, :], pushed[..., -1, :] * step
        carry = (decay @ passed[..., None])[..., 0]

    y, new, pace = q, [], []
    for number, weight in enumerate(weights):
        h = y if number == 0 else F.gelu(y)
        a, e = inputs[number], errors[number]
        y = keep[..., None] * (h @ weight) - ((h @ a.mT) * G) @ e
        after = keep[..., -1, None, None] * weight - (G[..., -1, :, None] * a).mT @ e
        if momentum is not None and passed is not None and rest is not None:
            S = momentum[number]
            y = y + carry[..., None] * (h @ S)
            after = after + carry[..., -1, None, None] * S
            pace.append(passed[..., -1, None, None] * S - (rest[..., None] * a).mT @ e)
        new.append(after)
    return y, new, pace or None


def _ratios(logs: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Products of exp(logs [B, H, L]): after j up to i, [B, H, i, j], zero for j > i; and from the start through i."""
    total = logs.cumsum(-1)
    return (total[..., :, None] - total[..., None, :]).masked_fill(~lower, -torch.inf).exp(), total.exp()
