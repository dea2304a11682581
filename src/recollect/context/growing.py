"""Tensors that grow at one end, on the device or in host memory, from which a GPU can read them by itself.

Cost: up to twice the room of what they hold, and while they grow what they held before beside it.

Shapes: B rows, n things.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Growing:
    """A tensor [B, n, ...] to which rows are appended along n; room is a power of two, so that n appends cost O(n).

    With `on_host` it lies in host memory wherever the rows come from; a GPU's are on their way while the program goes on.
    """

    def __init__(self, first: Tensor, on_host: bool = False):
        device = torch.device("cpu") if on_host else first.device
        self._room, self._length = _room_like(first, first.shape[1], device), 0
        self._arrived: torch.cuda.Event | None = None  # when all rows are there
        self.append(first)

    def append(self, more: Tensor) -> None:
        """Add `more` [B, m, ...]."""
        length = self._length + more.shape[1]
        if length > self._room.shape[1]:
            room = _room_like(self._room, 1 << (length - 1).bit_length(), self._room.device)
            room[:, : self._length] = self.tensor
            if room.is_pinned():
                torch.cuda.synchronize()  # a kernel may yet read the room that is given up
            self._room = room
            if room.is_pinned() and hasattr(torch.accelerator, "empty_host_cache"):
                torch.accelerator.empty_host_cache()  # else the rooms that were outgrown stay taken
        on_its_way = more.is_cuda and self._room.is_pinned()
        self._room[:, self._length : length].copy_(more, non_blocking=on_its_way)
        if on_its_way:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(more.device))
        self._length = length

    def shorten(self, length: int) -> None:
        """Take back what was appended beyond `length`."""
        self._length = length

    @property
    def tensor(self) -> Tensor:
        """What was appended so far [B, n, ...]; a view."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = None
        return self._room[:, : self._length]

    @property
    def room(self) -> Tensor:
        """All there is room for, [B, at least n, ...]: the same memory until that is used up.

        What is on its way there is found by later work of the GPU that it comes from, not by the program.
        """
        return self._room

    def map(self, function: Callable[[Tensor], Tensor]) -> Growing:
        """One with `function` applied to what was appended."""
        return Growing(function(self.tensor))

    def nbytes(self) -> int:
        """Bytes of the tensor and its spare room."""
        return self._room.untyped_storage().nbytes()


def _room_like(x: Tensor, length: int, device: torch.device) -> Tensor:
    """An empty tensor [B, length, ...] for rows like those of `x`, in pinned memory where a GPU may copy from it."""
    pinned = device.type == "cpu" and torch.cuda.is_available()
    with torch.inference_mode(False):  # else nothing could be appended outside of that mode
        return torch.empty((x.shape[0], length, *x.shape[2:]), dtype=x.dtype, device=device, pin_memory=pinned)
