"""Clients that hang up at random points of every route: nothing of them may stay behind (SQLAlchemy #12077, #8145).

Some hang up within their body, some while they wait for the pool or for a session's row lock, some within the
answer; by FIN or by RST; on a new connection or on one that served a request before.
"""

import asyncio
import contextlib
import json
import random
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from app import ids
from app.db import dsn
from app.db.embedded import attach
from app.tests.faults import evidence
from app.tests.faults.patience import eventually
from app.tests.harness import KEY, Chat, end_by_reset
from app.tests.process import SERVE, UVICORN, run

AT_ONCE = 24
GONE = " 499 "
"""In an access line: the client was gone before its answer began."""

UNWANTED = re.compile(
    r".* (?:ERROR|CRITICAL) .*|.*(?:garbage collector|Traceback|never awaited|never retrieved|was destroyed).*"
)

GAUGES = ("db_pool_connections_in_use", "db_pool_waiting")

CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
BUSY = f"{CONNECTIONS} AND state <> 'idle'"
LOCK = "SELECT FROM chat_sessions WHERE id = ANY ($1::uuid[]) FOR UPDATE"

STATES = """
SELECT s.id, s.name, s.metadata ->> 'name' AS described, s.revision, s.message_count,
       array(SELECT seq FROM chat_messages m WHERE m.session_id = s.id ORDER BY seq) AS seqs,
       (SELECT count(*) FROM chat_messages m WHERE m.session_id = s.id AND m.redacted_at IS NOT NULL) AS redacted
FROM chat_sessions s WHERE s.id = ANY ($1::uuid[])
"""
ORPHANS = """
SELECT count(*) FROM chat_messages m
WHERE session_id = ANY ($1::uuid[]) AND NOT EXISTS (SELECT FROM chat_sessions s WHERE s.id = m.session_id)
"""

BATCH = 3
CHANGED = [("new", 1, 0), ("old", 1, 1), ("old", 0, 0), ("old", 2, 0), ("old", 1 + BATCH, 0)]
"""Name, messages and redacted ones after a rename, a redaction, a rewind, an append or a batch."""

Connection = asyncpg.Connection


