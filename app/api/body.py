"""A request's body: read in bounded memory, its own and that of all requests of this worker together."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from app.errors import BodyTooLarge, Overloaded, UnsupportedMediaType
from app.telemetry import metrics

_JSON = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json", re.ASCII | re.IGNORECASE)
_UTF8 = re.compile(r"charset\s*=\s*\"?utf-?8\"?", re.ASCII | re.IGNORECASE)


class HeldBodies:
    """The bytes of all bodies that this worker holds: 264 requests in flight, 16 MiB each, would be 4 GiB."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = 0

    def grow(self, size: int) -> None:
        """Count `size` more bytes. Raises Overloaded where they are too many."""
        if self.size + size > self._most:
            metrics.shed.inc()
            raise Overloaded
        self.size += size


@asynccontextmanager
async def held_body(request: Request, limit: int) -> AsyncIterator[bytearray]:
    """The body, counted as held until the request is answered.

    Raises UnsupportedMediaType, BodyTooLarge and Overloaded before it is read or while it is.
    """
    held: HeldBodies = request.app.state.held_bodies
    raw = bytearray()  # of a million chunks of one byte a list would be ten times as large
    try:
        await _read(request, limit, raw, held)
        yield raw
    finally:
        held.size -= len(raw)


async def _read(request: Request, limit: int, raw: bytearray, held: HeldBodies) -> None:
    length = int(request.headers.get("content-length", "0")[:20])
    if length:
        _check_media_type(request)
    if length > limit:
        raise BodyTooLarge(limit)
    async for chunk in request.stream():
        if chunk and not raw:
            _check_media_type(request)  # a chunked body shows only now that it is one
        if len(raw) + len(chunk) > limit:
            raise BodyTooLarge(limit)
        held.grow(len(chunk))
        raw += chunk
    request.state.body_was_read = True


def _check_media_type(request: Request) -> None:
    media_type, *parameters = (part.strip() for part in request.headers.get("content-type", "").split(";"))
    if not _JSON.fullmatch(media_type) or not all(_UTF8.fullmatch(part) for part in parameters if part):
        raise UnsupportedMediaType("The body must be JSON: send 'Content-Type: application/json'.")
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("The body may not be compressed: leave Content-Encoding out.")
