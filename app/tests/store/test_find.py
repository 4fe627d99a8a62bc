"""The list of sessions does not depend on the plan that PostgreSQL chooses for it."""

import pytest

from app.db.pool import Database
from app.store import sessions
from app.store.sessions import Filter
from app.tests.harness import Chat

OFF = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")


@pytest.mark.parametrize("off", [(), OFF], ids=["by index", "by sequential scan and sort"])
async def test_a_needle_under_2500_others_is_found_page_by_page(chat: Chat, db: Database, off: tuple[str, ...]) -> None:
    needle = await chat.create(name="needle")
    async with db.driver() as conn:
        await conn.execute(
            "INSERT INTO chat_sessions (id, tenant_id, name, name_folded, is_favorite, metadata, updated_at)"
            " SELECT gen_random_uuid(), $1, 'hay', 'hay', false, '{}', now() + n % 7 * interval '1 s'"
            " FROM generate_series(1, 2500) n",
            chat.tenant_id,
        )
    pages: list[list[str]] = []
    position = None
    async with db.driver() as conn, conn.transaction():
        for setting in off:
            await conn.execute(f"SET LOCAL {setting} = off")
        while position is not None or not pages:
            found = await sessions.find(conn, chat.tenant_id, None, Filter(name="needle"), position, 20)
            pages.append([str(session.id) for session in found.sessions])
            position = found.position
    assert pages == [[], [], [needle["id"]]]
