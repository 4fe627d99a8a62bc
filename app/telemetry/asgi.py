"""The outermost middleware: request id, access line, metrics and the headers that every response carries.

Pure ASGI: one BaseHTTPMiddleware would cost more than a whole append.
"""

import logging
import math
import re
import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import addresses, ids
from app.telemetry import logs, metrics

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that hung up before its answer; nobody is sent it."""

_log = logging.getLogger("app.access")
_CONSIDERABLE = 16 * 1024 * 1024  # nginx sends up to client_max_body_size before it reads, and answers a reset with 502
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
        status = CLIENT_CLOSED_REQUEST
        recorded = False

        def record() -> None:
            nonlocal recorded
            if not recorded:
                recorded = True
                self._record(scope, status, time.perf_counter() - started)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = CLIENT_CLOSED_REQUEST if _has_hung_up(scope, receive) else message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.update(state.get("headers", {}))  # what a layer within wants on every answer, errors too
                if _unread(scope) > _CONSIDERABLE:
                    headers["Connection"] = "close"  # cheaper than reading what nobody wants
                if no_store:
                    headers["Cache-Control"] = "no-store"
            elif not message.get("more_body"):
                record()  # before the client has its answer, and may ask another worker for the count
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except BaseException:
            status = HTTPStatus.INTERNAL_SERVER_ERROR.value
            raise
        finally:
            record()  # without an answer

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._route_of(scope["state"]["path"])
        method = scope["method"] if scope["method"] in metrics.METHODS else "other"
        metrics.requests.labels(method, route, status).inc()
        metrics.duration.labels(method, route).observe(seconds)
        if not _log.isEnabledFor(logging.INFO):
            return
        client = scope.get("client")
        said = {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
            "client": addresses.plain(client[0]) if client else "-",
        }
        # Not _log.info(): it walks the stack for a place that no line of ours tells.
        _log.handle(_log.makeRecord(_log.name, logging.INFO, "", 0, "", (), None, extra=said))


def _has_hung_up(scope: Scope, receive: Receive) -> bool:
    """Whether the client is gone, asked without waiting: the first step of `receive` tells it, or would wait.

    Not asked while a body is unread: `receive` would have the client send it.
    """
    if _unread(scope):
        return False
    for _ in range(2):  # the first message is the end of an empty body
        step = receive().__await__()
        try:
            next(step)
        except StopIteration as message:
            if message.value["type"] == "http.disconnect":
                return True
        else:
            step.close()
            return False
    return False


def _unread(scope: Scope) -> float:
    """Bytes of the body that nobody has read; infinite where it does not say how many it has."""
    if scope["state"].get("body_was_read"):
        return 0
    headers = dict(scope["headers"])
    return math.inf if b"transfer-encoding" in headers else int(headers.get(b"content-length", b"0")[:20])


def _route_path(scope: Scope) -> str:
    """The path as the routes know it: a server that is told of a prefix (`root_path`) puts it in front."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            sent: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(sent):
                return sent
            break
    return str(ids.new())
