"""What the router does not do: HEAD wherever there is GET, and a 405 that names every method of the path.

Both come from one table, path → methods, made when the app is built; logs and metrics take a path's template
from it as well, since a raw path in a label or a log line would be an id or worse.
"""

import re
from collections.abc import Iterable

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import MethodNotAllowed, NotFound

UNMATCHED = "unmatched"


class MethodTable:
    """Every path template with its methods, HEAD among them where there is GET."""

    def __init__(self, routes: Iterable[tuple[str, Iterable[str]]]) -> None:
        table: dict[str, set[str]] = {}
        for path, methods in routes:
            table.setdefault(path, set()).update(methods)
        self._templates = list(table)
        self._methods = {path: methods | ({"HEAD"} if "GET" in methods else set()) for path, methods in table.items()}
        # One expression for all of them: the group that took part says which path it was. Starlette's own
        # patterns, less the names of their groups, which may not repeat; fixed paths stand before variable ones.
        self._templates.sort(key=lambda path: ("{" in path, path))
        patterns = (compile_path(path)[0].pattern.removeprefix("^").removesuffix("$") for path in self._templates)
        alternatives = "|".join(f"({re.sub(r'[?]P<[^>]*>', '?:', pattern)})" for pattern in patterns)
        self._pattern = re.compile(alternatives)

    def template(self, path: str) -> str:
        """The template of `path`, or `unmatched`."""
        match = self._pattern.fullmatch(path)
        return self._templates[match.lastindex - 1] if match and match.lastindex else UNMATCHED

    def methods(self, path: str) -> frozenset[str]:
        return frozenset(self._methods.get(self.template(path), ()))


class Methods:
    """Answers 404 and 405 from the table, and runs HEAD as GET without its body."""

    def __init__(self, app: ASGIApp, table: MethodTable) -> None:
        self._app = app
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            methods = self._table.methods(scope["state"]["path"])
            if not methods:
                raise NotFound
            if scope["method"] not in methods:
                raise MethodNotAllowed(", ".join(sorted(methods)))
            if scope["method"] == "HEAD":
                scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self._app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head
