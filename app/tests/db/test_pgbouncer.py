"""A real pgbouncer in transaction mode: each transaction may meet another connection of the server."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.db.start import start
from app.errors import Refused
from app.tests.db.postgres import Postgres, needs_pgbouncer, pgbouncer, postgres
from app.tests.harness import KEY, Chat, Service, settings

pytestmark = needs_pgbouncer


@pytest.fixture(scope="module")
async def behind() -> AsyncIterator[tuple[Postgres, int]]:
    async with postgres() as server, pgbouncer(server, pool=3) as port:
        await server.execute("CREATE DATABASE rag_chat")
        yield server, port


async def test_two_servers_migrate_and_serve_through_it(behind: tuple[Postgres, int]) -> None:
    server, port = behind
    chosen = settings(database_url=server.url("rag_chat", port=port), run_migrations=True, pool_timeout=60)
    async with (
        Service.running(chosen) as one,
        Service.running(chosen) as other,
        Chat(one.url, KEY) as first,
        Chat(other.url, KEY) as second,
    ):
        sessions = [await first.create(name=f"session {number}") for number in range(10)]

        async def use(number: int) -> None:
            client, session = (first, second)[number % 2], sessions[number % 10]
            await client.append(session, f"message {number}")  # the driver's own
            assert len((await client.sessions(name="session"))["sessions"]) == 10  # Core, autocommit
            answer = await client.put(f"/chat/sessions/{session['id']}", json={"name": f"session {number}"})
            assert answer.status_code == 200  # Core, a transaction

        await asyncio.gather(*(use(number) for number in range(40)))
        for session in sessions:
            page = await second.messages(session, page_size=100)
            assert [message["seq"] for message in page["messages"]] == list(range(1, 5))


async def test_a_parameter_that_it_does_not_take_is_refused_in_one_line(behind: tuple[Postgres, int]) -> None:
    server, port = behind
    url = server.url("rag_chat", port=port, query="options=-c%20statement_timeout%3D1s")
    with pytest.raises(Refused, match="unsupported startup parameter") as refused:
        async with start(settings(database_url=url)):
            pass
    assert "\n" not in str(refused.value)
