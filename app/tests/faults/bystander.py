"""An ordinary client beside a fault."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from app.tests.harness import Chat
from app.tests.process import Running


def client_of(server: Running, address: str) -> Chat:
    """A client for which the rate limit counts `address`."""
    client = server.client()
    client.headers["X-Forwarded-For"] = address
    return client


_neighbours = count(1)  # for the rate limit a new client each time


@dataclass
class Bystander:
    """An ordinary client: what it was answered, in order."""

    statuses: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def beside(self, server: Running) -> AsyncIterator[None]:
        """Asks without a pause while the block runs, and at least once from beginning to end."""
        stop = asyncio.Event()
        asking = asyncio.create_task(self._ask(server, stop))
        try:
            yield
        finally:
            stop.set()
            await asking

    async def _ask(self, server: Running, stop: asyncio.Event) -> None:
        async with server.client() as client:
            while True:
                client.headers["X-Forwarded-For"] = f"2001:db8:{next(_neighbours):x}::1"
                made = await client.post("/chat/sessions", json={"name": "bystander"})
                path = f"/chat/sessions/{made.json().get('id')}/messages"
                answers = [
                    made,
                    await client.post(path, json={"sender": "user", "content": "hello"}),
                    await client.get(path),
                    await client.get("/livez"),
                ]
                self.statuses += [answer.status_code for answer in answers]
                if stop.is_set():
                    return
