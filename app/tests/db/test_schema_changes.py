"""A schema that changes under a running server: no request fails for it, and appends happen exactly once."""

import asyncio
from collections import Counter

import asyncpg

from app.db import dsn
from app.tests.conftest import NewDatabase
from app.tests.harness import KEY, Chat, Service, settings
from app.tests.process import DEADLINE

CHANGES = (
    "ALTER TABLE chat_messages ADD COLUMN note text",
    "ALTER TABLE chat_sessions ADD COLUMN note text DEFAULT 'none' NOT NULL",
    "ALTER TABLE chat_sessions ALTER COLUMN message_count TYPE bigint",
    "CREATE UNIQUE INDEX CONCURRENTLY again ON chat_messages (session_id, id)",
    "DROP INDEX CONCURRENTLY again",
    "REINDEX INDEX CONCURRENTLY chat_messages_session_id_id_key",
    "ALTER TABLE chat_sessions ALTER COLUMN message_count TYPE integer",
    "ALTER TABLE chat_messages DROP COLUMN note",
    "ALTER TABLE chat_sessions DROP COLUMN note",
)


class Traffic:
    """Clients that append, read and rename without a pause, and what they were answered."""

    def __init__(self, client: Chat) -> None:
        self._client = client
        self._over = asyncio.Event()
        self.statuses: Counter[int] = Counter()
        self.appended: Counter[str] = Counter()

    async def use(self, session: dict[str, str]) -> None:
        path = f"/chat/sessions/{session['id']}"
        while not self._over.is_set():
            answer = await self._client.post(f"{path}/messages", json={"sender": "user", "content": "hello"})
            self.appended[session["id"]] += answer.status_code == 201
            answers = [
                answer,
                await self._client.get(f"{path}/messages?order=desc&page_size=5"),
                await self._client.put(path, json={"name": f"after {sum(self.statuses.values())}"}),
                await self._client.get("/chat/sessions?name=after"),
                await self._client.get(path),
            ]
            self.statuses.update(answer.status_code for answer in answers)

    async def answered(self, more: int) -> None:
        """Returns when so many more requests were answered."""
        goal = self.statuses.total() + more
        async with asyncio.timeout(DEADLINE):
            while self.statuses.total() < goal:  # noqa: ASYNC110 - they are counted by several tasks
                await asyncio.sleep(0.01)

    def end(self) -> None:
        self._over.set()


async def test_requests_go_on_while_another_process_changes_the_schema(new_database: NewDatabase) -> None:
    url = await new_database()
    chosen = settings(database_url=url, run_migrations=True)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        sessions = [await client.create() for _ in range(4)]
        traffic = Traffic(client)
        users = [asyncio.create_task(traffic.use(session)) for session in sessions]
        conn = await asyncpg.connect(**dsn.parse(url).arguments)
        for change in CHANGES:
            await conn.execute(change)
            await traffic.answered(20)
        await conn.close()
        traffic.end()
        await asyncio.gather(*users)
        assert set(traffic.statuses) == {200, 201}, traffic.statuses
        for session in sessions:
            assert (await client.messages(session))["total"] == traffic.appended[session["id"]]
