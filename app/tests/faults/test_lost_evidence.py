"""Evidence that the database has lost: in a failover, in a crash, and where somebody deleted it."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.db.pool import Database
from app.tests.faults.patience import eventually
from app.tests.faults.servers import MISSING, Server, server
from app.tests.harness import KEY, Chat, Service, settings


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_what_is_known_of_one_server_is_not_believed_of_the_next() -> None:
    """The copy lacks what was stored last, and gives its ids to other texts."""
    first, second, third = ({"document_id": f"d{n}", "text": f"text {n}"} for n in range(3))
    async with server() as primary, server() as behind:
        behind.port = primary.port
        await primary.make()
        await primary.start()
        chosen = settings(database_url=f"postgresql://postgres@{primary.host}/postgres", run_migrations=True)
        async with Service.running(chosen) as service, Chat(service.url, KEY) as chat:
            session = await chat.create()
            await behind.copy(primary)
            (behind.data / "standby.signal").unlink()
            for _ in range(2):
                await chat.answer(session, first)
                await chat.answer(session, second)
            await primary.end()
            await behind.start()
            after = [await chat.answer(session, one) for one in (second, third, first, third, second)]
            read = (await chat.messages(session))["messages"]
    assert read == after
    assert [message["context"]["documents"][0] for message in read] == [second, third, first, third, second]


@contextlib.asynccontextmanager
async def hasty_commits() -> AsyncIterator[tuple[Server, Chat]]:
    """A server whose commits do not wait for the disk, and a service that it serves."""
    async with server() as postgres:
        await postgres.make()
        await postgres.start()
        for setting in ("synchronous_commit = off", "wal_writer_delay = '10s'"):
            await postgres.execute(f"ALTER SYSTEM SET {setting}")
        await postgres.execute("SELECT pg_reload_conf()")
        chosen = settings(database_url=f"postgresql://postgres@{postgres.host}/postgres", run_migrations=True)
        async with Service.running(chosen) as service, Chat(service.url, KEY) as chat:
            yield postgres, chat


CHECKPOINTER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"


async def crash(postgres: Server, chat: Chat) -> None:
    """PostgreSQL starts anew after any of its processes was killed, without what it had not written yet."""
    [[pid]] = await postgres.execute(CHECKPOINTER)
    os.kill(pid, signal.SIGKILL)

    async def serves() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            if await postgres.execute(CHECKPOINTER) not in ([], [(pid,)]):
                return (await chat.get("/health")).status_code == 200
        return False

    await eventually(serves)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_a_text_that_a_process_knows_outlives_a_crash_where_commits_do_not_wait() -> None:
    """The answer may be gone, which the operator has chosen; the next answer has what it stands on."""
    first, second = ({"document_id": f"d{n}", "text": f"text {n}"} for n in range(2))
    async with hasty_commits() as (postgres, chat):
        session = await chat.create()
        await chat.answer(session, first)
        await chat.answer(session, second)
        await crash(postgres, chat)
        answer = await chat.answer(session, second)
        [row] = await postgres.execute(
            "SELECT body->>'text' FROM evidence WHERE id IN "
            f"(SELECT unnest(context_refs) FROM chat_messages WHERE id = '{answer['id']}')"
        )
    assert row[0] == "text 1"


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_a_mark_that_a_process_knows_outlives_a_crash_where_commits_do_not_wait() -> None:
    """Else the next mark would have the number of a lost one, and nobody would look for it."""
    async with hasty_commits() as (postgres, chat):
        session = await chat.create()
        await chat.answer(session, {"document_id": "d0", "text": "text"}, {"document_id": "d1"})
        await chat.mark("d0")
        await crash(postgres, chat)
        await chat.mark("d1")
        [answer] = (await chat.messages(session))["messages"]
    assert answer["evidence_documents"] == ["d0", "d1"]


async def test_a_text_that_is_gone_fails_no_page(chat: Chat, db: Database, database_url: str) -> None:
    session = await chat.create()
    await chat.answer(session, {"document_id": "d", "text": "gone", "score": 0.5}, {"document_id": "e", "text": "kept"})
    async with db.driver() as conn:
        await conn.execute("DELETE FROM evidence WHERE body->>'text' = 'gone' AND tenant_id = $1", chat.tenant_id)
    async with Service.running(settings(database_url=database_url)) as service:
        service.state.keyring.add(chat.key, chat.tenant_id)
        async with Chat(service.url, chat.key) as other:
            [message] = (await other.messages(session))["messages"]
    assert message["context"]["documents"] == [{"score": 0.5}, {"document_id": "e", "text": "kept"}]
