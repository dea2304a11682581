"""A short causal convolution over time, one filter a channel: what many layers put before queries, keys and values.

Remembers the last `width - 1` inputs. Shapes: B rows, T tokens, D channels, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShortConvolution(nn.Module):
    """y_t = sum_i w_i * x_{t - i} for i < width, each channel by itself; starts as the identity."""

    def __init__(self, dim: int, width: int = 4):
        super().__init__()
        self.width = width
        weight = torch.zeros(dim, 1, width)
        weight[:, 0, -1] = 1.0
        self.weight = nn.Parameter(weight + 0.02 * torch.randn_like(weight))

    def initial_tail(self, num_rows: int) -> Tensor:
        """What came before the first token: zeros [B, W - 1, D]."""
        return self.weight.new_zeros(num_rows, self.width - 1, self.weight.shape[0])

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """(y [B, T, D], the next tail [B, W - 1, D]) for x [B, T, D] after the inputs in `tail`."""
        whole = torch.cat([tail.to(x.dtype), x], 1)
        y = F.conv1d(whole.mT, self.weight, groups=self.weight.shape[0]).mT
        return y, whole[:, whole.shape[1] - self.width + 1 :]
