"""What a process knows of the marks of a tenant never goes back, in whatever order it learns of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from app.db.pool import Database, Driver
from app.evidence import document_ref
from app.store.marks import Marks, Use
from app.tests.harness import Chat


class Late:
    """A connection on which answers take until they are let through."""

    def __init__(self, conn: Driver) -> None:
        self._conn = conn
        self.asked, self.through = asyncio.Event(), asyncio.Event()

    async def fetch(self, *statement: Any) -> list[Any]:
        rows = await self._conn.fetch(*statement)
        self.asked.set()
        await self.through.wait()
        return rows

    async def fetchval(self, *statement: Any) -> Any:
        return await self._conn.fetchval(*statement)


@pytest.fixture
async def conn(db: Database) -> AsyncIterator[Driver]:
    async with db.driver() as conn:
        yield conn


def status(marks: Marks, chat: Chat) -> str | None:
    """What the process says of an answer that stood on the document `d`."""
    return marks.judge(chat.tenant_id, [Use(document_ref(chat.tenant_id, "d"), "d", None)]).status


async def begun(marks: Marks, late: Late, chat: Chat, number: int) -> asyncio.Task[None]:
    """A refresh that has read, or has nothing to read, and does not know yet what it has read."""
    task = asyncio.create_task(marks.refresh(cast("Driver", late), chat.tenant_id, number))
    asked = asyncio.create_task(late.asked.wait())
    await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    return task


async def test_who_was_told_of_fewer_marks_takes_none_away(chat: Chat, conn: Driver) -> None:
    marks, late = Marks(), Late(conn)
    for document_id in ("other", "d"):
        await chat.mark(document_id)
    await marks.refresh(conn, chat.tenant_id, 2)
    task = await begun(marks, late, chat, 1)
    assert status(marks, chat) == "withdrawn"
    late.through.set()
    await task
    assert status(marks, chat) == "withdrawn"


async def test_what_was_read_first_and_came_last_replaces_nothing(chat: Chat, conn: Driver) -> None:
    marks, late = Marks(), Late(conn)
    await chat.mark("d")
    task = await begun(marks, late, chat, 1)
    await chat.mark("d", "current")
    await marks.refresh(conn, chat.tenant_id, 2)
    late.through.set()
    await task
    assert status(marks, chat) == "current"


async def test_a_database_that_has_fewer_marks_is_read_anew(chat: Chat, conn: Driver) -> None:
    marks = Marks()
    for document_id in ("other", "d"):
        await chat.mark(document_id)
    await marks.refresh(conn, chat.tenant_id, 2)
    async with conn.transaction():  # as after a failover that lost the second
        await conn.execute("DELETE FROM documents WHERE tenant_id = $1 AND mark = 2", chat.tenant_id)
        await conn.execute("UPDATE tenants SET marks = 1 WHERE id = $1", chat.tenant_id)
    await marks.refresh(conn, chat.tenant_id, 1)
    assert status(marks, chat) == "current"
