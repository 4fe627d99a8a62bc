"""The outermost middleware: request id, access line, metrics and the headers that every response carries.

Pure ASGI: one BaseHTTPMiddleware would cost more than a whole append.
"""

import logging
import re
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import ids
from app.telemetry import logs, metrics

_log = logging.getLogger("app.access")
_CONSIDERABLE = 64 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


class Telemetry:
    """Wraps one request. `route_of` tells a path's template, the only form of a path that is logged or counted."""

    def __init__(self, app: ASGIApp, route_of: Callable[[str], str]) -> None:
        self._app = app
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        path = state["path"] = _route_path(scope)
        logs.request_id.set(request_id)
        no_store = path.startswith("/chat/")
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.update(state.get("headers", {}))  # what a layer within wants on every answer, errors too
                if _leaves_a_large_body(scope):
                    headers["Connection"] = "close"  # cheaper than reading what nobody wants
                if no_store:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._route_of(scope["state"]["path"])
        method = scope["method"] if scope["method"] in metrics.METHODS else "other"
        metrics.requests.labels(method, route, status).inc()
        metrics.duration.labels(method, route).observe(seconds)
        client = scope.get("client")
        _log.info(
            "",
            extra={
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 1),
                "client": client[0] if client else "-",
            },
        )


def _route_path(scope: Scope) -> str:
    """The path as the routes know it: a server that is told of a prefix (`root_path`) puts it in front."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


def _leaves_a_large_body(scope: Scope) -> bool:
    """Whether the answer comes before a body of unknown or considerable size was read."""
    if scope["state"].get("body_was_read"):
        return False
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or int(length[:20]) > _CONSIDERABLE


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            sent: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(sent):
                return sent
            break
    return str(ids.new())
