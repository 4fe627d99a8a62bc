"""The application, wired in the order in which it starts. The only file that sees everything."""

import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

from app import VERSION, api, draining, settings
from app.api.body import HeldBodies
from app.api.caller import Caller, Keyring
from app.api.dispatch import Dispatch, RouteTable
from app.api.limits import Overload, RateLimit
from app.api.problems import Problems
from app.db import migrate
from app.db.schema import DEFAULT_TENANT
from app.db.start import start
from app.errors import Problem, Refused
from app.settings import Settings
from app.store.evidence import Evidence
from app.telemetry import logs
from app.telemetry.asgi import Telemetry
from app.workers import working

_log = logging.getLogger("app")

_EXPOSED = (
    "ETag",
    "Location",
    "Retry-After",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Idempotent-Replayed",
    "X-Request-ID",
)


def create_app(chosen: Settings | None = None) -> "OneLineRefusals | Refusing":
    """The service as an ASGI application. Never raises: invalid settings are told when a server starts it."""
    try:
        return OneLineRefusals(build(chosen or settings.load()))
    except Refused as refusal:
        return Refusing(refusal)


def build(chosen: Settings) -> FastAPI:
    """The FastAPI application inside."""
    app = FastAPI(
        lifespan=_lifespan,
        openapi_url=None,  # documentation.py serves it, beside the page that shows it
        telemetry={"metrics": False, "logs": False},  # /metrics has ours, and an exception's text may be a message
        redirect_slashes=False,  # a redirect loses the key or the body
    )
    app.state.settings = chosen
    app.state.keyring = Keyring(dict.fromkeys(chosen.api_key, DEFAULT_TENANT))
    app.state.held_bodies = HeldBodies(chosen.max_held_body_bytes)
    app.user_middleware = _middleware(chosen, app.state.keyring, api.install(app))
    return app


def _middleware(chosen: Settings, keyring: Keyring, table: RouteTable) -> list[Middleware]:
    """Outermost first; the contract's order of checks is this order."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=chosen.cors_origins,
        allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
    )
    rate_limit = Middleware(RateLimit, limit=chosen.rate_limit, storage_uri=chosen.rate_limit_storage_uri)
    return [
        Middleware(Telemetry, route_of=table.template),
        *([cors] if chosen.cors_origins else []),
        Middleware(Problems),
        *([rate_limit] if chosen.rate_limit else []),
        Middleware(Overload, most=chosen.pool_size + chosen.max_waiting),
        Middleware(Caller, keyring=keyring),
        Middleware(Dispatch, table=table),
    ]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Settings]]:
    chosen: Settings = app.state.settings
    logs.configure(level=chosen.log_level, style=chosen.log_format, file=chosen.log_file)
    async with start(chosen) as database:
        if chosen.run_migrations:
            await migrate.upgrade(database)
        else:
            await migrate.check(database)
        app.state.db = database
        evidence = app.state.evidence = Evidence(chosen.evidence_grace)
        granted = await database.granted()
        _log.log(
            logging.INFO if granted == database.wanted else logging.WARNING,
            "RAG Chat Storage %s uses %s, connections of this worker: %d wanted, %d granted",
            *(VERSION, database.description, database.wanted, granted),
        )
        if chosen.protected_mode:
            _log.warning("API_KEY is the documented example: it is answered on loopback and private addresses only")
        async with working(database, evidence, chosen.evidence_grace):
            with draining.ending_with_the_parent(), draining.announced(app.state, chosen.drain_delay):
                yield {"settings": chosen}  # in the state of every connection


class OneLineRefusals:
    """Tells the server why the start was refused in one line; Starlette would send it a traceback."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    @property
    def database(self) -> str:
        """Which database is in use, and where it lies. Known once the start is complete."""
        return str(self.app.state.db.description)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_one_line(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                message = _failed(sys.exception())
            await send(message)

        await self.app(scope, receive, send_one_line)


class Refusing:
    """Stands for a service that cannot start."""

    def __init__(self, refusal: Refused) -> None:
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            raise self._refusal
        await receive()
        await send(_failed(self._refusal))


def _failed(error: BaseException | None) -> Message:
    if isinstance(error, Refused | Problem):
        return {"type": "lifespan.startup.failed", "message": f"cannot start: {error}"}
    _log.error("cannot start", exc_info=error)
    return {"type": "lifespan.startup.failed", "message": f"cannot start: unexpected {type(error).__name__}"}


app = create_app()
gc.freeze()  # modules, classes and routes stay: a tenth of a request's CPU went into visiting them again and again
