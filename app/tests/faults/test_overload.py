"""More is asked than can be served: refused at once, told so, and nothing of what was accepted suffers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from app.db import dsn
from app.db.line import first
from app.db.pool import Database
from app.server import _GreetingServer
from app.tests.conftest import NewDatabase
from app.tests.faults import overload
from app.tests.harness import KEY, Chat, Service, problem, settings
from app.tests.process import DEADLINE, SERVE, run

CLIENTS = 300
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"  # pg_stat_activity stands still in a transaction

FILL = """
INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata)
SELECT $1, seq, gen_random_uuid(), 'user', 'hello', '{}' FROM generate_series(1, $2::int) AS seq
"""


async def _until(other: asyncpg.Connection, waiting: int) -> None:
    """Returns once so many statements wait for a lock."""
    async with asyncio.timeout(DEADLINE):
        while await other.fetchval(WAITING) < waiting:  # noqa: ASYNC110 - PostgreSQL has no event for it
            await asyncio.sleep(0.02)


async def test_overload_is_told_and_nothing_accepted_is_lost(tmp_path: Path, new_database: NewDatabase) -> None:
    chosen = {"DATABASE_URL": await new_database(), "MAX_WAITING": "20", "POOL_SIZE": "4"}
    async with run(*SERVE, cwd=tmp_path, **chosen) as running, running.client() as client:
        await running.ready()
        sessions = [(await client.create())["id"] for _ in range(10)]
        pressed = await overload.press(running.url, tmp_path, sessions, CLIENTS, seconds=1, pause=0)
        assert pressed.complaints() == []
        assert pressed.with_status(503)
        acknowledged = [answer.what for answer in pressed.with_status(201)]
        assert acknowledged
        assert await overload.afterwards(client, sessions, acknowledged) == []
    assert " 503 " in running.output  # the access line tells of each,
    assert " ERROR " not in running.output  # and none costs frames
    assert " overloaded: 24 requests are in flight" in running.output


class Single:
    """The one connection of a pool, and who has used it."""

    def __init__(self, db: Database) -> None:
        self.hold = db.driver
        self.served: list[str] = []

    async def use(self, name: str) -> None:
        async with self.hold():
            self.served.append(name)


@pytest.fixture
async def single(database_url: str) -> AsyncIterator[Single]:
    async with Service.running(settings(database_url=database_url, pool_size=1)) as service:
        yield Single(service.db)


async def test_who_waits_for_a_connection_is_served_in_turn(single: Single) -> None:
    """A newcomer that runs between a connection's return and the waking of who waits for it does not take it."""
    async with single.hold():
        waiting = [asyncio.create_task(single.use(name)) for name in ("first", "second")]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await single.use("newcomer")
    await asyncio.gather(*waiting)
    assert single.served == ["first", "second", "newcomer"]


async def test_a_probe_waits_for_nobody_who_waits(single: Single) -> None:
    async with single.hold():
        waiting = [asyncio.create_task(single.use("request"))]
        await asyncio.sleep(0)
        with first():
            waiting.append(asyncio.create_task(single.use("probe")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert single.served == ["probe", "request"]


@pytest.mark.parametrize("way", ["hands over", "times out"])
async def test_a_connection_handed_to_who_has_just_gone_is_not_lost(single: Single, way: str) -> None:
    async with single.hold():
        gone = asyncio.create_task(single.use("gone"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if way == "times out":
            gone.cancel()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(DEADLINE):
        await single.use("next")


def test_a_server_accepts_several_connections_in_one_round_of_its_loop() -> None:
    """Else those of an overloaded server wait in the kernel, neither served nor refused, and probes behind them."""
    assert uvloop.run(_rounds(connections=64)) < 64


async def _rounds(connections: int) -> int:
    """Rounds of the loop until so many connections, all waiting, are accepted."""
    config = uvicorn.Config(_nothing, port=0, log_config=None, ws="none", lifespan="off")
    config.load()
    server = _GreetingServer(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    address = server.servers[0].sockets[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(connections)]
    rounds = 0
    while len(server.server_state.connections) < connections:
        await asyncio.sleep(0)
        rounds += 1
    for client in clients:
        client.close()
    await server.shutdown()
    return rounds


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None: ...


@pytest.mark.parametrize("kind", ["delete", "rewind"])
async def test_removing_twenty_thousand_messages_holds_nobody_else_up(new_database: NewDatabase, kind: str) -> None:
    url = await new_database()
    async with (
        Service.running(settings(database_url=url, run_migrations=True)) as service,
        Chat(service.url, KEY) as chat,
    ):
        big, small = await chat.create(), await chat.create()
        other = await asyncpg.connect(**dsn.parse(url).arguments)
        await other.execute(FILL, big["id"], 20_000)
        await other.execute("UPDATE chat_sessions SET message_count = 20000 WHERE id = $1", big["id"])
        path = f"/chat/sessions/{big['id']}"
        async with other.transaction():
            await other.execute("SELECT FROM chat_messages WHERE session_id = $1 AND seq = 10000 FOR UPDATE", big["id"])
            asked = path if kind == "delete" else f"{path}/messages?after=0"
            removal = asyncio.create_task(chat.delete(asked))  # held up in its midst
            await _until(other, 1)
            append = asyncio.create_task(chat.post(f"{path}/messages", json={"sender": "user", "content": "late"}))
            await _until(other, 2)
            await chat.append(small)
            assert (await chat.messages(small))["total"] == 1
            assert (await chat.messages(big))["total"] == 20_000
            assert len((await chat.sessions())["sessions"]) == 2
        if kind == "delete":
            assert (await removal).status_code == 204
            problem(await append, 404, "not_found")
        else:
            assert (await removal).json()["deleted"] == 20_000
            assert (await append).json()["seq"] == 1
        left = await other.fetchval("SELECT count(*) FROM chat_messages WHERE session_id = $1", big["id"])
        assert left == (0 if kind == "delete" else 1)
        await other.close()
