"""What the recordings of the context home (a step of decoding) and of the state home (a step of training) share."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch


def abandon(pool: Any, device: torch.device) -> None:
    """End what PyTorch leaves open when a recording breaks off: the graph's memory pool, and the state of randomness."""
    with suppress(RuntimeError):  # raised where it was ended properly
        torch._C._cuda_endAllocateToPool(device.index, pool)
    generator = torch.cuda.default_generators[device.index]
    generator.graphsafe_set_state(generator.clone_state())
