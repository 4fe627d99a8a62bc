"""The sweep beside a server that is stalled: no message may ever name a text that is gone.

Two servers share a database and a short grace. One of them is stopped with appends in flight, at any moment or at the
worst: an append knows its texts to be stored, and has not said so to PostgreSQL. Nothing names those texts, and the
other server sweeps them. Then the first one goes on. The lease is what its append asks; without it texts are lost.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psutil

from app.db import dsn
from app.db.embedded import attach
from app.tests.faults import evidence
from app.tests.faults.patience import eventually
from app.tests.harness import Chat
from app.tests.process import SERVE, Running, run

GRACE = 4.0
"""Seconds; a statement may take half of it."""

CLIENTS = 6
ROUNDS = 20

GUARD = "statement_timestamp() < $15"
STALLED = f"""
import os, signal
from pathlib import Path
from app.cli import main
from app.store import append
from app.store.evidence import Evidence

async def store(*arguments, original=Evidence.store, **named):
    stored = await original(*arguments, **named)
    if Path("stop").exists():
        os.kill(os.getpid(), signal.SIGSTOP)
    return stored

Evidence.store = store
if os.environ.get("WITHOUT_GUARD"):
    for name in ("APPEND_WITH_CONTEXT", "APPEND_BATCH"):
        statement = getattr(append, name)
        assert {GUARD!r} in statement
        setattr(append, name, statement.replace({GUARD!r}, "true"))
