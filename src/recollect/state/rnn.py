"""Recurrent networks of the review: Elman's, LSTM with forget gate and peepholes, GRU, and any of them in both directions.

Remembers a vector, squashed at each step (Elman, GRU), or beside it a cell that is written and forgotten by gates (LSTM).

Paper: A Critical Review of Recurrent Neural Networks for Sequence Learning, arXiv:1506.00019 (2015), sections 2 to 4. The
GRU is of arXiv:1406.1078 (2014).
Differs: the forget gate's bias begins at 1, as later practice has it; the hidden vector is mapped back to the layer's width
where their sizes differ. `torch.nn.LSTM` does the work where it can; `lstm_loop` is its readable twin, and does the rest.
Cost: S float32 values a row (LSTM 2 S), O(S (S + D)) a token; no parallelism over time.

Shapes: B rows, T tokens, D width, S state size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recollect.errors import InvalidInput
from recollect.state.layer import State, StateLayer

Cell = Literal["rnn", "lstm", "gru"]
CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
MOST_TOKENS = 1 << 15  # at a time: cuDNN refuses 65,536


def _read(cell: nn.RNNBase, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Outputs [B, T, S] of a cell of torch from a state, and the state after them."""
    outputs = []
    for piece in x.split(MOST_TOKENS, 1):
        given = [state[name][None].to(x.dtype).contiguous() for name in _names(cell)]
        y, last = cell(piece, tuple(given) if len(given) > 1 else given[0])
        last = last if isinstance(last, tuple) else (last,)
        state = {name: each[0].float() for name, each in zip(_names(cell), last, strict=True)}
        outputs.append(y)
    return torch.cat(outputs, 1), state


def _names(cell: nn.RNNBase) -> tuple[str, ...]:
    return ("hidden", "cell") if isinstance(cell, nn.LSTM) else ("hidden",)


def _make_cell(cell: Cell, dim: int, state_size: int, forget_bias: float) -> nn.RNNBase:
    if cell not in CELLS:
        raise InvalidInput(f"cell: {cell!r:.20} is not known; use one of {', '.join(CELLS)}.")
    made = CELLS[cell](dim, state_size, batch_first=True)
    nn.init.orthogonal_(made.weight_hh_l0)
    for bias in (made.bias_ih_l0, made.bias_hh_l0):
        nn.init.zeros_(bias)
    if cell == "lstm":
        nn.init.constant_(made.bias_ih_l0[state_size : 2 * state_size], forget_bias)
    return made


class _Recurrent(StateLayer):
    """What the one-directional layers share: a cell of torch, and a map back to the width where sizes differ."""

    kind: Cell

    def __init__(self, dim: int, state_size: int | None = None, forget_bias: float = 1.0):
        super().__init__(dim)
        self.state_size = state_size or dim
        self.cell = _make_cell(self.kind, dim, self.state_size, forget_bias)
        self.out = nn.Identity() if self.state_size == dim else nn.Linear(self.state_size, dim)

    def initial_state(self, num_rows: int = 1) -> State:
        """`hidden` [B, S], and of the LSTM `cell` [B, S]: zeros in float32."""
        return {name: self.zeros(num_rows, self.state_size) for name in _names(self.cell)}

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        y, new = _read(self.cell, x, state)
        return self.out(y), new


class ElmanRNN(_Recurrent):
    """h_t = tanh(W x_t + U h_{t-1} + b)."""

    kind = "rnn"

    def __init__(self, dim: int, state_size: int | None = None):
        super().__init__(dim, state_size)


class GRU(_Recurrent):
    """h_t = (1 - z) n + z h_{t-1}: one gate mixes the old vector with a new one made from a part of it."""

    kind = "gru"

    def __init__(self, dim: int, state_size: int | None = None):
        super().__init__(dim, state_size)


class LSTM(_Recurrent):
    """s_t = g i + s_{t-1} f; h_t = tanh(s_t) o, with gates i, f, o and input g from x_t and h_{t-1}.

    `peephole`: the gates see the cell too, through one weight a unit, zero at first; o sees s_t, i and f see s_{t-1}.
    `forget_gate` False: f = 1, the cell of 1997.
    """

    kind = "lstm"

    def __init__(
        self,
        dim: int,
        state_size: int | None = None,
        peephole: bool = False,
        forget_gate: bool = True,
        forget_bias: float = 1.0,
    ):
        super().__init__(dim, state_size, forget_bias)
        self.forget_gate = forget_gate
        self.peepholes = nn.Parameter(torch.zeros(3, self.state_size)) if peephole else None  # of i, f, o

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        if self.peepholes is None and self.forget_gate:
            return super().mix(x, state)
        y, new = lstm_loop(self.cell, x, state, self.peepholes, self.forget_gate)
        return self.out(y), new


def lstm_loop(
    cell: nn.RNNBase, x: Tensor, state: State, peepholes: Tensor | None = None, forget_gate: bool = True
) -> tuple[Tensor, State]:
    """The LSTM token by token, on the weights of a `torch.nn.LSTM`, whose gates are in the order i, f, g, o."""
    h, s, found = state["hidden"], state["cell"], []
    by_input, by_hidden, bias, other_bias = cell.parameters()
    given = x @ by_input.T + bias + other_bias
    see_i, see_f, see_o = (0, 0, 0) if peepholes is None else peepholes
    for t in range(x.shape[1]):
        i, f, g, o = (given[:, t] + h.to(x.dtype) @ by_hidden.T).float().chunk(4, -1)
        forget = torch.sigmoid(f + see_f * s) if forget_gate else 1.0
        s = torch.tanh(g) * torch.sigmoid(i + see_i * s) + s * forget
        h = torch.tanh(s) * torch.sigmoid(o + see_o * s)
        found.append(h.to(x.dtype))
    return torch.stack(found, 1), {"hidden": h, "cell": s}


class BidirectionalRNN(StateLayer):
    """One cell reads forward, another backward, and both are mapped to the output.

    The forward one goes on from call to call; the backward one begins at the end of each call, so that an output depends on
    what the call holds after it. Not for generation.
    """

    causal = False

    def __init__(self, dim: int, state_size: int | None = None, cell: Cell = "lstm", forget_bias: float = 1.0):
        super().__init__(dim)
        self.state_size = state_size or dim
        self.ahead = _make_cell(cell, dim, self.state_size, forget_bias)
        self.back = _make_cell(cell, dim, self.state_size, forget_bias)
        self.out = nn.Linear(2 * self.state_size, dim)

    def initial_state(self, num_rows: int = 1) -> State:
        """Of the forward cell; see `LSTM.initial_state`."""
        return {name: self.zeros(num_rows, self.state_size) for name in _names(self.ahead)}

    def mix(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See `StateLayer.mix`."""
        ahead, new = _read(self.ahead, x, state)
        back, _ = _read(self.back, x.flip(1), self.initial_state(x.shape[0]))
        return self.out(torch.cat([ahead, back.flip(1)], -1)), new
