"""A real server of recollect on a free loopback port, in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import uvicorn.server

from recollect.config import load_settings
from recollect.server.app import make_app
from recollect.server.limits import Limits
from recollect.server.run import listen, server_of


class _Asyncio:
    """asyncio for uvicorn, whose end takes two waits of a tenth of a second."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay: float) -> None:
        await asyncio.sleep(min(delay, 0.005))


uvicorn.server.asyncio = _Asyncio()  # type: ignore[attr-defined]


class Served:
    """One running server; `client` speaks to it, with `key` if one is given. `close` waits for its end."""

    def __init__(self, db: Path, *, needs_key: bool = False, limits: Limits | None = None, **settings: Any):
        chosen = load_settings(db=str(db), embedder="hashing", **settings)
        self.app = make_app(chosen, needs_key=needs_key, limits=limits or Limits(rate_per_s=10_000))
        self.house = self.app.state.house
        listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = server_of(self.app)
        self._thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        self._clients: list[httpx2.Client] = []
        self.client = self.as_key(None)

    def as_key(self, key: str | None) -> httpx2.Client:
        """A client that sends a key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._clients.append(httpx2.Client(base_url=self.url, headers=headers, timeout=30, verify=False))
        return self._clients[-1]

    def key(self, user: str, *scopes: str) -> str:
        """A new key of a user."""
        return self.house.keys.create(user, scopes or ("read", "write"))[1]

    def close(self) -> None:
        """Stop serving."""
        for client in self._clients:
            client.close()
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
