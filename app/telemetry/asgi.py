"""The outermost middleware: request id, access line, metrics and the headers that every response carries.

Pure ASGI: one BaseHTTPMiddleware would cost more than a whole append.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import addresses, ids
from app.telemetry import logs, metrics

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that hung up before its answer; nobody is sent it."""

HUNG_UP = "hung_up"
"""In the `state` of a request: whether its client is gone, where its connection tells."""

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
        state["route"] = self._route_of(path)
        logs.request_id.set(request_id)
        status = CLIENT_CLOSED_REQUEST
        recorded = False

        def record() -> None:
            nonlocal recorded
            if not recorded:
                recorded = True
                _record(scope, status, time.perf_counter() - started)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = CLIENT_CLOSED_REQUEST if _has_hung_up(scope, receive) else message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(scope)]
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


def _headers(scope: Scope) -> Iterator[tuple[bytes, bytes]]:
    """The headers of every answer, errors too; as bytes, since no layer within sets one of them."""
    state = scope["state"]
    yield b"x-request-id", state["request_id"].encode()
    yield b"x-content-type-options", b"nosniff"
    yield from state.get("headers", ())  # what a layer within wants on every answer
    if _unread(scope) > _CONSIDERABLE:
        yield b"connection", b"close"  # cheaper than reading what nobody wants
    if state["path"].startswith("/chat/"):
        yield b"cache-control", b"no-store"


def _record(scope: Scope, status: int, seconds: float) -> None:
    route, client = scope["state"]["route"], scope.get("client")
    method = scope["method"] if scope["method"] in metrics.METHODS else "other"
    metrics.served(method, route, status, seconds)
    logs.access(
        method=method,
        route=route,
        status=status,
        duration_ms=round(seconds * 1000, 1),
        client=addresses.plain(client[0]) if client else "-",
    )


def _has_hung_up(scope: Scope, receive: Receive) -> bool:
    """Whether the client is gone, asked without waiting.

    Our own server tells. Of another one the first step of `receive` tells it, or would wait; that is 35 µs, and is
    not asked while a body is unread, since `receive` would have the client send it.
    """
    told: bool | None = scope["state"].get(HUNG_UP)
    if told is not None or _unread(scope):
        return bool(told)
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
    length = 0.0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return math.inf
        if name == b"content-length":
            length = int(value[:20])
    return length


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
    return ids.of_request()
