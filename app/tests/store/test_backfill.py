"""Contexts that an earlier release stored whole are brought over in batches, and nobody who reads sees a difference."""

import asyncio
import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db import dsn
from app.errors import DatabaseUnavailable
from app.store import backfill, messages
from app.tests.faults import evidence
from app.tests.faults.patience import eventually
from app.tests.harness import Chat
from app.tests.store.background import Resting

OLD = "SELECT count(*) FROM chat_messages WHERE context IS NOT NULL AND context_refs IS NULL"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
SHARED = {"document_id": "shared", "chunk_id": "a", "text": "of all", "cited": True}
CONTEXTS: list[Any] = [
    *({"query": str(n), "documents": [{**SHARED, "score": n / 3}, {"text": f"own {n}"}]} for n in range(4)),
    [{"document_id": "without text"}, 12345678901234567890123, "odd"],
    {"documents": "none"},
    "plain",
]


async def old_release(rested: Resting, chat: Chat) -> dict[str, Any]:
    """A session whose contexts are stored as the earlier release did, none of them known to this one."""
    session = await chat.create()
    for number in range(len(CONTEXTS)):
        await chat.append(session, str(number))
    for seq, context in enumerate(CONTEXTS, start=1):
        await rested.outside.execute(
            "UPDATE chat_messages SET context = $3::text::json WHERE session_id = $1 AND seq = $2",
            session["id"],
            seq,
            json.dumps(context),
        )
    await rested.outside.execute("UPDATE jobs SET state = '{}', next_at = now() WHERE name = 'backfill'")
    return session


async def contexts(chat: Chat, session: dict[str, Any]) -> list[Any]:
    return [message["context"] for message in (await chat.messages(session))["messages"]]


async def test_pages_are_equal_before_while_and_after_old_contexts_are_brought_over(
    rested: Resting, tenant: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "MOST", 2)
    session = await old_release(rested, tenant)
    expected = [*CONTEXTS]
    left = [await rested.outside.fetchval(OLD)]
    assert await contexts(tenant, session) == expected
    while await backfill.batch(rested.db, rested.evidence):
        expected.append(CONTEXTS[0])
        await tenant.append(session, context=CONTEXTS[0])
        assert await contexts(tenant, session) == expected
        left.append(await rested.outside.fetchval(OLD))
    assert left == [7, 5, 3, 1, 0]
    assert await backfill.batch(rested.db, rested.evidence) is None  # done, or not due
    assert await evidence.audit(rested.url) == []
    found = (await tenant.messages(session))["messages"]
    assert await evidence.unlisted(tenant, ["shared", "without text"], found) == []
    await rested.flush()
    shared = (await tenant.get("/chat/documents", params={"document_id": "shared"})).json()["documents"][0]
    assert (shared["answers"], shared["cited"]) == (8, 8)


async def test_a_kill_in_the_middle_loses_nothing_and_the_next_one_goes_on(
    rested: Resting, tenant: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "MOST", 2)
    session = await old_release(rested, tenant)
    assert await backfill.batch(rested.db, rested.evidence)
    holder = await asyncpg.connect(**dsn.parse(rested.url).arguments)
    async with holder.transaction():
        await holder.execute("SELECT FROM chat_sessions WHERE id = $1 FOR UPDATE", session["id"])
        bringing = asyncio.create_task(backfill.batch(rested.db, rested.evidence))
        await eventually(lambda: rested.outside.fetchval(WAITING))
        await rested.outside.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        with pytest.raises(DatabaseUnavailable):
            await bringing
    await holder.close()
    assert await rested.outside.fetchval(OLD) == 5
    assert await contexts(tenant, session) == CONTEXTS
    while await backfill.batch(rested.db, rested.evidence):
        pass
    assert await rested.outside.fetchval(OLD) == 0
    assert await contexts(tenant, session) == CONTEXTS
    assert await evidence.audit(rested.url) == []


async def test_what_is_redacted_meanwhile_does_not_come_back(rested: Resting, tenant: Chat) -> None:
    session = await old_release(rested, tenant)
    [message, *_] = (await tenant.messages(session))["messages"]
    named = UUID(session["id"]), UUID(message["id"])
    async with rested.db.write() as conn:
        await messages.redact(conn, tenant.tenant_id, None, rested.evidence.counts, *named, None)
        bringing = asyncio.create_task(backfill.batch(rested.db, rested.evidence))
        await eventually(lambda: rested.outside.fetchval(WAITING))  # it has read what is redacted now
    assert await bringing
    assert await contexts(tenant, session) == [None, *CONTEXTS[1:]]
    assert await rested.outside.fetchval(OLD) == 0
    assert await evidence.audit(rested.url) == []
    assert len(await evidence.answers(tenant, "shared")) == 3
