"""The gate: every request passes here first. Who is it, may it come in now, and what came of it.

With keys demanded, a request carries one as `Authorization: Bearer rk_...`. Without, whoever reaches the loopback address is
the owner; then the request must be addressed to a loopback name and, where a browser says so, come from a page of this
server, so that no web page elsewhere can reach a memory through its reader's browser.

The log has one line a request: method, route, status, time and the key's id, never a text, an address with its query, or a
key. An error that nobody foresaw is logged by its place only; its words may quote a memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recollect.server.figures import Figures
from recollect.server.keys import PREFIX, SCOPES, KeyRing
from recollect.server.limits import Body, Limits, Rates, too_large
from recollect.server.problems import Refused, problem_of, reply

log = logging.getLogger("recollect.server")
OPEN_PATHS = ("/healthz", "/openapi.json", "/")
PAGE_FILES = "/static/"  # of the web page, as open as the page itself
UPLOAD_PATHS = ("/v1/import", "/v1/episodes/bulk")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the user that it is bound to and what it may do."""

    user: str
    scopes: tuple[str, ...]
    key: str | None = None  # the key's id; None for the owner at a loopback address

    def check(self, scope: str) -> None:
        """Raise Refused unless the caller has a scope."""
        if scope not in self.scopes:
            raise Refused(403, "forbidden", f"This key lacks the scope {scope}; ask for one that has it.")


class Gate:
    """The outermost layer of the app. owner: the user of a request without a key, None where keys are demanded."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing, owner: str | None, limits: Limits, figures: Figures):
        self.app, self.keys, self.owner, self.limits, self.figures = app, keys, owner, limits, figures
        self._rates = Rates(limits.rate_per_s)
        self._num_under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        start, status, caller = time.perf_counter(), 0, None

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._num_under_way += 1
        try:
            caller = self._admit(scope)
            scope.setdefault("state", {})["caller"] = caller
            await self.app(scope, self._body(scope, receive), sent)
        except Refused as error:
            await reply(error.problem, dict(error.headers or {}))(scope, receive, sent)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log_place(error)
            if not status:
                await reply(problem_of(error))(scope, receive, sent)
        finally:
            self._num_under_way -= 1
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            seconds = time.perf_counter() - start
            self.figures.count(scope["method"], route, status, seconds)
            key = (caller.key if caller else None) or "-"
            log.info("%s %s %d %.0f ms key=%s", scope["method"], route, status, seconds * 1000, key)

    def _admit(self, scope: Scope) -> Caller | None:
        """The caller of a request; None where nobody need be known. Raises Refused."""
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("unknown",))[0]
        if scope["path"] in OPEN_PATHS or scope["path"].startswith(PAGE_FILES):
            return None
        try:
            caller = self._caller(headers)
        except Refused:
            self._pace(address)
            raise
        self._pace(caller.key or address)
        if self._num_under_way > self.limits.num_concurrent:
            raise Refused(503, "busy", "The server is busy; try again in a second.", headers={"Retry-After": "1"})
        return caller

    def _caller(self, headers: Headers) -> Caller:
        kind, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        if token.startswith(PREFIX) or self.owner is None:
            key = self.keys.find(token)
            if key is None:
                said = "This key is not known or was revoked" if token else "A key is needed"
                raise Refused(
                    401,
                    "unauthorized",
                    f"{said}; send one that stands as 'Authorization: Bearer rk_...'.",
                    "authorization",
                    {"WWW-Authenticate": "Bearer"},
                )
            return Caller(key.user, key.scopes, key.id)
        if not is_loopback(urlsplit(f"//{headers.get('host', '')}").hostname):
            raise Refused(
                403, "forbidden", "host: without a key, address the server as 127.0.0.1 or localhost.", "host"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            raise Refused(403, "forbidden", "origin: a page of another site may not use this memory.", "origin")
        return Caller(self.owner, SCOPES)

    def _pace(self, caller: str) -> None:
        wait = self._rates.take(caller)
        if wait:
            raise Refused(
                429,
                "rate_limited",
                f"More than {self.limits.rate_per_s:g} requests a second; wait a little.",
                headers={"Retry-After": str(int(wait) + 1)},
            )

    def _body(self, scope: Scope, receive: Receive) -> Receive:
        upload = scope["path"] in UPLOAD_PATHS
        most = self.limits.max_upload_bytes if upload else self.limits.max_body_bytes
        told = Headers(scope=scope).get("content-length", "0")
        if told.isdigit() and int(told) > most:
            raise too_large(most)
        return Body(receive, most, self.limits.body_timeout_s, at_once=not upload).receive


def is_loopback(host: str | None) -> bool:
    """Whether an address or a name is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


def log_place(error: Exception) -> None:
    """Log an error that nobody foresaw, without its words."""
    places = traceback.extract_tb(error.__traceback__)
    place = f"{places[-1].filename}:{places[-1].lineno}" if places else "nowhere"
    log.error("unforeseen %s at %s", type(error).__name__, place)
    log.debug("in full", exc_info=error)
