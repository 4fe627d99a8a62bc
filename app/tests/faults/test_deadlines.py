"""Every wait for the database ends, with an answer that says so, and leaves nothing running behind it."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import httpx
import pytest

from app.db import dsn
from app.tests.conftest import NewDatabase
from app.tests.harness import KEY, Chat, Service, problem, settings
from app.tests.process import DEADLINE

CONNECTIONS = 8

Asked = tuple[str, str, object]

# A commit that takes longer than anybody waits: what is deferred runs within COMMIT, after every statement.
SLOW_COMMIT = """
CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER stall AFTER UPDATE OR DELETE ON chat_sessions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (old.name = 'slow') EXECUTE FUNCTION stall()
"""
AT_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' AND backend_type = 'client backend'
"""

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"  # pg_stat_activity stands still in a transaction


@pytest.fixture
async def url(new_database: NewDatabase, database_url: str) -> str:
    """A migrated database of the test's own: what it does to the tables, others would feel."""
    made = await new_database()
    async with Service.running(settings(database_url=made, run_migrations=True)):
        return made


@pytest.fixture
async def chat(url: str) -> AsyncIterator[Chat]:
    """A client of a service whose statements may take two seconds."""
    chosen = settings(database_url=url, command_timeout=2, pool_size=CONNECTIONS, pool_timeout=DEADLINE)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        yield client


@pytest.fixture
async def other(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's connection to the same database."""
    connection = await asyncpg.connect(**dsn.parse(url).arguments)
    yield connection
    await connection.close()


async def until(other: asyncpg.Connection, statement: str, count: int = 0) -> None:
    """Returns once `statement` counts so many."""
    async with asyncio.timeout(DEADLINE):
        while await other.fetchval(statement) != count:  # noqa: ASYNC110 - PostgreSQL has no event for it
            await asyncio.sleep(0.02)


def refused(response: httpx.Response) -> None:
    problem(response, 503, "timeout")
    assert int(response.headers["retry-after"]) >= 1


def every_call(path: str) -> list[Asked]:
    message = {"sender": "user", "content": "x"}
    return [
        ("POST", "/chat/sessions", {}),
        ("GET", "/chat/sessions", None),
        ("GET", path, None),
        ("PUT", path, {"name": str(uuid4())}),
        ("POST", f"{path}/messages", message),
        ("POST", f"{path}/messages/batch", {"messages": [message, message]}),
        ("GET", f"{path}/messages", None),
        ("GET", f"{path}/messages/{uuid4()}", None),
        ("DELETE", f"{path}/messages/{uuid4()}", None),
        ("DELETE", f"{path}/messages?after=1", None),
        ("DELETE", path, None),
    ]


async def ask(chat: Chat, calls: list[Asked]) -> list[httpx.Response]:
    return await asyncio.gather(*(chat.request(method, path, json=body) for method, path, body in calls))


async def test_every_call_ends_in_a_503_when_its_statement_does_not_end(chat: Chat, other: asyncpg.Connection) -> None:
    calls = every_call(f"/chat/sessions/{(await chat.create())['id']}")
    async with other.transaction():
        await other.execute("LOCK TABLE chat_sessions, chat_messages IN ACCESS EXCLUSIVE MODE")
        for response in await ask(chat, calls):
            refused(response)
        await until(other, WAITING)  # PostgreSQL was told to give up: else these wait for our lock
    await until(other, AT_WORK)
    statuses = [(await ask(chat, [call]))[0].status_code for call in calls]
    assert statuses == [201, 200, 200, 200, 201, 201, 200, 404, 404, 200, 204]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_commit_that_does_not_end_is_no_success(chat: Chat, other: asyncpg.Connection, method: str) -> None:
    slow = [await chat.create(name="slow") for _ in range(CONNECTIONS)]
    calls: list[Asked] = [(method, f"/chat/sessions/{session['id']}", {"name": "fast"}) for session in slow]
    await other.execute(SLOW_COMMIT)
    for response in await ask(chat, calls):
        refused(response)
    await until(other, AT_WORK)
    assert [response.json() for response in await ask(chat, [("GET", path, None) for _, path, _ in calls])] == slow
    await other.execute("DROP TRIGGER stall ON chat_sessions")
    assert {response.status_code for response in await ask(chat, calls)} == {200 if method == "PUT" else 204}


async def test_a_statement_whose_client_has_gone_ends_with_its_timeout(chat: Chat, other: asyncpg.Connection) -> None:
    session = await chat.create()
    path, body = f"/chat/sessions/{session['id']}/messages", {"sender": "user", "content": "x"}
    async with other.transaction():
        await other.execute("SELECT FROM chat_sessions FOR UPDATE")
        async with Chat(str(chat.base_url), KEY) as gone:
            asking = asyncio.create_task(gone.post(path, json=body))
            await until(other, WAITING, 1)
            asking.cancel()
            await asyncio.wait([asking])
        await until(other, WAITING)
    await until(other, AT_WORK)
    await chat.append(session)
