"""How much is let in: the rate limit per client address, and the bound on waiting requests.

slowapi's Limiter supplies storage and strategy and is called from here: its own middlewares do not see routes
that were added with include_router, and its decorators run after authentication.
"""

import os
import time
import warnings
from collections.abc import Mapping
from math import ceil

import limits
from slowapi import Limiter
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.addresses import bucket
from app.api.caller import is_open
from app.errors import Overloaded, RateLimited
from app.telemetry import metrics


def client_address(request: Request) -> str:
    """What the limit counts: uvicorn has put a trusted proxy's client in the place of the proxy already."""
    return bucket(request.client.host) if request.client else "unix"


class RateLimit:
    """One moving window per client address for all paths and all results; a refused request takes no slot."""

    def __init__(self, app: ASGIApp, limit: str) -> None:
        self._app = app
        self._limit = limit
        self._item = limits.parse(limit)
        with warnings.catch_warnings(action="ignore"):
            # Without a file of its own the Limiter would read .env, in a dialect of its own; it warns of an empty one.
            limiter = Limiter(client_address, strategy="moving-window", config_filename=os.devnull)
        self._window = limiter.limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope):
            await self._app(scope, receive, send)
            return
        client = client_address(Request(scope))
        accepted = self._window.hit(self._item, client)
        headers = scope["state"]["headers"] = self._headers(client)
        if not accepted:
            raise RateLimited(self._limit, {"Retry-After": headers["RateLimit-Reset"]})
        await self._app(scope, receive, send)

    def _headers(self, client: str) -> Mapping[str, str]:
        reset, remaining = self._window.get_window_stats(self._item, client)
        return {
            "RateLimit-Limit": str(self._item.amount),
            "RateLimit-Remaining": str(remaining),
            "RateLimit-Reset": str(max(1, ceil(reset - time.time()))),
        }


class Overload:
    """Refuses at once what could only wait: with `most` requests in flight the next one gets a 503."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope):
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._most:
            metrics.shed.inc()
            raise Overloaded
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
