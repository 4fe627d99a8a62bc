"""Statements in flight that nobody will answer: told from slow ones, and ended.

A socket may be dead without being closed: a proxy that hangs, a path that swallows packets. What is in flight there
ends only with COMMAND_TIMEOUT, and meanwhile may hold the whole pool. So when somebody waits for a connection and the
server has said nothing on any of them for a moment, it is asked over a new one which statements it works on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.db.connecting import Driver
from app.db.queue import PATIENCE, NoneLeft, Queue
from app.db.translation import FROM_DRIVER
from app.errors import Problem

# Of a session that is another role's, or not tracked, the state is not told: then it counts as at work.
_AT_WORK = """
    SELECT pid FROM pg_stat_activity WHERE pid = ANY ($1::int[]) AND coalesce(state, '') NOT LIKE 'idle%'
"""


class Silence:
    """Knows what is in flight in one pool."""

    def __init__(self, connect: Callable[[], Awaitable[Driver]], queue: Callable[[], Queue]) -> None:
        self._connect = connect
        self._queue = queue
        self._began: dict[Driver, float] = {}
        self._asking: asyncio.Task[None] | None = None

    def begin(self, driver: Driver) -> None:
        """From now on until `end` a statement may be in flight there."""
        self._began[driver] = time.monotonic()

    def end(self, driver: Driver) -> None:
        del self._began[driver]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Whoever waits for long inside makes the pool ask."""
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._suspect)
        try:
            yield
        except PoolTimeout:
            self._suspect()
            raise
        finally:
            timer.cancel()

    def _suspect(self) -> None:
        if not self._asking or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        queue, now = self._queue(), time.monotonic()
        silent = {driver: began for driver, began in self._began.items() if now - began >= PATIENCE}
        if not silent or now - queue.heard_at < PATIENCE:
            return
        try:
            at_work = await self._at_work([driver.get_server_pid() for driver in silent if not driver.is_closed()])
        except NoneLeft:
            return  # which is an answer
        except (Problem, OSError, TimeoutError, *FROM_DRIVER):
            at_work = frozenset()
        if at_work is None or queue.heard_at > now:
            return
        for driver, began in silent.items():
            if self._began.get(driver) == began and not driver.is_closed() and driver.get_server_pid() not in at_work:
                driver.terminate()
                queue.leave()

    async def _at_work(self, pids: list[int]) -> frozenset[int] | None:
        """Which of these processes of the server run a statement; None behind a pooler, whose numbers mean nothing."""
        connection = await self._connect()
        try:
            if connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()", timeout=PATIENCE):
                return None
            return frozenset(row[0] for row in await connection.fetch(_AT_WORK, pids, timeout=PATIENCE))
        finally:
            connection.terminate()

    async def close(self) -> None:
        if self._asking:
            self._asking.cancel()
            await asyncio.wait([self._asking])
