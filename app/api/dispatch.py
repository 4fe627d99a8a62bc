"""From a path and a method to an endpoint: 404, a 405 that names every method of the path, HEAD wherever there is GET.

All of it comes from one table, made when the app is built. Endpoints that binding.py binds are called from here:
FastAPI's router tries one route after the other, and wraps each call in two exit stacks and two exception handlers,
a tenth of what an append costs. What is left to FastAPI are its own routes, the probes and the documentation.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import MethodNotAllowed, NotFound

UNMATCHED = "unmatched"

Answer = Callable[[Request], Awaitable[Response]]
"""A bound endpoint."""


class RouteTable:
    """Every path template with its methods, HEAD among them where there is GET; None is an endpoint of FastAPI's.

    Logs and metrics take a path's template from it as well, since a raw path there would be an id or worse.
    """

    def __init__(self, routes: Iterable[tuple[str, Iterable[str], Answer | None]]) -> None:
        table: dict[str, dict[str, Answer | None]] = {}
        for path, methods, answer in routes:
            table.setdefault(path, {}).update(dict.fromkeys(methods, answer))
        for answers in table.values():
            if "GET" in answers:
                answers["HEAD"] = answers["GET"]
        self._answers = table
        self._patterns = {path: compile_path(path)[0] for path in table}
        # One expression for all of them: the group that took part says which path it was. Starlette's own
        # patterns, less the names of their groups, which may not repeat; fixed paths stand before variable ones.
        self._templates = sorted(table, key=lambda path: ("{" in path, path))
        patterns = (self._patterns[path].pattern.removeprefix("^").removesuffix("$") for path in self._templates)
        alternatives = "|".join(f"({re.sub(r'[?]P<[^>]*>', '?:', pattern)})" for pattern in patterns)
        self._pattern = re.compile(alternatives)

    def template(self, path: str) -> str:
        """The template of `path`, or `unmatched`."""
        match = self._pattern.fullmatch(path)
        return self._templates[match.lastindex - 1] if match and match.lastindex else UNMATCHED

    def answers(self, template: str) -> Mapping[str, Answer | None]:
        """What answers each method of this template; empty where there is no such path."""
        return self._answers.get(template, {})

    def parameters(self, template: str, path: str) -> dict[str, str]:
        """The variable parts of `path`, which is of this template."""
        match = self._patterns[template].match(path)
        return match.groupdict() if match else {}


class Dispatch:
    """Calls the endpoint of a request, whose template `state` has already; raises NotFound or MethodNotAllowed."""

    def __init__(self, app: ASGIApp, table: RouteTable) -> None:
        self._app = app
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        template, path = scope["state"]["route"], scope["state"]["path"]
        answers = self._table.answers(template)
        if not answers:
            raise NotFound
        method = scope["method"]
        if method not in answers:
            raise MethodNotAllowed(", ".join(sorted(answers)))
        if method == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        answer = answers[method]
        if answer is None:
            await self._app(scope, receive, send)
        else:
            scope["path_params"] = self._table.parameters(template, path)
            response = await answer(Request(scope, receive, send))
            await response(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
