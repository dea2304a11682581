"""The app: REST, the gateway, MCP and the page behind one gate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from mcp.server.mcpserver import Context
from mcp.server.transport_security import TransportSecuritySettings

from recollect import __version__
from recollect.config import Settings
from recollect.lm import from_settings
from recollect.server import bulk, gateway, long, page, problems, rest
from recollect.server.desk import Caring, Desk, House
from recollect.server.figures import Figures
from recollect.server.gate import Caller, Gate
from recollect.server.keys import KeyRing
from recollect.server.limits import Limits
from recollect.server.pool import Memories
from recollect.server.tools import make_tools
from recollect.server.upstream import Upstream
from recollect.server.work import Workers
from recollect.store.memory import Memory

DESCRIPTION = (
    "Long-term memory for language models: remember what was said, recall it with reasons, forget it for good. "
    "Every reply that is an error has the body of `ProblemReply`."
)


def make_app(settings: Settings, *, needs_key: bool, limits: Limits | None = None) -> FastAPI:
    """The app for the database that the settings name.

    needs_key: every request must carry a key; else one without is the owner's, `settings.user`.
    Raises as `recollect.open` does.
    """
    limits = limits or Limits()
    house = House(
        settings=settings,
        limits=limits,
        memories=Memories(settings, from_settings(settings)),
        keys=KeyRing(settings.db),
        workers=Workers(limits.request_timeout_s, limits.num_concurrent),
        figures=Figures(),
        upstream=Upstream(settings, limits.upstream_timeout_s) if settings.upstream_base_url else None,
    )

    async def do(context: Context, scope: str, work: Callable[[Memory], Any]) -> Any:
        request: Any = context.request_context.request
        caller: Caller = request.state.caller
        caller.check(scope)
        return await Desk(house, caller).do(work)

    tools = make_tools(do)
    mcp = tools.streamable_http_app(
        stateless_http=True,
        max_request_body_size=limits.max_body_bytes,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the gate sees to it
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with tools.session_manager.run():
                yield
        finally:
            await house.workers.stop()
            if house.upstream is not None:
                await house.upstream.close()
            house.memories.close()
            house.keys.close()

    app = FastAPI(
        title="recollect",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": problems.ProblemReply}, "5XX": {"model": problems.ProblemReply}},
    )
    app.state.house = house
    app.add_middleware(
        Gate,
        keys=house.keys,
        owner=None if needs_key else settings.user,
        limits=limits,
        figures=house.figures,
    )
    problems.install(app)
    for part in (rest, bulk, long, gateway, page):
        app.include_router(part.routes)
    app.router.routes.extend(mcp.routes)

    @app.get("/healthz", tags=["care"])
    async def healthz() -> dict[str, str]:
        """Whether the server runs and can read its database."""
        await house.workers.run(lambda: house.memories.keeper.engine.db.rows("SELECT 1"))
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", tags=["care"], response_class=Response)
    async def metrics(_: Caring) -> Response:
        """Figures for Prometheus; they name routes and statuses, never users."""
        return Response(house.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
