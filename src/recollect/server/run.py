"""Running the app with uvicorn until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing

import uvicorn
from fastapi import FastAPI

from recollect.config import Settings
from recollect.errors import InvalidInput
from recollect.server.app import make_app
from recollect.server.gate import is_loopback
from recollect.server.keys import KeyRing
from recollect.server.limits import Limits

GRACE_S = 15  # for requests under way when the server is told to stop


def serve(
    settings: Settings,
    host: str,
    port: int,
    *,
    require_key: bool = False,
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM. What was acknowledged is on the disk; what is under way is finished.

    port: 0 takes a free one. require_key: also at a loopback address, as behind a proxy. ready: called with the address.
    Raises InvalidInput, naming the field, when it cannot start, and as `recollect.open` does.
    """
    needs_key = require_key or not is_loopback(host)
    with closing(KeyRing(settings.db)) as ring:
        lacks_keys = needs_key and not ring.list()
    if lacks_keys:
        raise InvalidInput(
            f"host: {host} demands keys and there are none; make one with `recollect keys create --user NAME --scopes "
            "read,write`, or serve 127.0.0.1."
        )
    listener = listen(host, port)
    app = make_app(settings, needs_key=needs_key, limits=limits)
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{listener.getsockname()[1]}")
    server_of(app).run(sockets=[listener])


def server_of(app: FastAPI) -> uvicorn.Server:
    """The app's server. It tells nobody what software it is, and logs no requests, as the gate does."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
        ws="none",
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises InvalidInput."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"port: {host} port {port} cannot be listened on ({error}); choose another one.") from None
    # Its connections take this over. Without it, each reply on a kept connection waits about 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