@dataclass(frozen=True)
class Call:
    """A request, and whether a repeat of it is answered as one of these statuses."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    repeated: Sequence[int] = ()

    def raw(self, host: str, *, close: bool) -> bytes:
        body = b"" if self.body is None else json.dumps(self.body).encode()
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head += "Connection: close\r\n" if close else ""
        return head.encode() + b"\r\n" + body


class Crowd:
    """The sessions that the calls are about, and the calls."""

    def __init__(self, client: Chat, rng: random.Random) -> None:
        self._client = client
        self._rng = rng
        self.shared: list[str] = []
        self.own: list[str] = []  # of one rename or one delete each
        self.appended: Counter[str] = Counter()

    async def calls(self, number: int) -> list[Call]:
        """So many calls of every kind, in any order."""
        self.shared = [(await self._client.create())["id"] for _ in range(4)]
        for session in self.shared:
            await self._client.append({"id": session}, "the first", context=self._context())
        kinds = (
            *(self._read, self._create, self._append, self._append_batch),
            *(self._rename, self._delete, self._redact, self._rewind, self._mark),
        )
        calls = [await kinds[n % len(kinds)]() for n in range(number)]
        self._rng.shuffle(calls)
        return calls

    async def _read(self) -> Call:
        session = self._rng.choice(self.shared)
        paths = ("", f"/{session}", f"/{session}/messages?page=1", f"/{session}/messages?after=0&limit=5")
        documents = ("/chat/documents", f"/chat/documents/messages?document_id={evidence.SHARED[0]}")
        others = (*documents, "/health", "/readyz")
        return Call("GET", self._rng.choice((*(f"/chat/sessions{path}" for path in paths), *others)))

    async def _mark(self) -> Call:
        status = self._rng.choice(("current", "superseded", "withdrawn"))
        return Call("PUT", "/chat/documents", {"document_id": evidence.SHARED[0], "status": status}, (200,))

    async def _create(self) -> Call:
        return Call("POST", "/chat/sessions", {"id": str(ids.new()), "name": "made"}, (200, 201))

    async def _append(self) -> Call:
        session, id_ = self._rng.choice(self.shared), str(ids.new())
        self.appended[session] += 1
        body = {"id": id_, "sender": "user", "content": id_, "context": self._context()}
        return Call("POST", f"/chat/sessions/{session}/messages", body, (200, 201))

    async def _append_batch(self) -> Call:
        one = {"sender": "user", "content": "batch"}
        body = {"messages": [{"id": str(ids.new()), **one, "context": self._context()} for _ in range(BATCH)]}
        return Call("POST", f"{(await self._own())[0]}/messages/batch", body, (200, 201))

    async def _rename(self) -> Call:
        return Call("PUT", (await self._own())[0], {"name": "new", "metadata": {"name": "new"}}, (200,))

    async def _delete(self) -> Call:
        return Call("DELETE", (await self._own())[0], None, (204, 404))

    async def _redact(self) -> Call:
        session, message = await self._own()
        return Call("DELETE", f"{session}/messages/{message}", None, (204,))

    async def _rewind(self) -> Call:
        return Call("DELETE", f"{(await self._own())[0]}/messages?after=0", None, (200,))

    async def _own(self) -> tuple[str, str]:
        """The path of a session that no other call is about, and the id of its message."""
        session = await self._client.create(name="old", metadata={"name": "old"})
        message = await self._client.append(session, "one", context=self._context())
        self.own.append(session["id"])
        return f"/chat/sessions/{session['id']}", message["id"]

    def _context(self) -> dict[str, Any]:
        """What others stand on too, and one long text of its own."""
        found = evidence.context(self._rng, own := str(ids.new()))
        return found | {"documents": [*found["documents"], {"text": own + "y" * self._rng.choice((1, 100_000))}]}

    async def half_writes(self, connection: Connection) -> list[str]:
        """Sessions that are neither as they were nor as a call would have them."""
        states = await connection.fetch(STATES, [*self.shared, *self.own])
        found = [f"half written: {dict(state)}" for state in states if not is_whole(state)]
        if orphans := await connection.fetchval(ORPHANS, self.own):
            found.append(f"{orphans} messages without a session")
        return found + await evidence.faults(connection, [*self.shared, *self.own])

    async def repeat(self, connection: Connection, calls: Sequence[Call]) -> list[str]:
        """Each write once more: what that leaves is as if nobody had hung up."""
        found = []
        for call in calls:
            if call.repeated:
                response = await self._client.request(call.method, call.path, json=call.body)
                if response.status_code not in call.repeated:
                    found.append(f"{call.method} {call.path} again: {response.status_code}")
        counts = {str(state["id"]): state["message_count"] for state in await connection.fetch(STATES, self.shared)}
        if counts != (wanted := {session: 1 + self.appended[session] for session in self.shared}):
            found.append(f"messages: {counts} instead of {wanted}")
        return found + await self.half_writes(connection)


def is_whole(state: asyncpg.Record) -> bool:
    """Whether a session is as it was, or as one whole call leaves it; a shared one has no name, and only appends."""
    if state["seqs"] != list(range(1, state["message_count"] + 1)) or state["name"] != state["described"]:
        return False
    if state["name"] is None:
        return bool(state["revision"] == 1 + state["message_count"])
    now = (state["name"], state["message_count"], state["redacted"])
    return now in (CHANGED if state["revision"] == 3 else [("old", 1, 0)])


async def hang_up(url: str, call: Call, rng: random.Random) -> str:
    """Make `call` and hang up at a random point of it, which is returned."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    close, point = rng.random() < 0.5, rng.choice(("request", "wait", "wait", "wait", "answer"))
    if not close:
        writer.write(Call("GET", "/livez").raw(parts.netloc, close=False))
        await reader.readuntil(b"}")
    raw = call.raw(parts.netloc, close=close)
    writer.write(raw[: rng.randrange(len(raw))] if point == "request" else raw)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        if point == "wait":
            await asyncio.sleep(rng.choice((0, 0.001, 0.01, 0.1)))
        elif point == "answer":
            await reader.read(1)
    if rng.random() < 0.5:
        end_by_reset(writer)
    writer.transport.abort()
    return point


