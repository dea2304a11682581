"""The simulated events have the rates and the likelihood that the equations give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect.benchmarks.hawkes import Hawkes
from recollect.errors import InvalidInput


def test_without_excitation_it_is_a_poisson_process():
    process = Hawkes(np.array([1.0, 3.0]), np.zeros((2, 2)))
    rows = process.simulate(200, 20, seed=0).tensors
    assert float(rows["times"][:, -1].mean()) == pytest.approx(20 / 4, rel=0.05)
    assert float((rows["types"] == 1).float().mean()) == pytest.approx(0.75, abs=0.03)
    by_hand = (torch.log(torch.tensor([1.0, 3.0]))[rows["types"]].sum() - 4 * rows["times"][:, -1].sum()) / (200 * 20)
    assert process.log_likelihood(rows["times"], rows["types"]) == pytest.approx(float(by_hand), abs=1e-4)


def test_excitation_makes_the_rate_that_theory_says():
    process = Hawkes(np.array([0.5]), np.array([[0.5]]), decay=2.0)  # stationary rate 0.5 / (1 - 0.5) = 1
    rows = process.simulate(100, 100, seed=1).tensors
    assert 100 / float(rows["times"][:, -1].mean()) == pytest.approx(1.0, rel=0.1)


def test_the_likelihood_is_that_of_two_events_by_hand():
    process = Hawkes(np.array([0.5]), np.array([[0.4]]), decay=2.0)
    times, types = torch.tensor([[1.0, 1.5]]), torch.tensor([[0, 0]])
    rate = 0.5 + 0.4 * 2.0 * np.exp(-1.0)
    integral = 0.5 * 1.5 + 0.4 * (1 - np.exp(-1.0))
    assert process.log_likelihood(times, types) == pytest.approx((np.log(0.5) + np.log(rate) - integral) / 2, abs=1e-6)


def test_the_truth_is_likelier_than_another_process():
    one, other = Hawkes.random(3, 0), Hawkes.random(3, 1)
    rows = one.simulate(30, 20, seed=2).tensors
    own, foreign = (each.log_likelihood(rows["times"], rows["types"]) for each in (one, other))
    assert own > foreign
    assert torch.equal(rows["times"], one.simulate(30, 20, seed=2).tensors["times"])
    with pytest.raises(InvalidInput, match="excitation: its largest eigenvalue"):
        Hawkes(np.array([1.0]), np.array([[1.0]]))
