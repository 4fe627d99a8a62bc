"""Whatever is sent again, by however many clients, is stored once; ordinary repeats are no error to PostgreSQL."""

import asyncio
from collections import Counter
from pathlib import Path

from app.tests.faults import evidence
from app.tests.faults.repeats import errors, send, verify
from app.tests.harness import Chat
from app.tests.process import SERVE, run


async def test_sixteen_clients_that_send_the_same_messages_leave_each_once(chat: Chat, database_url: str) -> None:
    session = await chat.create()
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(send(chat, session, 60, 2, seed)) for seed in range(16)]
    assert set(sum((client.result() for client in clients), Counter[int]())) == {200, 201}
    await verify(chat, session, 60)
    assert await evidence.audit(database_url, [session["id"]]) == []


async def test_ordinary_repeats_leave_no_error_in_the_database_log(tmp_path: Path) -> None:
    async with run(*SERVE, cwd=tmp_path, DATA_DIR="data") as server, server.client() as chat:
        await server.ready()
        keys = {"Idempotency-Key": "session"}
        for expected in (201, 200, 200):
            assert (await chat.post("/chat/sessions", json={}, headers=keys)).status_code == expected
        session = (await chat.post("/chat/sessions", json={}, headers=keys)).json()
        statuses = await send(chat, session, 60, 3, seed=0)
        assert statuses == {201: 42, 200: 84}
        await verify(chat, session, 60)
    assert errors(tmp_path) == []
