"""A request whose task is cancelled, as a server does that will not wait any longer, leaves nothing behind."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.types import Message

from app import ids, workers
from app.db import dsn
from app.main import build
from app.tests.db.embedded_place import until
from app.tests.faults import evidence
from app.tests.faults.hang_ups import BATCH, BUSY, CONNECTIONS, GAUGES, LOCK, STATES, Connection, is_whole
from app.tests.faults.patience import REST, background_rests, eventually
from app.tests.harness import KEY, settings

NAME = "cancelled"
POOL_SIZE = 2

EVIDENCE = {"context": {"documents": [{"document_id": "one", "text": "of all"}, {"text": "of {id}"}]}}
MANY = [{"sender": "u", "content": "", **EVIDENCE}] * BATCH

ROUTES: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "create": ("POST", "/chat/sessions", {}),
    "append": ("POST", "/chat/sessions/{id}/messages", {"sender": "user", "content": "more", **EVIDENCE}),
    "batch": ("POST", "/chat/sessions/{id}/messages/batch", {"messages": MANY}),
    "redact": ("DELETE", "/chat/sessions/{id}/messages/{message}", None),
    "rewind": ("DELETE", "/chat/sessions/{id}/messages?after=0", None),
    "mark": ("PUT", "/chat/documents", {"document_id": "{id}", "status": "withdrawn"}),
    "rename": ("PUT", "/chat/sessions/{id}", {"name": "new", "metadata": {"name": "new"}}),
    "delete": ("DELETE", "/chat/sessions/{id}", None),
    "get": ("GET", "/chat/sessions/{id}", None),
    "list": ("GET", "/chat/sessions", None),
    "documents": ("GET", "/chat/documents", None),
    "answers of a document": ("GET", "/chat/documents/messages?document_id=one", None),
    "page": ("GET", "/chat/sessions/{id}/messages", None),
    "health": ("GET", "/health", None),
}


class CancelledAt:
    """Awaits `coroutine`, and cancels the task that does so when it has to wait for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], number: int) -> None:
        self._coroutine = coroutine
        self._left = number

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._coroutine.__await__()
        error: BaseException | None = None
        while True:
            try:
                awaited = steps.throw(error) if error else steps.send(None)
            except StopIteration:
                return
            self._left -= 1
            if self._left == 0 and (task := asyncio.current_task()):
                asyncio.get_running_loop().call_soon(task.cancel)
            error = None
            try:
                yield awaited
            except BaseException as raised:  # noqa: BLE001 - handed on
                error = raised


class Site:
    """The application without a server, and a look at PostgreSQL from outside."""

    def __init__(self, app: FastAPI, outside: Connection, locker: Connection) -> None:
        self.app = app
        self.outside = outside
        self.locker = locker  # another one: within a transaction pg_stat_activity stands still
        self.sessions: list[str] = []

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        sent: list[Message] = []
        unread = [{"type": "http.request", "body": json.dumps(body).encode() if body is not None else b""}]

        async def receive() -> Message:
            await asyncio.sleep(0)
            if not unread:
                await asyncio.Event().wait()
            return unread.pop()

        async def send(message: Message) -> None:
            await asyncio.sleep(0)
            sent.append(message)

        length = str(len(unread[0]["body"])).encode()
        headers = [(b"x-api-key", KEY.encode()), (b"content-length", length), (b"content-type", b"application/json")]
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": headers,
            "state": {},
        }
        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)

    async def new_session(self) -> str:
        self.sessions.append(str(ids.new()))
        body = {"id": self.sessions[-1], "name": "old", "metadata": {"name": "old"}}
        assert (await self.request("POST", "/chat/sessions", body))[0] == 201
        # The same id: ids are unique among their own kind.
        one = {"id": self.sessions[-1], "sender": "user", "content": "one", **EVIDENCE}
        assert (await self.request("POST", f"/chat/sessions/{self.sessions[-1]}/messages", one))[0] == 201
        return self.sessions[-1]

    async def call(self, route: str, session: str, cancelled_at: int = 0) -> None:
        """Call `route`; cancelled when it has to wait for the `cancelled_at`-th time, if it ever does."""
        method, path, body = ROUTES[route]
        body = body and json.loads(json.dumps(body).replace("{id}", session))  # a text that nobody has stored
        await CancelledAt(self._succeed(method, path.format(id=session, message=session), body), cancelled_at)

    async def _succeed(self, method: str, path: str, body: dict[str, Any] | None) -> None:
        assert (await self.request(method, path, body))[0] < 300

    async def assert_nothing_left(self) -> None:
        """Both connections can be had, both places of the overload limit, and nothing runs or waits."""
        await until(lambda: not any(REGISTRY.get_sample_value(gauge) for gauge in GAUGES))  # others count there too
        await self.until_idle()
        async with self.app.state.db.driver() as one, self.app.state.db.driver() as other:
            assert one is not other
        both = await asyncio.gather(*(self.request("GET", "/chat/sessions") for _ in range(POOL_SIZE)))
        assert [status for status, _ in both] == [200, 200]
        states = await self.outside.fetch(STATES, self.sessions)
        assert [dict(state) for state in states if not is_whole(state)] == []
        assert await evidence.faults(self.outside, self.sessions) == []

    async def until_idle(self) -> None:
        async def idle() -> bool:
            connections, busy = [await self.outside.fetchval(query, NAME) for query in (CONNECTIONS, BUSY)]
            return connections <= POOL_SIZE and not busy

        await eventually(idle)  # PostgreSQL ends a connection a moment after us


