"""The desk of a request: the memory that its caller is bound to, and the threads that work on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer

from recollect.config import Settings
from recollect.server.figures import Figures
from recollect.server.gate import Caller
from recollect.server.keys import KeyRing
from recollect.server.limits import Limits
from recollect.server.pool import Memories
from recollect.server.upstream import Upstream
from recollect.server.work import Workers
from recollect.store.memory import Memory

Result = TypeVar("Result")
bearer = HTTPBearer(auto_error=False, scheme_name="key", description="A key from `recollect keys create`.")


@dataclass(frozen=True, slots=True)
class House:
    """What one server holds."""

    settings: Settings
    limits: Limits
    memories: Memories
    keys: KeyRing
    workers: Workers
    figures: Figures
    upstream: Upstream | None  # of the gateway


@dataclass(frozen=True, slots=True)
class Desk:
    """One request's place."""

    house: House
    caller: Caller
    agent: str | None = None
    method: str | None = None

    async def do(self, work: Callable[[Memory], Result]) -> Result:
        """Let a thread do something short with the caller's memory; what it raises is raised."""
        return await self.house.workers.run(lambda: self.with_memory(work))

    def with_memory(self, work: Callable[[Memory], Result]) -> Result:
        """Do something with the caller's memory, in this thread."""
        with self.house.memories.lease(self.caller.user, self.agent, self.method) as memory:
            return work(memory)


def _desk(scope: str) -> Callable[..., Desk]:
    def sit(
        request: Request,
        agent: Annotated[str | None, Query(description="narrow to one agent")] = None,
        method: Annotated[str | None, Query(description="how memories are derived and recalled")] = None,
        _: Annotated[object, Depends(bearer)] = None,
    ) -> Desk:
        return desk_of(request, scope, agent, method)

    return sit


def desk_of(request: Request, scope: str, agent: str | None = None, method: str | None = None) -> Desk:
    """The desk of a request whose caller has a scope. Raises Refused."""
    caller: Caller = request.state.caller
    caller.check(scope)
    return Desk(request.app.state.house, caller, agent, method)


Reading = Annotated[Desk, Depends(_desk("read"))]
Writing = Annotated[Desk, Depends(_desk("write"))]
Caring = Annotated[Desk, Depends(_desk("admin"))]
