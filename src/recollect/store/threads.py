"""The store's few threads, for work that lets go of the interpreter's lock: products of NumPy, an encoder, a scan.

A task must not wait for another one of the same pool.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")

NUM_THREADS = min(os.cpu_count() or 1, 8)

_shared: ThreadPoolExecutor | None = None


def pool() -> ThreadPoolExecutor:
    """The threads; a forked process makes its own."""
    global _shared
    if _shared is None:
        _shared = ThreadPoolExecutor(NUM_THREADS, "recollect")
    return _shared


def side_by_side(work: Callable[[Part], object], parts: Sequence[Part]) -> None:
    """Do every part of a work, the last one here and the others in the pool; raises what a part raises."""
    others = [pool().submit(work, part) for part in parts[:-1]]
    for part in parts[-1:]:
        work(part)
    for other in others:
        other.result()


def _forget() -> None:
    global _shared
    _shared = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
