"""Counts of documents are exact once they are flushed, and after a crash with the next full count."""

from uuid import UUID

import asyncpg
import pytest

from app import workers
from app.db import dsn
from app.db.pool import Write
from app.errors import NotFound
from app.store import messages
from app.tests.conftest import NewDatabase
from app.tests.harness import Chat
from app.tests.store.background import Resting, resting

NAME = "counted"


async def answered(chat: Chat, number: int) -> list[dict[str, str]]:
    """So many answers that stand on the document, the first of which cites it."""
    session = await chat.create()
    use = {"document_id": NAME, "text": "one"}
    return [await chat.append(session, context={"documents": [{**use, "cited": n == 0}]}) for n in range(number)]


async def counts(rested: Resting, chat: Chat) -> asyncpg.Record:
    [row] = await rested.outside.fetch(
        "SELECT answers, cited, first_used, last_used FROM documents WHERE tenant_id = $1", chat.tenant_id
    )
    return row


async def told(rested: Resting, chat: Chat) -> tuple[int, int]:
    answers, cited, *_ = await counts(rested, chat)
    return answers, cited


async def redact(chat: Chat, message: dict[str, str]) -> None:
    path = f"/chat/sessions/{message['session_id']}/messages/{message['id']}"
    assert (await chat.delete(path)).status_code == 204


async def test_a_flush_adds_what_was_appended_and_takes_what_was_removed(rested: Resting, tenant: Chat) -> None:
    first, *_ = await answered(tenant, 3)
    await rested.flush()
    assert await told(rested, tenant) == (3, 1)
    await redact(tenant, first)
    await rested.flush()
    await rested.flush()
    assert await told(rested, tenant) == (2, 0)


async def test_a_full_count_between_an_answer_and_its_flush_counts_it_once(rested: Resting, tenant: Chat) -> None:
    first, *_ = await answered(tenant, 3)
    await redact(tenant, first)
    await rested.sweep()
    assert await told(rested, tenant) == (2, 0)
    await rested.flush()
    assert await told(rested, tenant) == (2, 0)
    await answered(tenant, 1)
    await rested.flush()
    assert await told(rested, tenant) == (3, 1)


async def test_what_a_crash_took_before_its_flush_the_next_full_count_finds(rested: Resting, tenant: Chat) -> None:
    await answered(tenant, 3)
    rested.evidence.counts.take()
    await rested.flush()
    assert await told(rested, tenant) == (0, 0)
    await rested.sweep()
    assert await told(rested, tenant) == (3, 1)
    _, _, first, last = await counts(rested, tenant)
    assert first < last


async def test_what_was_rolled_back_is_not_counted_and_what_still_runs_is_counted_later(
    rested: Resting, tenant: Chat
) -> None:
    first, second, _ = await answered(tenant, 3)
    await rested.flush()
    async with rested.db.write() as conn:
        await redact_within(conn, rested, tenant, first)
        await rested.flush()
        assert await told(rested, tenant) == (3, 1)  # it runs
    with pytest.raises(NotFound):
        await rolled_back(rested, tenant, second)
    await rested.flush()
    assert await told(rested, tenant) == (2, 0)
    await rested.sweep()
    assert await told(rested, tenant) == (2, 0)


async def test_a_server_counts_a_few_at_a_time_and_the_rest_before_it_ends(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FLUSHED", 2)
    async with resting(new_database) as rested:  # whose next flush would be in an hour
        async with await rested.service.new_tenant() as tenant:
            await answered(tenant, 5)
        url = rested.url
    outside = await asyncpg.connect(**dsn.parse(url).arguments)
    assert await outside.fetchval("SELECT answers FROM documents WHERE document_id = $1", NAME) == 5
    await outside.close()


async def redact_within(conn: Write, rested: Resting, tenant: Chat, message: dict[str, str]) -> None:
    named = UUID(message["session_id"]), UUID(message["id"])
    await messages.redact(conn, tenant.tenant_id, None, rested.evidence.counts, *named, None)


async def rolled_back(rested: Resting, tenant: Chat, message: dict[str, str]) -> None:
    async with rested.db.write() as conn:
        await redact_within(conn, rested, tenant, message)
        raise NotFound("This message")
