"""Errors as answers: RFC 9457 `application/problem+json`, and their place in OpenAPI."""

import logging
import time
from dataclasses import asdict
from http import HTTPStatus
from math import inf
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Fault, InternalError, Overloaded, Problem, Unavailable
from app.telemetry import metrics

_log = logging.getLogger("app.api")

MEDIA_TYPE = "application/problem+json"

FRAMES_EVERY = 1.0
"""Seconds in which the frames of one kind of 503 are logged once."""

_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # RFC 9110's; Python 3.11 has older ones


class Problems:
    """Turns whatever a request raises into an answer; the last resort is a 500 without a word of the cause."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._told_at: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception as error:
            problem = error if isinstance(error, Problem) else InternalError()
            metrics.problems.labels(problem.code).inc()
            self._tell(problem, error)
            if started:
                raise
            await render(problem, Request(scope))(scope, receive, send)

    def _tell(self, problem: Problem, error: Exception) -> None:
        """Log a 5xx; where one cause fails every request, its frames once in a while: they cost 2 ms.

        Of overload the access line and the metrics tell, and limits.py: it is no time for more work.
        """
        if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(problem, Overloaded):
            return
        now = time.monotonic()
        known = isinstance(problem, Unavailable) and now - self._told_at.get(problem.code, -inf) < FRAMES_EVERY
        if not known:
            self._told_at[problem.code] = now
        _log.error("%s", problem.code, exc_info=None if known else error)


def render(problem: Problem, request: Request) -> Response:
    return Response(
        content(problem, request.state.request_id), problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def content(problem: Problem, request_id: str) -> bytes:
    """The body of the answer."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status) or HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.faults:
        body["errors"] = [_fault(fault) for fault in problem.faults]
    return orjson.dumps(body | problem.members)


def _fault(fault: Fault) -> dict[str, str]:
    body = asdict(fault)
    return {"in": body.pop("place"), **body}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the error answers with these statuses."""
    return {
        status: {
            "description": _TITLES.get(status) or HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def problem_schema() -> dict[str, Any]:
    """The body of every error, as OpenAPI's component `Problem`."""
    text = {"type": "string"}
    fault = {"in": {"enum": ["body", "query", "path", "header"]}, "field": text, "code": text, "message": text}
    properties = {
        **dict.fromkeys(("type", "title", "detail", "code", "request_id"), text),
        "status": {"type": "integer"},
        "errors": {
            "type": "array",
            "description": "With 400 and 422: each field at fault; a JSON Pointer in a body, the plain name elsewhere.",
            "items": {"type": "object", "properties": fault, "required": list(fault)},
        },
        "known": {
            "type": "array",
            "description": "With 409 of messages: the ids that are stored, of those that were sent.",
            "items": {"type": "string", "format": "uuid"},
        },
        "revision": {"type": "integer", "description": "With 412: the session's revision."},
    }
    return {
        "type": "object",
        "description": "RFC 9457. `code` is stable and meant for programs, `detail` for people.",
        "properties": properties,
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "example": {
            "type": "about:blank",
            "title": "Unprocessable Content",
            "status": 422,
            "detail": "content: must be a string",
            "code": "validation_error",
            "request_id": "0193b5f9-e1c2-7d0a-8a55-9d516c1f0d2a",
            "errors": [{"in": "body", "field": "/content", "code": "type", "message": "must be a string"}],
        },
    }
