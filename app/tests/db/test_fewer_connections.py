"""Workers that want more connections than the server grants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import asyncpg
import pytest
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn

from app.db.line import Line
from app.tests.db.postgres import Postgres, needs_postgres, postgres
from app.tests.harness import KEY, Chat, Service, problem, settings
from app.tests.process import DEADLINE, SERVE, run

pytestmark = needs_postgres

OTHERS = 10
PATIENT = {"pool_timeout": DEADLINE}  # two connections for 64 requests: nobody knows how long that takes
PATIENT_PROCESS = {"POOL_TIMEOUT": str(DEADLINE)}

# Answers once they have ended: a request on one that still listens would be a 503.
END_ALL = f"SELECT pg_terminate_backend(pid, {DEADLINE * 1000}) FROM pg_stat_activity WHERE usename = 'app'"


@pytest.fixture(scope="module")
async def nearly_full() -> AsyncIterator[Postgres]:
    """15 connections, of which other clients hold 10 and the server keeps 3 for superusers: 2 are left."""
    async with postgres({"max_connections": "15", "superuser_reserved_connections": "3"}) as server:
        await server.execute("CREATE DATABASE rag_chat", "CREATE ROLE app LOGIN PASSWORD 'p@:/?#[]%+ &=ü'")
        await server.execute("ALTER DATABASE rag_chat OWNER TO app")
        others = [await server.connect() for _ in range(OTHERS)]
        try:
            yield server
        finally:
            for other in others:
                await other.close()


async def statuses(url: str, count: int) -> list[int]:
    async def create() -> int:
        async with Chat(url, KEY) as client:  # a connection each, so that every worker gets some
            return (await client.post("/chat/sessions", json={})).status_code

    return await asyncio.gather(*(create() for _ in range(count)))


async def test_three_workers_serve_with_two_connections(nearly_full: Postgres, tmp_path: Path) -> None:
    url = nearly_full.url("rag_chat", "app")
    async with run(*SERVE, "--workers=3", cwd=tmp_path, DATABASE_URL=url, **PATIENT_PROCESS) as server:
        await server.until("8 wanted, ", times=3)
        for _ in range(2):
            assert set(await statuses(server.url, 64)) == {201}
    lines = [line for line in server.output.splitlines() if "wanted" in line]
    assert all(line.endswith(("0 granted", "1 granted", "2 granted")) and " WARNING " in line for line in lines), lines
    assert f"127.0.0.1:{nearly_full.port}/rag_chat, connections of this worker" in lines[0]


async def free(server: Postgres) -> asyncpg.Connection:
    """One of the last connections, once the server has noticed that it was given back."""
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                return await server.connect("rag_chat", "app")


async def test_connections_that_nobody_needs_are_given_back(nearly_full: Postgres) -> None:
    url = nearly_full.url("rag_chat", "app")
    async with Service.running(settings(database_url=url, run_migrations=True, **PATIENT)) as service:
        assert set(await statuses(service.url, 16)) == {201}
        left = [await free(nearly_full) for _ in range(2)]
        for connection in left:
            await connection.close()
        assert set(await statuses(service.url, 16)) == {201}


async def test_without_a_connection_a_request_is_told_to_come_back(nearly_full: Postgres) -> None:
    url = nearly_full.url("rag_chat", "app")
    impatient = settings(database_url=url, run_migrations=True, pool_timeout=0.5)
    async with Service.running(impatient) as service, Chat(service.url, KEY) as client:
        await served(client)
        left = [await free(nearly_full) for _ in range(2)]
        answer = await client.get("/chat/sessions")
        problem(answer, 503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        for connection in left:
            await connection.close()
        await served(client)


async def served(client: Chat) -> None:
    """Returns once a request gets a connection, which on a slow machine may take longer than it is willing to wait."""
    async with asyncio.timeout(DEADLINE):
        while (answer := await client.get("/chat/sessions")).status_code != 200:
            problem(answer, 503, "overloaded")


async def test_who_was_handed_a_connection_waits_for_none() -> None:
    """Else one that comes back before it runs is kept for nobody, and other workers never get it."""
    line, connection = Line(2), cast("ConnectionPoolEntry", object())
    waiting = asyncio.create_task(greenlet_spawn(line.get))
    await asyncio.sleep(0)
    awaited = [line.is_awaited]
    line.put_nowait(connection)
    awaited.append(line.is_awaited)
    assert awaited == [True, False]
    assert await waiting is connection


async def test_after_a_restart_with_fewer_connections_the_rest_serves(nearly_full: Postgres) -> None:
    url = nearly_full.url("rag_chat", "app")
    async with Service.running(settings(database_url=url, run_migrations=True, **PATIENT)) as service:
        await nearly_full.execute("ALTER ROLE app CONNECTION LIMIT 2")
        assert set(await statuses(service.url, 16)) == {201}
        await nearly_full.execute("ALTER ROLE app CONNECTION LIMIT 1", END_ALL)
        assert set(await statuses(service.url, 16)) == {201}
        await nearly_full.execute("ALTER ROLE app CONNECTION LIMIT -1")
