"""Merging changes of one matrix: the weighted mean, and TIES, which trims, elects a sign and averages what agrees with it.

Paper: TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708 (2023), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_mean(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of changes, each times its weight."""
    return sum((change * weight for change, weight in zip(changes, weights, strict=True)), torch.zeros_like(changes[0]))


def merge_ties(changes: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """TIES of changes of one shape: of each the `density` of its non-zero entries with the largest magnitudes are kept.

    An entry's sign is that of the weighted sum; its value the weighted mean over the changes that agree, whose weights
    are made to sum to 1.
    """
    kept = torch.stack([_trimmed(change, density) for change in changes])
    share = torch.tensor(list(weights), dtype=kept.dtype, device=kept.device).view(-1, *[1] * changes[0].ndim)
    sign = (kept * share).sum(0).sign()
    agrees = (kept.sign() == sign) & (kept != 0)
    total = (share * agrees).sum(0)
    return (kept * share * agrees).sum(0) / total.clamp(min=torch.finfo(kept.dtype).tiny)


def _trimmed(change: Tensor, density: float) -> Tensor:
    """The largest entries of a change, the others zero."""
    sizes = change.abs().flatten()
    count = round(density * int((sizes > 0).sum()))
    if count == 0:
        return torch.zeros_like(change)
    least = sizes.kthvalue(len(sizes) - count + 1).values
    return torch.where(change.abs() >= least, change, 0)
