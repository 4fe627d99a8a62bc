"""What a connection answers by itself: a problem like every other error, counted and logged."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app import ids
from app.api import problems
from app.api.dispatch import UNMATCHED
from app.errors import Problem
from app.telemetry import logs, metrics


def answer(problem: Problem, client: str, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """The bytes of the answer, after which the connection ends. Counts it and writes its line of the log."""
    request_id = ids.of_request()
    metrics.requests.labels("other", UNMATCHED, problem.status).inc()
    metrics.problems.labels(problem.code).inc()
    token = logs.request_id.set(request_id)
    logs.access(method="-", route=UNMATCHED, status=problem.status, client=client)
    logs.request_id.reset(token)
    return _rendered(problem, request_id, default_headers)


def _rendered(problem: Problem, request_id: str, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    body = problems.content(problem, request_id)
    headers = [
        *default_headers,
        (b"content-type", problems.MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    ]
    lines = [STATUS_LINE[problem.status], *(b"%b: %b\r\n" % header for header in headers)]
    return b"".join([*lines, b"\r\n", body])
