"""Cutting a stream into events: where the model is surprised, then where the keys say that a topic ends.

Pure functions on numbers, of use without a model too.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Metric = Literal["modularity", "conductance"]
Places = np.ndarray | int


def surprising(surprise: Tensor, before: Tensor, gamma: float) -> Tensor:
    """Which tokens open an event, bool [T]: those with surprise [T] above mean + gamma * deviation of `before` [any]."""
    return surprise > before.mean() + gamma * before.std(correction=0)


def adjacency(keys: Tensor) -> Tensor:
    """How alike tokens are, [T, T], from the keys [..., T, D] of heads and layers: cosines summed, no negative ones.

    The paper sums plain products, whose total may be near zero or negative, where modularity has no meaning.
    """
    unit = torch.nn.functional.normalize(keys.float().flatten(0, -3), dim=-1)
    return (unit @ unit.transpose(-1, -2)).sum(0).clamp(min=0).fill_diagonal_(0)


def refine(cuts: list[int], alike: Tensor, metric: Metric, min_event: int = 1) -> list[int]:
    """Cuts (ascending, each opens an event) moved left to where the two events on its sides are best told apart.

    From left to right, a cut b after the refined cut a (or 0) may move to any t with a + min_event <= t <= b. Each t is
    judged on the tokens from a - (b - a) / 2 to b + (b - a) / 2 of `alike` [T, T], by `score`. Their number stays.
    """
    sums = np.pad(alike.detach().double().numpy().cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    moved: list[int] = []
    for cut in cuts:
        start = moved[-1] if moved else 0
        margin = (cut - start) // 2
        left, right = max(0, start - margin), min(len(alike), cut + margin)
        places = np.arange(min(max(start + min_event, left + 1), cut), cut + 1)
        if right > cut and cut > start:
            places = places[places > left]
            moved.append(int(places[score(sums, left, places, right, metric).argmax()]))
        else:
            moved.append(cut)
    return moved


def score(sums: np.ndarray, left: int, places: np.ndarray, right: int, metric: Metric) -> np.ndarray:
    """How well each split of [left, right) at `places` [P] tells two communities apart; greater is better, [P].

    `sums` [T + 1, T + 1] are prefix sums of the likeness. Modularity: sum over both of (inside - degree ** 2 / total) /
    total. Conductance: minus what crosses over what is inside the smaller one.
    """

    def block(top: Places, bottom: Places, start: Places, end: Places) -> Any:
        return sums[bottom, end] - sums[top, end] - sums[bottom, start] + sums[top, start]

    first, second = block(left, places, left, places), block(places, right, places, right)
    total = max(block(left, right, left, right), 1e-12)
    crossing = (total - first - second) / 2
    if metric == "conductance":
        return -crossing / np.maximum(np.minimum(first, second), 1e-12)
    degrees = (first + crossing) ** 2 + (second + crossing) ** 2
    return (first + second) / total - degrees / total**2


def pieces(cuts: list[int], ready: int, min_event: int, max_event: int) -> list[int]:
    """Lengths of the events that can be formed from the oldest `ready` tokens, given cuts (each opens an event).

    An event ends at a cut, if it has `min_event` tokens by then, and at `max_event` tokens in any case.
    """
    found, start, opens = [], 0, set(cuts)
    for end in range(1, ready + 1):
        if end - start == max_event or (end in opens and end - start >= min_event):
            found.append(end - start)
            start = end
    return found
