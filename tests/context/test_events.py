"""Segmentation by hand and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect.context.events import adjacency, pieces, refine, score, surprising


def two_topics(sizes=(6, 6)) -> torch.Tensor:
    """Likeness 1 within a topic, 0.1 between topics, none with itself."""
    topic = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    return torch.where(topic[:, None] == topic, 1.0, 0.1).fill_diagonal_(0)


def test_a_token_opens_an_event_when_it_exceeds_mean_and_deviation():
    before = torch.tensor([1.0, 3.0])  # mean 2, deviation 1
    assert surprising(torch.tensor([2.9, 3.1, 4.0]), before, 1.0).tolist() == [False, True, True]
    assert surprising(torch.tensor([2.9, 3.1, 4.0]), before, 2.0).tolist() == [False, False, False]
    assert not surprising(torch.tensor([9.0]), before, float("inf")).any()


@pytest.mark.parametrize("metric", ["modularity", "conductance"])
def test_scores_equal_their_definitions(metric):
    alike = torch.rand(9, 9, generator=torch.Generator().manual_seed(0)).double()
    alike = (alike + alike.T).fill_diagonal_(0)
    sums = np.pad(alike.numpy().cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    left, right, places = 1, 8, np.arange(2, 8)
    part, expected = alike[left:right, left:right], []
    for place in places.tolist():
        side = torch.arange(left, right) < place
        if metric == "conductance":
            cross, volumes = part[side][:, ~side].sum(), [part[one][:, one].sum() for one in (side, ~side)]
            expected.append(-cross / max(min(volumes), 1e-12))
        else:
            total, degree, same = part.sum(), part.sum(1), side[:, None] == side
            expected.append(((part - degree[:, None] * degree / total) * same).sum() / total)
    np.testing.assert_allclose(score(sums, left, places, right, metric), torch.stack(expected).numpy(), rtol=1e-9)


@pytest.mark.parametrize("metric", ["modularity", "conductance"])
def test_a_late_cut_moves_to_the_border_and_a_right_one_stays(metric):
    assert refine([8], two_topics(), metric) == [6]
    assert refine([6], two_topics(), metric) == [6]
    assert refine([8, 13], two_topics((6, 5, 7)), metric) == [6, 11]
    assert len(refine([3, 4, 5, 9], two_topics(), metric, min_event=2)) == 4


def test_likeness_is_a_sum_of_cosines_without_negative_ones():
    keys = torch.tensor(
        [[[[1.0, 0], [2, 0], [0, 1]]], [[[1.0, 0], [0, 3], [0, -1]]]]
    )  # two layers, one head, three tokens
    assert adjacency(keys).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_events_end_at_cuts_unless_too_short_or_too_long():
    assert pieces([3, 5], 9, 1, 100) == [3, 2]  # what follows the last cut is not whole yet
    assert pieces([3, 5], 9, 4, 100) == [5]  # three tokens are too few: they join the next
    assert pieces([], 9, 1, 4) == [4, 4]
    assert pieces([2, 9], 9, 1, 4) == [2, 4, 3]
    assert pieces([2], 1, 1, 4) == []
