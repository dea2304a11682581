"""The OpenAI-compatible server behind the gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
from fastapi import Response

from recollect.config import Settings
from recollect.server.problems import Refused

CONNECT_S = 10.0


class Upstream:
    """A server that speaks OpenAI's protocol. Its key is the settings' own; no client's key is passed on.

    timeout_s: for the first byte of a reply, and between two of them.
    """

    def __init__(self, settings: Settings, timeout_s: float):
        assert settings.upstream_base_url
        self.url, self.model = settings.upstream_base_url.rstrip("/"), settings.upstream_model
        self._key = settings.upstream_api_key
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(timeout_s, connect=CONNECT_S))

    async def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        """The reply to one request, its body still to be read. Raises Refused when there is none."""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else None
        request = self._client.build_request(method, f"{self.url}{path}", content=content, headers=headers)
        try:
            return await self._client.send(request, stream=True)
        except httpx2.TimeoutException:
            raise Refused(504, "timeout", f"upstream: {self.url} gave no answer in time; allow it longer.") from None
        except httpx2.HTTPError:
            raise Refused(
                502,
                "unavailable",
                f"upstream: {self.url} cannot be reached; start it or correct its address.",
                "upstream",
            ) from None

    async def read(self, reply: httpx2.Response) -> bytes:
        """The rest of a reply. Raises Refused when it breaks off."""
        try:
            return await reply.aread()
        except httpx2.HTTPError:
            raise Refused(
                502, "unavailable", f"upstream: {self.url} broke off its reply; try again.", "upstream"
            ) from None
        finally:
            await reply.aclose()

    async def relay(self, reply: httpx2.Response) -> Response:
        """A reply as it is; the upstream's key is not shown, and its refusal of the key is not taken for one of ours."""
        content = await self.read(reply)
        if reply.status_code in (401, 403):
            raise Refused(
                502,
                "unavailable",
                f"upstream.api_key: {self.url} refuses the server's key; set RECOLLECT_UPSTREAM_API_KEY to one that it takes.",
                "upstream.api_key",
            )
        if self._key:
            content = content.replace(self._key.encode(), b"***")
        kept = {name: reply.headers[name] for name in ("retry-after",) if name in reply.headers}
        return Response(content, reply.status_code, kept, reply.headers.get("content-type", "application/json"))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def lines(reply: httpx2.Response) -> AsyncIterator[bytes]:
    """The lines of a reply with their ends, as they arrive."""
    rest = b""
    async for part in reply.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
