"""Evidence in backups: contexts, texts, uses, marks and counts come back, and go on from there."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from app.db import dsn, migrate
from app.db.backup import backup
from app.db.pool import Database
from app.db.restore import restore
from app.tests.conftest import NewDatabase
from app.tests.db.backup_content import AWKWARD, connected, dump, execute
from app.tests.harness import KEY, Chat, Service, settings
from app.tests.process import DEADLINE

BEFORE_EVIDENCE = "20261125_1200"

LEAVE = {"document_id": "hr/leave.md", "chunk_id": "2", "version": "2024", "text": "Leave is 60 days.", "score": 8.1}
PAY = {"document_id": "hr/pay.md", "title": "Pay", "text": "Pay continues.", "cited": True}
CONTEXTS: list[Any] = [
    {"query": "How long?", "documents": [LEAVE, {**PAY, "rank": 2}]},
    [{**LEAVE, "score": "8.1", "metadata": {"of": [1, 1.0, 1e23]}}, "odd", None, {"text": "without an id"}],
    {"documents": [{"document_id": "hr/leave.md", "rank": 1}], "n": 12345678901234567890123},
]


async def counted(service: Service, chat: Chat, answers: int) -> dict[str, Any]:
    """The document once so many answers are counted, by this or by the worker of the service."""
    async with asyncio.timeout(DEADLINE):
        while True:
            counts = service.state.evidence.counts
            async with service.db.write() as conn:
                counts.add(await counts.write(conn, counts.take()))
            (document,) = (await chat.get("/chat/documents?document_id=hr/leave.md")).json()["documents"]
            if document["answers"] == answers:
                return dict(document)
            await asyncio.sleep(0.05)


async def reads(chat: Chat, session: dict[str, Any]) -> list[bytes]:
    """Everything that tells of evidence, byte by byte."""
    messages = f"/chat/sessions/{session['id']}/messages"
    uses = "/chat/documents/messages?document_id=hr/leave.md"
    paths = (messages, f"{messages}?context=refs", "/chat/documents", uses, f"{uses}&chunk_id=2", f"{uses}&cited=true")
    answers = [await chat.get(path) for path in paths]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.content for answer in answers]


@pytest.mark.parametrize("counted_at", ["pg_current_snapshot()::text", "'7:9999999999:7'"], ids=["here", "elsewhere"])
async def test_answers_are_asked_for_counted_and_judged_after_a_restore_as_before(
    new_database: NewDatabase, tmp_path: Path, counted_at: str
) -> None:
    source, target = await new_database(), await new_database()
    async with Service.running(settings(database_url=source, run_migrations=True)) as service:
        async with Chat(service.url, KEY) as chat:
            session = await chat.create()
            for context in CONTEXTS:
                await chat.append(session, "answer", context=context)
            body = {"document_id": "hr/leave.md", "status": "withdrawn", "version": "2024", "reason": "of last year"}
            assert (await chat.put("/chat/documents", json=body)).status_code == 200
            await counted(service, chat, answers=3)
            await execute(source, f"UPDATE documents SET counted = {counted_at}")
            before = await reads(chat, session)
            assert b'"evidence_status":"withdrawn","evidence_documents":["hr/leave.md"]' in before[0]
        await backup(settings(database_url=source), tmp_path / "a.dump")
    async with (
        Service.running(settings(database_url=target, run_migrations=True)) as service,
        Chat(service.url, KEY) as chat,
    ):
        await restore(settings(database_url=target), tmp_path / "a.dump")
        assert await reads(chat, session) == before
        again = await chat.append(session, "answer", context=CONTEXTS[0])
        assert (again["seq"], again["evidence_status"]) == (4, "withdrawn")
        assert (await counted(service, chat, answers=4))["last_used_at"] == again["created_at"]
        async with connected(target) as connection:
            assert await connection.fetchval("SELECT count(*) FROM evidence") == 3  # its texts were there


async def test_a_backup_of_the_release_before_evidence_is_restored_and_brought_over(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    source, target = await new_database(), await new_database()
    database = Database(dsn.parse(source), settings())
    async with database.write() as conn:
        await conn.run_sync(up_to, BEFORE_EVIDENCE)
    await database.close()
    await execute(source, AWKWARD)
    async with connected(source) as connection:
        await connection.executemany(
            "UPDATE chat_messages SET context = $1::text::json WHERE seq = $2",
            [('{"documents": [{"document_id": "hr/leave.md", "text": "60 days"}], "n": 1e23}', seq) for seq in (7, 8)],
        )
        stored = await connection.fetch("SELECT seq, context::text FROM chat_messages ORDER BY session_id, seq")
    await dump(source, tmp_path / "old.dump", PGTZ="UTC")

    await restore(settings(database_url=target), tmp_path / "old.dump")
    async with connected(target) as connection:
        rows = "SELECT seq, context::text FROM chat_messages ORDER BY session_id, seq"
        assert await connection.fetch(rows) == stored
    async with Service.running(settings(database_url=target)) as service, Chat(service.url, KEY) as chat:
        assert await brought_over(chat) == [8, 7]
        page = await chat.messages({"id": "00000000-0000-0000-0000-000000000001"}, after=6, limit=2)
    context = {"documents": [{"document_id": "hr/leave.md", "text": "60 days"}], "n": 1e23}
    assert [message["context"] for message in page["messages"]] == [context, context]


async def brought_over(chat: Chat) -> list[int]:
    """The answers that the background job has found to stand on the document, once there are two."""
    async with asyncio.timeout(DEADLINE):
        while True:
            answer = await chat.get("/chat/documents/messages?document_id=hr/leave.md")
            found = [message["seq"] for message in answer.json().get("messages", [])]
            if len(found) == 2:
                return found
            await asyncio.sleep(0.05)


def up_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
