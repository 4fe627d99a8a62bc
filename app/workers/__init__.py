"""What a server does in the background: write the counts of documents, sweep evidence, bring old contexts over.

Every process runs this; a job is done by one of them at a time (store/jobs.py). A failure is told and tried again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from app.db.pool import Database
from app.errors import Problem, ReadOnly
from app.store import backfill, jobs, sweep
from app.store.evidence import Evidence

FLUSH = 5.0
"""Seconds between two flushes of counts."""

FLUSHED = 500
"""Uses that are counted at a time: with all of 5 s, 8,750 of them, the event loop stood still for 25 ms."""

POLL = 5.0
"""Seconds between two looks for a job that is due; less where the grace is short."""

PAUSE = 0.01
"""Seconds between two batches: requests come first."""

AFTER_A_FAILURE = 60.0

LAST_FLUSH = 2.0
"""Seconds that the flush at the end may take; what it misses, the next full count finds."""

_log = logging.getLogger("app.workers")


@asynccontextmanager
async def working(db: Database, evidence: Evidence, grace: float) -> AsyncIterator[None]:
    """Inside, the background work goes on. `grace` is in seconds."""

    async def flush() -> float:
        if not (added := evidence.counts.take(FLUSHED)):
            return FLUSH
        left = added
        try:
            async with db.write() as conn:
                left = await evidence.counts.write(conn, added)
        finally:
            evidence.counts.add(left)  # whether a commit that failed has counted, the next full count knows
        return PAUSE if len(left) < len(added) == FLUSHED else FLUSH

    async def bring_over() -> float:
        return PAUSE if await backfill.batch(db, evidence) else poll

    async def clean() -> float:
        async with db.read() as conn:
            if not await jobs.is_due(conn, "sweep"):
                return poll
        async with db.write() as conn:
            swept = await sweep.batch(conn, grace)
        if swept and (swept.texts or swept.documents):
            _log.info("swept %d texts and %d documents that no answer stands on", swept.texts, swept.documents)
        return PAUSE if swept and swept.goes_on else poll

    poll = min(POLL, grace / 8)
    tasks = [asyncio.create_task(_repeat(work)) for work in (flush, bring_over, clean)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Problem, TimeoutError):
            async with asyncio.timeout(LAST_FLUSH):
                while await flush() == PAUSE:
                    pass


async def _repeat(work: Callable[[], Awaitable[float]]) -> None:
    """Do `work` again and again, each time as many seconds later as it says."""
    while True:
        try:
            seconds = await work()
        except ReadOnly:
            seconds = AFTER_A_FAILURE  # a standby, by choice or for the moment
        except Problem as problem:  # the database is away or full, which every request tells
            _log.debug("%s put off: %s", work.__name__, problem)
            seconds = POLL
        except Exception:  # noqa: BLE001 - told, and tried again: nobody else would see it
            _log.exception("%s failed, next try in %g s", work.__name__, AFTER_A_FAILURE)
            seconds = AFTER_A_FAILURE
        await asyncio.sleep(seconds)
