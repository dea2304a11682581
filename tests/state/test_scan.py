"""Scans and chunked recurrences against their loops, forward and gradients."""

from __future__ import annotations

import pytest
import torch

from recollect.state.scan import associative_scan, linear_loop, linear_scan, recurrence, recurrence_loop, running_sum


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same_with_gradients(one, other, inputs, within):
    """Both functions give the same, and the same gradients by every input."""
    found = []
    for function in (one, other):
        leaves = [each.clone().requires_grad_() for each in inputs]
        outputs = function(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum((each * (1 + torch.arange(each.numel()).view(each.shape) % 5)).real.sum() for each in outputs)
        found.append([*outputs, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=within, rtol=within)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13, 64])
@pytest.mark.parametrize("trailing", [(3,), (2, 3, 4)])
def test_the_scan_is_the_loop(length, trailing):
    decay, value = random(2, length, *trailing).sigmoid(), random(2, length, *trailing, seed=1)
    same_with_gradients(linear_scan, linear_loop, [decay, value, random(2, *trailing, seed=2)], 1e-10)
    same_with_gradients(linear_scan, linear_loop, [decay, value], 1e-10)


def test_decay_that_is_complex_and_broadcast():
    decay = torch.polar(torch.tensor([0.9, 0.5]), torch.tensor([0.3, -2.0])).view(1, 1, 2)
    value = torch.complex(random(2, 9, 2, dtype=torch.float32), random(2, 9, 2, seed=1, dtype=torch.float32))
    same_with_gradients(linear_scan, linear_loop, [decay, value, value[:, 0]], 1e-5)


def test_any_associative_operation_by_hand():
    matrices = random(1, 5, 2, 2)
    (found,) = associative_scan(lambda earlier, later: (later[0] @ earlier[0],), (matrices,))
    expected = matrices[0, 0]
    for t in range(1, 5):
        expected = matrices[0, t] @ expected
        torch.testing.assert_close(found[0, t], expected)


@pytest.mark.parametrize("length", [1, 8, 21])
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("delta", [False, True])
def test_the_chunked_recurrence_is_the_loop(length, decay, delta):
    B, H, K, V = 2, 2, 4, 3
    q, v, memory = random(B, length, H, K), random(B, length, H, V, seed=1), random(B, H, K, V, seed=2)
    k = torch.nn.functional.normalize(random(B, length, H, K, seed=3), dim=-1)
    inputs = [each.float() for each in (q, k, v, memory)]
    names = [name for name, given in (("log_decay", decay), ("rate", delta)) if given]
    inputs += [-random(B, length, H, seed=4).float().exp()] if decay else []
    inputs += [random(B, length, H, seed=5).float().sigmoid()] if delta else []

    def chunked(*given):
        return recurrence(*given[:4], **dict(zip(names, given[4:], strict=True)), chunk_tokens=8)

    def loop(*given):
        return recurrence_loop(*given[:4], **dict(zip(names, given[4:], strict=True)))

    same_with_gradients(chunked, loop, inputs, 1e-4)


def test_the_delta_rule_by_hand():
    """Written twice under one key, the memory holds the second value; half a step goes half way."""
    key = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    values = torch.tensor([2.0, 4.0, 8.0]).view(1, 3, 1, 1)
    rate = torch.tensor([1.0, 1.0, 0.5]).view(1, 3, 1)
    y, memory = recurrence(key, key, values, torch.zeros(1, 1, 2, 1), rate=rate)
    assert y.flatten().tolist() == [2.0, 4.0, 6.0]
    assert memory.flatten().tolist() == [6.0, 0.0]


def test_strong_forgetting_over_a_long_chunk_stays_finite():
    q = torch.ones(1, 64, 1, 1)
    y, _ = recurrence(q, q, q, torch.zeros(1, 1, 1, 1), log_decay=torch.full((1, 64, 1), -50.0), chunk_tokens=64)
    torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize("length", [1, 4, 8, 9, 23])
def test_a_sum_in_two_levels(length):
    same_with_gradients(lambda x: (running_sum(x, 4),), lambda x: (x.cumsum(1),), [random(2, length, 3, 5)], 1e-12)
