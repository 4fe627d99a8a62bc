"""How much is let in: the rate limit per client address, and the bound on waiting requests.

slowapi's Limiter counts, see rate_limit.py, and is called from here: its own middlewares do not see routes
that were added with include_router, and its decorators run after authentication.
"""

import asyncio
import logging
import time

import limits
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.addresses import bucket
from app.api.caller import is_open
from app.api.rate_limit import InMemory, Shared
from app.errors import Overloaded, RateLimited
from app.telemetry import metrics

REFUSALS_A_ROUND = 16
"""Requests that the overload limit refuses in one round of the event loop, at most.

With 64, a thousand clients that wait a second are told in 0.1 s instead of 0.5 (median), but where a thousand do not
wait accepted requests fall from 227 a second to 137: `make torture ARGS=overload`.
"""

TOLD_EVERY = 10.0
"""Seconds between two lines in the log that say that requests are refused."""

_log = logging.getLogger("app")


def client_address(request: Request) -> str:
    """What the limit counts: uvicorn has put a trusted proxy's client in the place of the proxy already."""
    return bucket(request.client.host) if request.client else "unix"


class RateLimit:
    """One moving window per client address for all paths and all results; a refused request takes no slot."""

    def __init__(self, app: ASGIApp, limit: str, storage_uri: str = "") -> None:
        self._app = app
        self._limit = limit
        self._amount = b"%d" % limits.parse(limit).amount
        self._counted = Shared(limit, storage_uri) if storage_uri else InMemory(limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run(scope, receive, send)
        elif scope["type"] != "http" or is_open(scope):
            await self._app(scope, receive, send)
        else:
            taken = await self._counted.take(client_address(Request(scope)))
            scope["state"]["headers"] = (
                (b"ratelimit-limit", self._amount),
                (b"ratelimit-remaining", b"%d" % taken.remaining),
                (b"ratelimit-reset", b"%d" % taken.reset),
            )
            if not taken.accepted:
                raise RateLimited(self._limit, {"Retry-After": str(taken.reset)})
            await self._app(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starts last, when the log is set up, and ends with the application."""

        async def send_started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._counted.start()
            await send(message)

        try:
            await self._app(scope, receive, send_started)
        finally:
            self._counted.close()


class Overload:
    """Refuses at once what could only wait: with `most` requests in flight the next one gets a 503.

    Refusals take turns, a few in each round of the event loop. A thousand clients that ask again at once would else
    fill every round with refusals, of which an accepted request needs five or so: 507 a second fell to 30.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._in_flight = 0
        self._turns = asyncio.Semaphore(REFUSALS_A_ROUND)
        self._told_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope):
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._most:
            metrics.shed.inc()
            self._tell()
            async with self._turns:
                await asyncio.sleep(0)
            raise Overloaded
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1

    def _tell(self) -> None:
        """Log it once in a while: a line for each refusal would cost more than the refusal."""
        now = time.monotonic()
        if now - self._told_at >= TOLD_EVERY:
            self._told_at = now
            _log.warning("overloaded: %d requests are in flight, further ones are answered 503", self._in_flight)
