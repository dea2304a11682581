"""Recurrent networks: the loop equals torch's LSTM, peepholes see the right cell, both directions see both sides."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state import rnn
from recollect.state.rnn import GRU, LSTM, BidirectionalRNN, lstm_loop


def test_the_loop_is_the_lstm_of_torch_with_gradients(x):
    layer, found = LSTM(8), []
    state = {name: torch.randn_like(each) for name, each in layer.initial_state(3).items()}
    for run in (layer, lambda x, state: lstm_loop(layer.cell, x, state)):
        layer.zero_grad()
        y, new = run(x, state)
        (y.square().sum() + new["cell"].sum()).backward()
        found.append([y, new["hidden"], new["cell"], *(weight.grad for weight in layer.cell.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_peepholes_at_zero_change_nothing_and_the_output_gate_sees_the_new_cell():
    torch.manual_seed(0)
    layer = LSTM(1, peephole=True)
    plain = LSTM(1)
    plain.cell.load_state_dict(layer.cell.state_dict())
    x = torch.randn(2, 9, 1)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    with torch.no_grad():
        for weight in layer.cell.parameters():
            weight.zero_()
        layer.cell.weight_ih_l0[2] = 1.0  # g = tanh(x)
        layer.peepholes[2] = 3.0
    y, state = layer(torch.full((1, 1, 1), 2.0))
    cell = torch.tensor(2.0).tanh() / 2
    torch.testing.assert_close(state["cell"].squeeze(), cell)
    torch.testing.assert_close(y.squeeze(), cell.tanh() * torch.sigmoid(3 * cell))


def test_without_a_forget_gate_the_cell_keeps_everything():
    layer = LSTM(1, forget_gate=False)
    with torch.no_grad():
        for weight in layer.cell.parameters():
            weight.zero_()
    _, state = layer(torch.randn(1, 30, 1), {"hidden": torch.zeros(1, 1), "cell": torch.full((1, 1), 0.7)})
    assert state["cell"].item() == pytest.approx(0.7)


def test_the_forget_bias_begins_at_one_in_total():
    cell = LSTM(4).cell
    assert (cell.bias_ih_l0 + cell.bias_hh_l0).tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_both_directions_see_both_sides(x):
    layer = BidirectionalRNN(8, cell="rnn")
    y = layer(x)[0]
    for at in (0, 20):
        changed = x.clone()
        changed[:, at] += 1
        assert ((layer(changed)[0] - y)[:, 10].abs() > 0).any()
    with pytest.raises(InvalidInput, match="cell: 'ltsm' is not known"):
        BidirectionalRNN(8, cell="ltsm")  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [LSTM(8), GRU(8), BidirectionalRNN(8)], ids=["lstm", "gru", "both directions"])
def test_long_sequences_go_to_torch_in_pieces(x, layer, monkeypatch):
    y, state = layer(x)
    monkeypatch.setattr(rnn, "MOST_TOKENS", 5)
    in_pieces, last = layer(x)
    torch.testing.assert_close(in_pieces, y)
    for name in state:
        torch.testing.assert_close(last[name], state[name])
