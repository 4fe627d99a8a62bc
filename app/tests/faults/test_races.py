"""Every write races with every other, and it is as if they had been made one by one."""

import asyncio
import random
from collections import Counter

import httpx
import pytest

from app.db.pool import Database
from app.tests.faults import evidence
from app.tests.faults.races import Race, verify
from app.tests.harness import DEADLINE, Chat


@pytest.mark.parametrize("seed", range(4))
async def test_writes_of_every_kind_happen_one_after_another(chat: Chat, database_url: str, seed: int) -> None:
    race = Race(chat, random.Random(seed))  # noqa: S311 - chance, no secret
    session = await race.run(clients=16, each=15)
    history = await race.history()
    changes = verify(race.writes, session, history)
    assert set(changes) == {"append", "batch", "redact", "rewind", "rename"}
    assert await evidence.audit(database_url, [session["id"]]) == []
    assert await evidence.unlisted(chat, evidence.SHARED, history) == []


async def test_a_delete_ends_every_other_write(chat: Chat, db: Database) -> None:
    """Sixteen clients write until they are told that the session is gone; nothing of it is left."""
    session = await chat.create()
    at = f"/chat/sessions/{session['id']}"
    statuses = Counter[int]()
    enough = asyncio.Event()

    async def writer(number: int) -> None:
        context = evidence.context(random.Random(number), "x")  # noqa: S311 - chance, no secret
        message = {"sender": "user", "content": "x", "context": context}
        while True:
            answer: httpx.Response = await [
                lambda: chat.post(f"{at}/messages", json=message),
                lambda: chat.post(f"{at}/messages/batch", json={"messages": [message] * 3}),
                lambda: chat.delete(f"{at}/messages?after=5"),
                lambda: chat.put(at, json={"name": f"{number}"}),
            ][number % 4]()
            statuses[answer.status_code] += 1
            if statuses.total() == 100:
                enough.set()
            if answer.status_code == 404:
                return

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(writer(number))
        await enough.wait()
        answers = await asyncio.gather(*(chat.delete(at) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [204, 404, 404, 404]
    assert set(statuses) == {200, 201, 404}
    assert statuses[404] == 16
    async with db.driver() as conn:
        for table in ("chat_messages", "evidence_uses"):
            assert await conn.fetchval(f"SELECT count(*) FROM {table} WHERE session_id = $1", session["id"]) == 0
    assert await evidence.answers(chat, evidence.SHARED[0]) == []