@pytest.fixture
async def site(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """The application, whose background work is done once and then rests: it would be taken for something left."""
    for pause in ("FLUSH", "POLL"):
        monkeypatch.setattr(workers, pause, REST)
    url = f"{database_url}{'&' if '?' in database_url else '?'}application_name={NAME}"
    app = build(settings(database_url=url, pool_size=POOL_SIZE, max_waiting=0, evidence_grace=10 * REST))
    outside, locker = [await asyncpg.connect(**dsn.parse(database_url).arguments) for _ in range(2)]
    async with app.router.lifespan_context(app):
        await until(background_rests)
        yield Site(app, outside, locker)
    await outside.close()
    await locker.close()


WARM = [pytest.param(route, False, id=route) for route in ROUTES]
COLD = [pytest.param(route, True, id=f"{route} on a new connection") for route in ("append", "rename", "list")]


@pytest.mark.parametrize(("route", "cold"), [*WARM, *COLD])
async def test_wherever_a_request_is_cancelled_nothing_is_left(site: Site, route: str, cold: bool) -> None:
    for number in range(1, 100):
        session = await site.new_session()
        if cold:
            await site.app.state.db.granted()  # which closes them all
        try:
            await asyncio.create_task(site.call(route, session, number))
        except asyncio.CancelledError:
            await site.assert_nothing_left()
        else:
            break
    gc.collect()  # an open connection that nobody has is a warning, and warnings are errors
    assert number > 3


@pytest.mark.parametrize("route", ["append", "rename", "list"])
async def test_a_request_cancelled_while_it_waits_for_the_pool_gives_its_place_back(site: Site, route: str) -> None:
    session = await site.new_session()
    async with site.app.state.db.driver(), site.app.state.db.driver():
        waiting = asyncio.create_task(site.call(route, session))
        await until(lambda: REGISTRY.get_sample_value("db_pool_waiting"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await site.assert_nothing_left()


@pytest.mark.parametrize("route", ["append", "batch", "rename", "delete", "redact", "rewind"])
async def test_a_request_cancelled_while_it_waits_for_a_row_ends_its_statement(site: Site, route: str) -> None:
    session = await site.new_session()
    async with site.locker.transaction():
        await site.locker.execute(LOCK, [session])
        waiting = asyncio.create_task(site.call(route, session))
        await eventually(lambda: site.outside.fetchval(f"{BUSY} AND wait_event_type = 'Lock'", NAME))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await site.until_idle()  # while the row is locked still
    await site.assert_nothing_left()
    assert (await site.request("GET", f"/chat/sessions/{session}"))[0] == 200
