"""How connections are made and given up: several hosts, dead paths, statements that nobody waits for any more."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from app.db import dsn
from app.db.connecting import Connector
from app.db.pool import Database
from app.db.start import start
from app.errors import DatabaseUnavailable, Refused, TimedOut
from app.tests.faults.relay import Relay, black_hole
from app.tests.harness import settings
from app.tests.process import DEADLINE, free_port


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    relay = Relay(database_url)
    yield relay
    relay.cut()


async def test_a_first_host_that_swallows_packets_leaves_time_for_the_second(relay: Relay) -> None:
    url, gone = await relay.start(), free_port()
    both = url.replace("@", f"@127.0.0.1:{gone},")
    chosen = settings(connect_timeout=2)
    async with black_hole(gone):
        connect = Connector(dsn.parse(both), chosen)
        for _ in range(2):
            connection = await connect()
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()


async def test_a_server_that_takes_no_writes_is_refused_at_start_in_one_line(relay: Relay) -> None:
    url = f"{await relay.start()}?target_session_attrs=read-write&options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(Refused, match=r"is of the kind that DATABASE_URL asks for: read-write$"):
        async with start(settings(database_url=url)):
            pass


async def test_where_no_host_takes_writes_the_database_is_away(relay: Relay) -> None:
    url = f"{await relay.start()}?target_session_attrs=read-write&options=-c%20default_transaction_read_only%3Don"
    database = Database(dsn.parse(url), settings())
    with pytest.raises(DatabaseUnavailable):
        async with database.driver():
            pass
    await database.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
@pytest.mark.parametrize(
    ("seconds", "idle", "unacknowledged"), [(7, 3, 7_000), (300, 150, 300_000), (10**9, 32_767, 2**31 - 1)]
)
async def test_the_system_gives_up_a_connection_whose_network_is_gone(
    relay: Relay, seconds: int, idle: int, unacknowledged: int
) -> None:
    connection = await Connector(dsn.parse(await relay.start()), settings(connect_timeout=seconds))()
    sock = cast("Any", connection)._transport.get_extra_info("socket")  # noqa: SLF001
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == unacknowledged
    await connection.close()


async def test_a_statement_that_timed_out_does_not_go_on_in_the_server(db: Database) -> None:
    with contextlib.suppress(TimedOut):
        async with db.driver() as conn:
            pid = conn.get_server_pid()
            await conn.execute(f"SELECT pg_sleep({10 * DEADLINE})", timeout=0.2)
    async with asyncio.timeout(DEADLINE), db.driver() as conn:
        while await conn.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid):
            pass


async def test_leave_is_taken_of_a_server_that_does_not_answer(relay: Relay) -> None:
    database = Database(dsn.parse(await relay.start()), settings(command_timeout=2 * DEADLINE))
    async with database.driver() as one, database.driver() as other:
        await asyncio.gather(one.execute("SELECT 1"), other.execute("SELECT 1"))
    relay.freeze()
    async with asyncio.timeout(DEADLINE):
        await database.close()
