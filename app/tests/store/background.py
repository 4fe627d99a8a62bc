"""A service whose background work is done once and then rests, so that a test does it step by step."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from app import workers
from app.db import dsn
from app.db.pool import Database
from app.store import sweep
from app.store.sweep import Swept
from app.tests.conftest import NewDatabase
from app.tests.db.embedded_place import until
from app.tests.faults.patience import REST, background_rests
from app.tests.harness import Chat, Service, settings

GRACE = 3_600.0

DUE = "UPDATE jobs SET next_at = now() WHERE name = $1"
AGE = "UPDATE {} SET seen_at = seen_at - interval '1 day' WHERE tenant_id = $1"

Context = dict[str, Any]


class Resting:
    """The service, a look at its database, and its jobs by hand."""

    def __init__(self, service: Service, outside: asyncpg.Connection, url: str) -> None:
        self.service = service
        self.db: Database = service.db
        self.evidence = service.state.evidence
        self.outside = outside
        self.url = url

    async def sweep(self, rounds: int = 1) -> Swept:
        """So many rounds of the sweep, each in one transaction; what they removed. The next two remove what is old."""
        texts = documents = 0
        for _ in range(rounds):
            await self.outside.execute(DUE, "sweep")
            async with self.db.write() as conn:
                while swept := await sweep.batch(conn, GRACE):
                    texts, documents = texts + swept.texts, documents + swept.documents
                    if not swept.goes_on:
                        break
        return Swept(texts, documents, goes_on=False)

    async def flush(self) -> None:
        """Write the counts of what this service has added."""
        left = self.evidence.counts.take()
        async with self.db.write() as conn:
            self.evidence.counts.add(await self.evidence.counts.write(conn, left))

    async def age(self, chat: Chat) -> None:
        """Let what the tenant has stored be unseen for a day."""
        for table in ("evidence", "documents"):
            await self.outside.execute(AGE.format(table), chat.tenant_id)

    async def texts(self, chat: Chat) -> list[str]:
        """The texts of the tenant that are stored."""
        rows = await self.outside.fetch("SELECT body::text FROM evidence WHERE tenant_id = $1", chat.tenant_id)
        return sorted(json.loads(row["body"])["text"] for row in rows)


@asynccontextmanager
async def resting(new_database: NewDatabase) -> AsyncIterator[Resting]:
    url = await new_database()
    chosen = settings(database_url=url, run_migrations=True, evidence_grace=10 * REST)
    with pytest.MonkeyPatch.context() as patch:
        for pause in ("FLUSH", "POLL"):
            patch.setattr(workers, pause, REST)
        async with Service.running(chosen) as service:
            await until(background_rests)
            outside = await asyncpg.connect(**dsn.parse(url).arguments)
            yield Resting(service, outside, url)
            await outside.close()