main()
"""
"""A program: `python -m app`, which stops itself at the worst moment once there is a file `stop`."""

OF_STALLED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stalled' AND state LIKE "
AT_WORK = OF_STALLED + "'active' AND coalesce(wait_event_type, '') NOT IN ('Lock', 'Client')"
WAITING = OF_STALLED + "'active' AND wait_event_type = 'Lock'"
HOLDING = OF_STALLED + "'idle in transaction%'"
"""Its background work, with locks that the other server must not wait for here."""

# Needs no transaction id, for whose end the sweep would wait.
LOCK = "LOCK TABLE chat_sessions IN SHARE MODE"

UNNAMED = """
SELECT count(*) FROM evidence e
WHERE NOT EXISTS (SELECT FROM chat_messages m WHERE e.id = ANY (m.context_refs))
"""


class Pair:
    """The two servers, and a look at their database."""

    def __init__(self, place: Path, url: str, stalled: Running, chat: Chat, connection: asyncpg.Connection) -> None:
        self._stop = place / "stop"
        self._url = url
        self._stalled = stalled
        self._to_stalled = stalled.client()
        self._chat = chat
        self._connection = connection
        self._chance = random.Random(1)  # noqa: S311 - chance, no secret
        self._sent: dict[str, Any] = {}
        self._sessions: list[str] = []
        self.acknowledged = 0
        self.stalled = 0
        self.swept = 0

    async def close(self) -> None:
        self._signal(signal.SIGCONT)  # a stopped process does not end
        await self._to_stalled.aclose()

    def _signal(self, number: signal.Signals) -> None:
        if self._stalled.process.returncode is None:
            self._stalled.process.send_signal(number)

    async def round(self, *, at_worst: bool) -> list[str]:
        """One stall with appends in flight; a sentence for each message that is lost by it."""
        _, *sessions = [await self._session_with_message() for _ in range(4)]  # of which the first one stays
        appends = await self._stall(at_worst=at_worst)
        await self._remove(*sessions)
        before = await self._connection.fetchval("SELECT count(*) FROM evidence")
        await eventually(self._all_named)
        self.swept += before - await self._connection.fetchval("SELECT count(*) FROM evidence")
        self._signal(signal.SIGCONT)
        statuses = await asyncio.gather(*appends)
        assert set(statuses) <= {201, 503}, statuses
        self.acknowledged += statuses.count(201)
        return await self._lost()

    async def round_behind_a_lock(self) -> list[str]:
        """The same where the append's own statement waits for a table, and begins to work when the texts are gone.

        The server has one connection, on which the statement was prepared before.
        """
        session = await self._new_session()
        assert await self._append(self._to_stalled, session) == 201
        holder = await asyncpg.connect(**dsn.parse(self._url).arguments)
        async with holder.transaction():
            await holder.execute(LOCK)
            append = asyncio.create_task(self._append(self._to_stalled, session))
            await eventually(lambda: self._connection.fetchval(WAITING))
            self._signal(signal.SIGSTOP)
            await eventually(self._has_stopped)
            await eventually(self._all_named)
        await holder.close()
        await eventually(self._stands_still)
        self._signal(signal.SIGCONT)
        await append
        return await self._lost()

    async def _stall(self, *, at_worst: bool) -> list[asyncio.Task[int]]:
        """Stop the server with appends in flight and nothing else."""
        while True:
            sessions = [await self._new_session() for _ in range(CLIENTS)]
            if at_worst:
                self._stop.touch()
            appends = [asyncio.create_task(self._append(self._to_stalled, session)) for session in sessions]
            if not at_worst:
                await asyncio.wait(appends, return_when=asyncio.FIRST_COMPLETED)
                self._signal(signal.SIGSTOP)
            await eventually(self._has_stopped)
            self._stop.unlink(missing_ok=True)
            await eventually(self._stands_still)
            if not await self._connection.fetchval(HOLDING):
                self.stalled += sum(not append.done() for append in appends)
                return appends
            self._signal(signal.SIGCONT)
            await asyncio.gather(*appends)

    async def _has_stopped(self) -> bool:
        return psutil.Process(self._stalled.process.pid).status() == psutil.STATUS_STOPPED

    async def _stands_still(self) -> bool:
        return not await self._connection.fetchval(AT_WORK)

    async def _all_named(self) -> bool:
        return not await self._connection.fetchval(UNNAMED)

    async def _new_session(self) -> str:
        self._sessions.append(session := (await self._chat.create())["id"])
        return str(session)

    async def _append(self, chat: Chat, session: str) -> int:
        """The status of an append of what others stand on too, and of a text of its own."""
        id_ = str(uuid4())
        self._sent[id_] = context = evidence.context(self._chance, id_)
        body = {"id": id_, "sender": "assistant", "content": "", "context": context}
        return (await chat.post(f"/chat/sessions/{session}/messages", json=body)).status_code

    async def _session_with_message(self) -> str:
        session = await self._new_session()
        assert await self._append(self._chat, session) == 201
        return session

    async def _remove(self, redacted: str, rewound: str, deleted: str) -> None:
        """Take the messages away, in each of the ways."""
        [message] = (await self._chat.messages({"id": redacted}))["messages"]
        for path in (f"{redacted}/messages/{message['id']}", f"{rewound}/messages?after=0", deleted):
            (await self._chat.delete(f"/chat/sessions/{path}")).raise_for_status()

    async def _lost(self) -> list[str]:
        """What is wrong with the messages that there are."""
        found = await evidence.audit(self._url)
        for session in self._sessions:
            path = f"/chat/sessions/{session}/messages?page_size=100"
            for how in ("none", "refs", "full"):
                response = await self._chat.get(f"{path}&context={how}")
                if response.status_code not in (200, 404):
                    found.append(f"a page of session {session} with context={how} is a {response.status_code}")
            for message in response.json().get("messages", []):
                if message["redacted_at"] is None and message["context"] != self._sent[message["id"]]:
                    found.append(f"message {message['id']} comes back with another context")
        return found


@contextlib.asynccontextmanager
async def pair(place: Path, url: str, *, guarded: bool, **chosen: str) -> AsyncIterator[Pair]:
    """Two servers on the database at `url`; the one that will be stalled with or without the guard, and as `chosen`."""
    settings = {"EVIDENCE_GRACE": f"{GRACE}", "COMMAND_TIMEOUT": f"{GRACE / 2}", "LOG_LEVEL": "WARNING"}
    named = f"{url}{'&' if '?' in url else '?'}application_name=stalled"
    bare = {} if guarded else {"WITHOUT_GUARD": "yes"}
    async with (
        run(*SERVE, cwd=place, DATABASE_URL=url, **settings) as well,
        run("-c", STALLED, "serve", cwd=place, DATABASE_URL=named, **settings, **bare, **chosen) as stalled,
        well.client() as chat,
    ):
        await well.ready()
        await stalled.ready()
        connection = await asyncpg.connect(**dsn.parse(url).arguments)
        servers = Pair(place, url, stalled, chat, connection)
        try:
            yield servers
        finally:
            await servers.close()
            await connection.close()


async def forced(place: Path, url: str, *, guarded: bool) -> tuple[list[str], Pair]:
    """What one stall at the worst moment loses."""
    async with pair(place, url, guarded=guarded) as servers:
        return await servers.round(at_worst=True), servers


async def torture(place: Path, say: Callable[[str], None], *, rounds: int = ROUNDS) -> bool:
    """So many stalls with the guard, which may lose nothing, and one without it, which must."""
    database = await attach(place / "data")
    try:
        async with pair(place, database.dsn, guarded=True) as servers:
            for number in range(1, rounds + 1):
                lost = await servers.round(at_worst=number % 2 == 1)
                say(f"{number} of {rounds} stalls: {servers.swept} texts swept, {lost[:5] or 'none lost'}")
                if lost:
                    return False
            figures = f"{servers.stalled} appends stalled, {servers.acknowledged} acknowledged"
        lost, _ = await forced(place, database.dsn, guarded=False)
        say(f"without the guard: {lost[:2] or 'none lost, which the guard would be for'}")
    finally:
        database.release()
    say(f"with the guard {figures}, none lost; without it {len(lost)} faults in one stall")
    return bool(lost)
