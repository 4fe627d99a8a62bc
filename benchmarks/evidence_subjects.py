"""Each variant as a process of its own that answers requests, and the CPU time that it and PostgreSQL use for them.

As a program it is such a process:  python benchmarks/evidence_subjects.py VARIANT DATABASE_URL
It reads blocks of requests from its standard input and writes what each took, so that no client is counted. Either the
route alone answers (from the bytes of the body to the bytes of the response), or the whole application with the layers
around every route, which cost the same whatever a context is stored in. What is missing is the web server's part.
"""

import asyncio
import http
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

import orjson
import uvloop
from evidence_variants import COLD, KEY, POOL, SERVICE, become, settings
from postgres import Postgres
from starlette.requests import Request

from app.api import documents, messages
from app.api.binding import BoundRoute
from app.db.schema import DEFAULT_TENANT
from app.db.start import bring_up_to_date, start
from app.main import build
from app.store.evidence import Evidence

ROLE = "service"
FLUSHED = 400  # appends whose counts are written at once: the service does it every five seconds
CALLS = {
    "append": ("POST", "/chat/sessions/{session_id}/messages", messages.append),
    "page": ("GET", "/chat/sessions/{session_id}/messages", messages.find),
    "uses": ("GET", "/chat/documents/messages", documents.find_messages),
}


class Cost(NamedTuple):
    """Microseconds of CPU of a request."""

    server: float
    postgres: float


Item = tuple[str | None, str, Any]
"""A session, a query and a body."""


class Subject:
    """A variant's process on a database, as the benchmark sees it."""

    def __init__(self, postgres: Postgres, home: Path, variant: str, database: str) -> None:
        self._postgres = postgres
        self._database = database.encode()
        command = [sys.executable, str(Path(__file__)), variant, url(home, database)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, call: str, items: list[Item], *, whole: bool = False) -> Cost:
        """Send so many requests; what one of them cost."""
        stdin, stdout = cast("tuple[TextIO, TextIO]", (self._process.stdin, self._process.stdout))
        before = self._postgres_cpu()
        stdin.write(orjson.dumps((call, whole, items)).decode() + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise SystemExit(f"the process on {self._database.decode()} has ended")
        return Cost(float(answer) / len(items), (self._postgres_cpu() - before) / len(items))

    def _postgres_cpu(self) -> float:
        """Microseconds of its connections and of the processes that all databases share."""
        pid, used = self._postgres.process.pid, 0
        for process in (str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                words = Path(f"/proc/{process}/cmdline").read_bytes().split()
                if words[1:2] != [ROLE.encode()] or words[2:3] == [self._database]:
                    used += int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
        return used / 1e3

    def stop(self) -> None:
        self._process.communicate()


def url(home: Path, database: str) -> str:
    return f"postgresql://{ROLE}@/{database}?host={home}"


def migrate(home: Path, database: str) -> None:
    asyncio.run(bring_up_to_date(settings(url(home, database))))


async def serve(variant: str, database_url: str) -> None:
    """Answer blocks of requests until there are none."""
    become(variant)
    app = build(settings(database_url))
    async with start(app.state.settings) as app.state.db:
        app.state.evidence = Evidence(app.state.settings.evidence_grace)
        unflushed = 0
        for line in sys.stdin:
            call, whole, items = orjson.loads(line)
            method, path, endpoint = CALLS[call]
            handle = app if whole else _alone(app, BoundRoute(path, cast("Any", endpoint)))
            asked = iter([_scope(method, path, *item) for item in items])
            started = time.process_time()
            await asyncio.gather(*(_answer_all(handle, asked) for _ in range(POOL)))
            unflushed += len(items) if call == "append" and variant in (SERVICE, COLD) else 0
            if unflushed >= FLUSHED:
                await _flush(app.state)
                unflushed = 0
            print((time.process_time() - started) * 1e6, flush=True)


def _alone(app: Any, route: BoundRoute) -> Any:
    handle = route.get_route_handler()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        scope |= {"app": app, "path_params": scope["session"], "state": {"tenant_id": DEFAULT_TENANT}}
        response = await handle(Request(scope, receive))
        await response(scope, receive, send)

    return answer


def _scope(method: str, path: str, session: str | None, query: str, value: Any) -> tuple[dict[str, Any], bytes]:
    body = b"" if value is None else orjson.dumps(value)
    path = path.format(session_id=session)
    headers = {b"x-api-key": KEY.encode(), b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    named = {"scheme": "http", "server": ("localhost", 8000), "client": ("127.0.0.1", 9), "root_path": "", "state": {}}
    asked = {"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode()}
    given: dict[str, Any] = {"query_string": query.encode(), "headers": list(headers.items())}
    return named | asked | given | {"session": {"session_id": session}}, body


async def _answer_all(handle: Any, asked: Iterator[tuple[dict[str, Any], bytes]]) -> None:
    for scope, body in asked:
        request = {"type": "http.request", "body": body, "more_body": False}
        await handle(scope, partial(_value, request), _check)


async def _value(request: dict[str, Any]) -> dict[str, Any]:
    return request


async def _check(message: dict[str, Any]) -> None:
    if message.get("status", 0) >= http.HTTPStatus.BAD_REQUEST:
        raise SystemExit(f"a request was answered with {message['status']}")


async def _flush(state: Any) -> None:
    """Write the counts, as app/workers does."""
    counts = state.evidence.counts
    async with state.db.write() as conn:
        counts.add(await counts.write(conn, counts.take()))


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
