"""Work in several processes side by side: small models keep one core busy, not a machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context, parent_process
from typing import Any, TypeVar

Job = TypeVar("Job")
Found = TypeVar("Found")


def _begin(started: Any) -> None:
    """One thread for each process; where there are several CUDA devices, the processes take turns at being on them.

    An interruption is the caller's, who ends the processes; they end by themselves when the caller is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _end_with_the_caller() -> None:
    caller = parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


def each(
    work: Callable[[Job], Found], jobs: Sequence[Job], workers: int = 1, more: Callable[[], bool] = lambda: True
) -> Iterator[tuple[Job, Found]]:
    """(job, what `work` makes of it) as they come; with one worker in this process and in order.

    No job is begun once `more()` is false. With several workers `work` must be a function of a module, or a partial of one.
    """
    if workers == 1:
        for job in jobs:
            if more():
                yield job, work(job)
        return
    context, left, others = get_context("spawn"), list(jobs), set(active_children())
    with ProcessPoolExecutor(min(workers, len(left)) or 1, context, _begin, (context.Value("i", 0),)) as pool:
        running: dict[Future[Found], Job] = {}
        try:
            while left or running:
                while left and len(running) < workers and more():
                    job = left.pop(0)
                    running[pool.submit(work, job)] = job
                if not running:
                    return
                done = next(as_completed(running))
                yield running.pop(done), done.result()
        except BaseException:  # also where the caller wants no more
            for process in set(active_children()) - others:
                process.terminate()
            raise
