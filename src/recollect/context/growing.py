"""Tensors that grow at one end, on the device or in host memory, from which a GPU can read them by itself.

On the device, room is doubled when it is used up. In host memory addresses are reserved for far more than there is, which
costs nothing, and pages are taken, and pinned for a GPU, as they are needed: nothing is copied while it grows, and no more
is touched than is used.

Shapes: B rows, n things.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

RESERVED_BYTES = 1 << 34  # addresses for a tensor in host memory, at least
TAKEN_BYTES = 1 << 26  # pages that are taken at once, at most: what lies there doubles up to that
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Growing:
    """A tensor [B, n, ...] to which things are appended along n; n appends cost O(n).

    With `on_host` it lies in host memory wherever they come from; a GPU's are on their way while the program goes on.
    """

    def __init__(self, first: Tensor, on_host: bool = False):
        self._host = HostRoom(first) if on_host else None
        self._room = self._host.tensor if self._host else _empty(first, first.shape[1])
        self._length = 0
        self._arrived: torch.cuda.Event | None = None  # when all is there
        self.append(first)

    def append(self, more: Tensor) -> None:
        """Add `more` [B, m, ...]."""
        start, length = self._length, self._length + more.shape[1]
        if length > self._room.shape[1]:
            before, old = self.tensor, (self._host, self._room)
            self._host = HostRoom(before, length) if self._host else None
            self._room = self._host.tensor if self._host else _empty(before, 1 << (length - 1).bit_length())
            try:
                self._write(before, 0)
            except BaseException:
                self._host, self._room = old
                raise
        self._write(more, start)
        if more.is_cuda and self._room.is_pinned():
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(more.device))
        self._length = length

    def _write(self, x: Tensor, start: int) -> None:
        """Write x [B, m, ...] from `start` on."""
        end = start + x.shape[1]
        for piece in self._host.pieces(start, end) if self._host else [slice(start, end)]:
            part = x[:, piece.start - start : piece.stop - start]
            self._room[:, piece].copy_(part, non_blocking=self._room.is_pinned())

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
        return self._room[:, : self._host.taken] if self._host else self._room

    def map(self, function: Callable[[Tensor], Tensor]) -> Growing:
        """One with `function` applied to what was appended."""
        return Growing(function(self.tensor), self._host is not None)

    def nbytes(self) -> int:
        """Bytes of the tensor and its spare room."""
        return self.room.nbytes


class HostRoom:
    """Host memory [B, capacity, ...] for things like those of `x` [B, n, ...], for at least `length` and far more of them.

    Only the first `taken` may be used. Raises MemoryError where there are no addresses, or pages cannot be pinned for a GPU.
    """

    def __init__(self, x: Tensor, length: int = 0):
        self._size = x[0, :1].numel() * x.element_size()  # bytes of a thing
        self._page = mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, self._size)  # things in whole pages
        length = max(length, x.shape[1])
        for capacity in (max(8 * length, RESERVED_BYTES // self._size), 2 * length):
            capacity = _ceil(capacity, self._page)
            with suppress(OSError, MemoryError):
                self._memory = _addresses(x.shape[0] * capacity * self._size)
                break
        else:
            raise MemoryError(f"host memory: there is none for {2 * length * x.shape[0] * self._size:,} bytes more.")
        with torch.inference_mode(False):  # else nothing could be appended outside of that mode
            flat = torch.frombuffer(self._memory, dtype=torch.uint8).view(x.dtype)
            self.tensor = flat.view(x.shape[0], capacity, *x.shape[2:])
        self.taken = 0
        self._ends: list[int] = []  # up to where things were taken, each time
        pinned: list[int] = []
        weakref.finalize(self, _unpin, pinned, self.tensor).atexit = False
        self._pinned = pinned  # addresses of pinned memory

    def take(self, length: int) -> None:
        """Have room for `length` things, which capacity allows."""
        if length <= self.taken:
            return
        ahead = min(2 * self.taken, self.taken + TAKEN_BYTES // self._size)
        end = min(_ceil(max(length, ahead), self._page), self.tensor.shape[1])
        if torch.cuda.is_available():
            before = len(self._pinned)
            try:
                for row in range(len(self.tensor)):
                    self._pin(
                        self.tensor[row, self.taken : end], (row * self.tensor.shape[1] + self.taken) * self._size
                    )
            except RuntimeError as error:
                cudart: Any = torch.cuda.cudart()
                for address in self._pinned[before:]:
                    cudart.cudaHostUnregister(address)
                del self._pinned[before:]
                more = len(self.tensor) * (end - self.taken) * self._size
                raise MemoryError(
                    f"host memory: {more:,} bytes more cannot be pinned ({error}); free some, or raise the limit of `ulimit -l`."
                ) from error
        self._ends.append(end)
        self.taken = end

    def _pin(self, part: Tensor, offset: int) -> None:
        """Pin memory that begins `offset` bytes behind the first address."""
        if hasattr(self._memory, "madvise") and hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE, offset, part.nbytes)
        part.zero_()  # all cores take the pages, which pinning alone would do with one
        cudart: Any = torch.cuda.cudart()
        torch.cuda.check_error(cudart.cudaHostRegister(part.data_ptr(), part.nbytes, 0))
        self._pinned.append(part.data_ptr())

    def pieces(self, start: int, end: int) -> Iterator[slice]:
        """The things from `start` to `end`, for which room is taken, as pieces that were pinned at once: what may be copied."""
        self.take(end)
        for stop in self._ends:
            if start < min(stop, end):
                yield slice(start, min(stop, end))
                start = min(stop, end)


def _ceil(number: int, step: int) -> int:
    return -(-number // step) * step


def _addresses(num_bytes: int) -> mmap.mmap:
    """Memory whose pages are taken when they are first written."""
    if os.name != "posix":
        return mmap.mmap(-1, num_bytes)
    return mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)


def _unpin(pinned: list[int], tensor: Tensor) -> None:
    """Let go of pinned memory, whose `tensor` lives until then, when no kernel reads it any more."""
    if pinned:
        cudart: Any = torch.cuda.cudart()
        with suppress(RuntimeError):  # of a device that failed before
            torch.cuda.synchronize()
            for address in pinned:
                cudart.cudaHostUnregister(address)


def _empty(x: Tensor, length: int) -> Tensor:
    """Room [B, length, ...] for things like those of x [B, n, ...], where they are."""
    with torch.inference_mode(False):  # else nothing could be appended outside of that mode
        return torch.empty((x.shape[0], length, *x.shape[2:]), dtype=x.dtype, device=x.device)