@contextlib.asynccontextmanager
async def row_locks(connection: Connection, sessions: Sequence[str]) -> AsyncIterator[None]:
    """Somebody who locks all `sessions` most of the time, a moment each."""
    over = asyncio.Event()  # cancelled within BEGIN, it left a transaction open, in which pg_stat_activity stands still

    async def lock() -> None:
        while not over.is_set():
            async with connection.transaction():
                await connection.execute(LOCK, sessions)
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.01)

    locking = asyncio.create_task(lock())
    try:
        yield
    finally:
        over.set()
        await locking


async def faults(place: Path, command: tuple[str, ...], database_url: str, *, pool_size: int, times: int) -> list[str]:
    """Serve, let `times` clients hang up, and return what that left behind."""
    rng = random.Random(f"{command} {pool_size}")  # noqa: S311 - the same order of things each time
    name = f"hang-ups-{secrets.token_hex(4)}"
    separator = "&" if "?" in database_url else "?"
    settings = {"POOL_SIZE": str(pool_size), "POOL_TIMEOUT": "60", "MAX_WAITING": "1000"}
    settings["DATABASE_URL"] = f"{database_url}{separator}application_name={name}"
    async with run(*command, cwd=place, **settings) as server, server.client() as client:
        await server.ready()
        connection = await asyncpg.connect(**dsn.parse(database_url).arguments)
        try:
            crowd = Crowd(client, rng)
            calls = await crowd.calls(times)
            async with row_locks(connection, [*crowd.shared, *crowd.own]):
                await _all_hang_up(server.url, calls, rng)
            found = await _left_behind(client, connection, name, pool_size)
            found += await crowd.half_writes(connection)
            found += await crowd.repeat(connection, calls)
        finally:
            await connection.close()
    if GONE not in server.output:
        found.append("nobody hung up while being served")
    return found + UNWANTED.findall(server.output)


async def _all_hang_up(url: str, calls: Sequence[Call], rng: random.Random) -> None:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(call: Call) -> None:
        async with free:
            await hang_up(url, call, rng)

    await asyncio.gather(*(one(call) for call in calls))


async def _left_behind(client: Chat, connection: Connection, name: str, pool_size: int) -> list[str]:
    answers = await asyncio.gather(*(client.get("/chat/sessions", params={"limit": 1}) for _ in range(20)))
    found = [f"then answered {response.status_code}" for response in answers if response.status_code != 200]

    async def nothing() -> bool:
        return not any(await _left(client, connection, name))

    with contextlib.suppress(TimeoutError):
        await eventually(nothing)  # requests whose client is gone are finished all the same
    if any(left := await _left(client, connection, name)):
        found.append(f"left: {left[0]} statements or transactions, {left[1]} in use, {left[2]} waiting")
    if (connections := await connection.fetchval(CONNECTIONS, name)) > pool_size:
        found.append(f"{connections} connections of a pool of {pool_size}")
    return found


async def _left(client: Chat, connection: Connection, name: str) -> tuple[float, ...]:
    figures = (await client.get("/metrics")).text
    gauges = (re.search(rf"^{gauge} (\S+)$", figures, re.MULTILINE) for gauge in GAUGES)
    return (await connection.fetchval(BUSY, name), *(float(gauge[1]) if gauge else 1.0 for gauge in gauges))


async def torture(place: Path, say: Callable[[str], None], times: int = 2_000) -> bool:
    """`times` clients each hang up on both ways to serve and on two sizes of the pool. True where nothing is left."""
    database = await attach(place / "data")
    good = True
    try:
        for name, command in (("serve", SERVE), ("uvicorn", UVICORN)):
            for pool_size in (2, 8):
                found = await faults(place, command, database.dsn, pool_size=pool_size, times=times)
                say(f"{name}, pool of {pool_size}: {times} hung up, left behind: {found or 'nothing'}")
                good = good and not found
    finally:
        database.release()
    return good
