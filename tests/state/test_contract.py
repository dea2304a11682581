"""The contract of the home: what every layer with a state holds to, at tiny size."""

from __future__ import annotations

import pytest
import torch

from recollect.errors import InvalidInput
from recollect.state.layer import detach, load_state, map_state, save_state, select, size_bytes, tensors

from .conftest import DIM, LENGTH, ROWS


def close(ours: torch.Tensor, other: torch.Tensor, within: float = 2e-5) -> None:
    assert ours.shape == other.shape
    assert ours.isfinite().all()
    assert (ours - other).abs().max() <= within * max(1.0, float(other.detach().abs().max()))


def close_states(ours, other, within: float = 2e-5) -> None:
    for (name, one), (other_name, two) in zip(tensors(ours), tensors(other), strict=True):
        assert name == other_name
        close(one.float(), two.float(), within)


def in_pieces(layer, x, cuts):
    """Outputs and the last state of reading x in pieces that begin at 0 and at each of `cuts`."""
    outputs, state = [], None
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        y, state = layer(x[:, start:end], state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def steps(layer, length):
    """Cuts that read token by token, after what must come in one call."""
    return list(range(max(1, layer.prefix_tokens), length))


def gradients(layer, x, cuts):
    """Outputs, and gradients of a loss that weighs every output differently, by inputs and parameters."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y, state = in_pieces(layer, x, cuts)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    extra = sum((tensor.float() ** 2).sum() for _, tensor in tensors(state) if tensor.is_floating_point())
    ((y * weight).sum() + 0.01 * extra).backward()
    grads = {name: each.grad for name, each in layer.named_parameters() if each.grad is not None}
    return y.detach(), x.grad, grads, state


@pytest.mark.parametrize("length", [1, 2, 7, LENGTH])
def test_a_sequence_is_a_loop_of_steps_forward_and_gradients(causal_layer, x, length):
    if length < causal_layer.prefix_tokens:
        pytest.skip("shorter than what comes in one call")
    y, by_x, by_weights, state = gradients(causal_layer, x[:, :length], [])
    y_steps, by_x_steps, by_weights_steps, state_steps = gradients(
        causal_layer, x[:, :length], steps(causal_layer, length)
    )
    close(y_steps, y)
    close(by_x_steps, by_x, 1e-4)
    close_states(state_steps, state)
    assert by_weights.keys() == by_weights_steps.keys()
    for name, grad in by_weights.items():
        close(by_weights_steps[name], grad, 1e-4)


def test_every_parameter_learns(layer, x):
    *_, by_weights, _ = gradients(layer, x, [])
    for name, weight in layer.named_parameters():
        if not weight.requires_grad:
            continue
        assert name in by_weights, name
        assert by_weights[name].shape == weight.shape
        assert by_weights[name].abs().max() > 0, name


@pytest.mark.parametrize("cuts", [[8, 16], [5, 6, 17]])
def test_read_in_pieces_is_read_at_once(causal_layer, x, cuts):
    y, state = causal_layer(x)
    y_pieces, state_pieces = in_pieces(causal_layer, x, [cut for cut in cuts if cut >= causal_layer.prefix_tokens])
    close(y_pieces, y)
    close_states(state_pieces, state)


def test_outputs_do_not_see_the_future(causal_layer, x):
    at = max(9, causal_layer.prefix_tokens)
    changed = x.clone()
    changed[:, at:] += 1.0
    close(causal_layer(changed)[0][:, :at], causal_layer(x)[0][:, :at])


def test_in_bfloat16(causal_layer, x):
    whole = causal_layer(x)[0]
    layer = causal_layer.bfloat16()
    y, state = layer(x.bfloat16())
    y_steps, state_steps = in_pieces(layer, x.bfloat16(), steps(layer, LENGTH))
    assert y.dtype == torch.bfloat16
    close(y_steps.float(), y.float(), 0.05)
    close_states(state_steps, state, 0.05)
    assert (y.float() - whole).abs().mean() <= 0.05 * whole.abs().max()  # a router may choose otherwise here and there


def test_a_batch_is_its_rows(layer, x):
    y, state = layer(x)
    for row in range(ROWS):
        alone, state_alone = layer(x[row : row + 1])
        close(alone, y[row : row + 1])
        close_states(state_alone, select(state, torch.tensor([row])))


def test_rows_of_a_state_are_selected(causal_layer, x):
    rows = torch.tensor([2, 0, 0])
    _, state = causal_layer(x[:, :13])
    close(causal_layer(x[rows, 13:], select(state, rows))[0], causal_layer(x)[0][rows, 13:])


def test_rows_are_reset_within_a_batch(layer, x):
    rows = torch.tensor([False, True, False])
    _, state = layer(x[:, :13])
    y, _ = layer(x[:, 13:], layer.reset(state, rows))
    fresh, _ = layer(x[:, 13:], layer.reset(layer.initial_state(ROWS), rows))
    kept, _ = layer(x[:, 13:], state)
    if not layer.prefix_tokens:
        close(fresh, layer(x[:, 13:])[0])
    close(y[1], fresh[1])
    close(y[[0, 2]], kept[[0, 2]])
    assert (y[1] - kept[1]).abs().max() > 1e-4  # what was forgotten was felt


def test_a_reset_in_the_middle_begins_a_document(causal_layer, x):
    if causal_layer.prefix_tokens:
        pytest.skip("the first tokens come in one call")
    reset = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    reset[0, 5] = reset[1, 5] = reset[1, 12] = reset[2, 0] = True
    y, state = causal_layer(x, None, reset)
    for row, starts in enumerate(([0, 5], [0, 5, 12], [0])):
        for start, end in zip(starts, [*starts[1:], LENGTH], strict=True):
            close(y[row, start:end], causal_layer(x[row : row + 1, start:end])[0][0])
    x_grad = torch.autograd.grad(causal_layer(x.requires_grad_(), None, reset)[0][0, 5:].sum(), x)[0]
    assert not x_grad[0, :5].any()
    assert x_grad[0, 5:].any()
    close(
        causal_layer(x[:1], select(state, torch.tensor([0])))[0],
        causal_layer(torch.cat([x[:1, 5:], x[:1]], 1))[0][:, -LENGTH:],
    )


def test_a_saved_state_goes_on_as_the_kept_one_does(layer, x, tmp_path):
    _, state = layer(x[:, :13])
    save_state(state, tmp_path / "state.safetensors")
    loaded = load_state(tmp_path / "state.safetensors")
    for (name, kept), (other_name, read) in zip(tensors(state), tensors(loaded), strict=True):
        assert name == other_name
        assert kept.dtype == read.dtype
        assert torch.equal(kept, read)
    close(layer(x[:, 13:], loaded)[0], layer(x[:, 13:], state)[0])


def test_a_detached_state_stops_the_gradient(layer, x):
    x = x.requires_grad_()
    _, state = layer(x[:, :13])
    y, _ = layer(x[:, 13:], state)
    through = torch.autograd.grad(y.sum(), x, retain_graph=True)[0][:, :13]
    assert through.any()
    cut, _ = layer(x[:, 13:], detach(state))
    close(cut, y)
    assert not torch.autograd.grad(cut.sum(), x)[0][:, :13].any()


def test_reading_leaves_the_state_as_it_was(layer, x):
    _, state = layer(x[:, :13])
    before = map_state(torch.Tensor.clone, state)
    layer(x[:, 13:], state)
    for (_, one), (_, two) in zip(tensors(before), tensors(state), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("length", [1, 13, LENGTH])
def test_the_size_is_that_of_the_tensors(layer, x, length):
    assert size_bytes(layer.initial_state(ROWS)) == ROWS * layer.state_bytes()
    _, state = layer(x[:, :length])
    assert size_bytes(state) == ROWS * layer.state_bytes(length)


def test_wrong_use_is_refused_in_one_sentence(layer, x):
    for wrong in (x[0], x[..., :-1], x[:, :0]):
        with pytest.raises(InvalidInput, match=rf"x: has shape .* give \[rows, tokens, {DIM}\]"):
            layer(wrong)
    with pytest.raises(InvalidInput, match="state: has 2 rows, x 3"):
        layer(x, layer(x[:2])[1])
    with pytest.raises(InvalidInput, match="reset: give booleans of shape"):
        layer(x, None, torch.zeros(ROWS, LENGTH))
