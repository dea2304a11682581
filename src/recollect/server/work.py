"""The threads of a server: the store's calls block, so they run here, with a time limit, and none is lost at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from recollect.errors import Unavailable
from recollect.server.problems import Refused

Result = TypeVar("Result")


class Workers:
    """Threads for calls that are soon done, and two more for long ones, so that these never keep the others waiting.

    timeout_s: how long a caller waits for a short call; the call itself goes on to its end.
    num_waiting: how many short calls may be under way or wait.
    """

    def __init__(self, timeout_s: float, num_waiting: int, num_threads: int = 8):
        self.timeout_s, self.num_waiting = timeout_s, num_waiting
        self.stopping = threading.Event()
        self._short = ThreadPoolExecutor(num_threads, "recollect-work")
        self._long = ThreadPoolExecutor(2, "recollect-long")
        self._under_way: set[Future] = set()
        self._tasks: set[asyncio.Task] = set()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do a short call in a thread. Raises what it raises, and Refused when it is late or too many wait."""
        if len(self._under_way) >= self.num_waiting:
            raise Refused(503, "busy", "The server is busy; try again in a second.", headers={"Retry-After": "1"})
        future = self._short.submit(work)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.wait_for(_shielded(future), self.timeout_s)
        except TimeoutError:
            if future.done():
                raise
            raise Refused(
                504, "timeout", f"This took longer than {self.timeout_s:g} s; it goes on, so look before you repeat it."
            ) from None

    async def run_to_end(self, work: Callable[[], Result]) -> Result:
        """Do a short call that must not be refused nor left, such as remembering what was said, to its end."""
        return await _shielded(self._short.submit(work))

    async def run_long(self, work: Callable[[], Result]) -> Result:
        """Do a long call in a thread, to its end also when nobody waits for it any more."""
        return await _shielded(self._long.submit(work))

    def check(self) -> None:
        """Raise Unavailable when the server is stopping; long calls ask between their steps."""
        if self.stopping.is_set():
            raise Unavailable("The server is stopping; what was done so far is kept, so ask for the rest later.")

    def in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let a task go on that no request waits for; `stop` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for what is under way; long calls end at their next step."""
        self.stopping.set()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in (self._short, self._long):
            await asyncio.to_thread(pool.shutdown, True)


def _shielded(future: Future[Result]) -> asyncio.Future[Result]:
    """A thread's result, to wait for; an error that nobody waits for any more is not logged, as it may quote a memory."""
    inner = asyncio.wrap_future(future)
    inner.add_done_callback(lambda done: done.cancelled() or done.exception())
    return asyncio.shield(inner)
