"""Seconds and bytes of calls on a device: a GPU is waited for, and its peak of memory is read."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any


def timed(call: Callable[[], Any], on_gpu: bool) -> float:
    """Seconds of a call, what it launched on a GPU included."""
    import torch

    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def start_peak(on_gpu: bool) -> None:
    """Begin to watch how much memory the device holds."""
    import torch

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()


def peak(on_gpu: bool) -> int | None:
    """Most bytes on the device since `start_peak`, weights included; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() if on_gpu else None


def clean(on_gpu: bool) -> None:
    """Give back memory that is not used any more."""
    import torch

    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
