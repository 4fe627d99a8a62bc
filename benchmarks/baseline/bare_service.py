"""This service under its own server, without the layers that every request pays for: logs, ids, metrics, rate limit.

python benchmarks/baseline/bare_service.py serve --port 8000
"""

import gc
from collections.abc import Callable
from typing import cast

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app import cli, main, settings
from app.api.limits import RateLimit
from app.telemetry.asgi import Telemetry


class Told:
    """Stands in the place of Telemetry, and tells the layers within what they know from it."""

    def __init__(self, app: ASGIApp, route_of: Callable[[str], str]) -> None:
        self._app = app
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            scope["state"] |= {"request_id": "-", "path": path, "route": self._route_of(path)}
        await self._app(scope, receive, send)


def build() -> FastAPI:
    app = main.build(settings.load())
    app.user_middleware = [
        Middleware(Told, cast("Callable[[str], str]", layer.kwargs["route_of"])) if _is(layer, Telemetry) else layer
        for layer in app.user_middleware
        if not _is(layer, RateLimit)
    ]
    return app


def _is(layer: Middleware, kind: type) -> bool:
    return cast("object", layer.cls) is kind


if __name__ == "__main__":
    main.app = main.OneLineRefusals(build())
    gc.freeze()  # as main does with its own
    cli.main()
