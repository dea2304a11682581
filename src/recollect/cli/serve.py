"""`recollect serve`: the memory over HTTP, for programs, OpenAI clients and agents."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from recollect.cli.common import Db, EmbedderName, MethodName, User, err, settings
from recollect.errors import Unavailable

EXAMPLES = (
    "Examples:  recollect serve   |   recollect serve --upstream http://localhost:11434/v1 --model qwen3:8b"
    "   |   recollect serve --host 0.0.0.0 --port 8420 --db team.db"
)


def run(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but a loopback one demands keys; see recollect keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8420,
    upstream: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible address behind the gateway, such as http://localhost:11434/v1."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The upstream's model for clients that name none.")] = None,
    require_key: Annotated[
        bool, typer.Option("--require-key", help="Demand keys at a loopback address too, as behind a proxy.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second of one caller.")] = 100.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 128,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for an answer; long work is not bound by it.")
    ] = 60.0,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="Largest request body but for imports.")] = 8.0,
    db: Db = None,
    user: User = None,
    embedder: EmbedderName = None,
    method: MethodName = None,
) -> None:
    """Serve the memory: REST at /v1, an OpenAI-compatible gateway at /v1, MCP at /mcp, until Ctrl-C."""
    from recollect.store.database import shown

    try:
        from recollect.server.limits import Limits
        from recollect.server.run import serve
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed; `pip install 'recollect[server]'` brings it.") from None

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("recollect.server").setLevel(logging.INFO)
    chosen = settings(db, user, None, embedder, method, upstream_base_url=upstream, upstream_model=model)
    limits = Limits(
        max_body_bytes=int(max_body_mb * 1e6),
        request_timeout_s=timeout,
        rate_per_s=rate,
        num_concurrent=concurrency,
    )

    def ready(address: str) -> None:
        err.print(f"recollect serves {shown(chosen.db)} at {address}, Ctrl-C stops it", soft_wrap=True)

    try:
        serve(chosen, host, port, require_key=require_key, limits=limits, ready=ready)
    except KeyboardInterrupt:
        raise SystemExit(0) from None
