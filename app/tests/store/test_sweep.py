"""The sweep removes what nothing stands on and nobody has seen lately, by one instance at a time, and goes on."""

import asyncpg
import pytest
from sqlalchemy import text

from app.db import dsn
from app.errors import DatabaseUnavailable
from app.store import sweep
from app.store.sweep import Swept
from app.tests.harness import Chat
from app.tests.store.background import DUE, GRACE, Resting


def documents(*texts: str) -> dict[str, object]:
    return {"documents": [{"document_id": f"of {text}", "text": text} for text in texts]}


async def redact(chat: Chat, message: dict[str, str]) -> None:
    path = f"/chat/sessions/{message['session_id']}/messages/{message['id']}"
    assert (await chat.delete(path)).status_code == 204


async def test_a_text_goes_when_no_message_stands_on_it_and_nobody_has_seen_it_for_the_grace(
    rested: Resting, tenant: Chat
) -> None:
    session = await tenant.create()
    removed = await tenant.append(session, context=documents("own", "shared", "lately"))
    kept = await tenant.append(session, context=documents("shared", "another's"))
    await redact(tenant, removed)
    await rested.sweep(2)
    assert await rested.texts(tenant) == ["another's", "lately", "own", "shared"]  # all seen within the grace
    await rested.age(tenant)
    await rested.outside.execute(
        "UPDATE evidence SET seen_at = now() WHERE tenant_id = $1 AND body::text LIKE '%lately%'", tenant.tenant_id
    )
    await rested.sweep()
    assert await rested.texts(tenant) == ["another's", "lately", "shared"]
    assert (await tenant.messages(session))["messages"][1] == kept
    await redact(tenant, kept)
    await rested.age(tenant)
    await rested.sweep()
    assert await rested.texts(tenant) == []


async def test_a_document_goes_with_its_last_answer_unless_it_is_marked(rested: Resting, tenant: Chat) -> None:
    session = await tenant.create()
    message = await tenant.append(session, context=documents("one", "two"))
    mark = {"document_id": "of two", "status": "withdrawn"}
    assert (await tenant.put("/chat/documents", json=mark)).status_code == 200
    await rested.age(tenant)
    assert (await rested.sweep(2)).documents == 0
    await redact(tenant, message)
    await rested.age(tenant)
    assert (await rested.sweep()).documents == 1
    left = await rested.outside.fetch("SELECT document_id FROM documents WHERE tenant_id = $1", tenant.tenant_id)
    assert [row["document_id"] for row in left] == ["of two"]


async def test_nothing_goes_as_long_as_a_transaction_runs_that_began_before_the_last_round(
    rested: Resting, tenant: Chat
) -> None:
    """It could be an append that named the text within its lease, and then waited."""
    await redact(tenant, await tenant.append(await tenant.create(), context=documents("one")))
    writer = await asyncpg.connect(**dsn.parse(rested.url).arguments)
    async with writer.transaction():
        await writer.execute("SELECT pg_current_xact_id()")
        await rested.sweep()
        await rested.age(tenant)
        await rested.sweep(2)
        assert await rested.texts(tenant) == ["one"]
    await writer.close()
    await rested.sweep()
    assert await rested.texts(tenant) == []


async def test_two_instances_do_not_sweep_at_one_time(rested: Resting) -> None:
    await rested.outside.execute(DUE, "sweep")
    async with rested.db.write() as one:
        assert await sweep.batch(one, GRACE)
        async with rested.db.write() as other:
            assert await sweep.batch(other, GRACE) is None
    async with rested.db.write() as other:
        assert await sweep.batch(other, GRACE)


async def test_what_a_killed_sweeper_began_is_finished_by_another(
    rested: Resting, tenant: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "TEXTS", 2)
    await rested.sweep()  # ends whatever round is under way
    removed = await tenant.append(await tenant.create(), context=documents(*"abcde"))
    await redact(tenant, removed)
    await rested.age(tenant)
    await rested.outside.execute(DUE, "sweep")
    async with rested.db.write() as conn:
        done = await sweep.batch(conn, GRACE)
    while done and done.texts == 0:  # what other tests left
        async with rested.db.write() as conn:
            done = await sweep.batch(conn, GRACE)
    assert done  # of two texts, one may still be another test's
    left = 5 - done.texts
    with pytest.raises(DatabaseUnavailable):
        await swept_and_killed(rested)
    assert len(await rested.texts(tenant)) == left
    assert (await rested.sweep()).texts == left  # where it was, and all that is left
    assert await rested.texts(tenant) == []


async def swept_and_killed(rested: Resting) -> None:
    """Do a batch in a session that ends before its commit, as that of a killed process does."""
    async with rested.db.write() as conn:
        assert await sweep.batch(conn, GRACE) == Swept(texts=2, documents=0, goes_on=True)
        pid = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await rested.outside.execute("SELECT pg_terminate_backend($1, 60000)", pid)
