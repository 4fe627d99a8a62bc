"""Connections in the order in which they were asked for.

asyncio.Queue wakes whoever waits longest, but a newcomer that runs in between takes the connection, and who was woken
goes to the end. With 200 clients the median wait was 0.4 s and some waited 4 s of the 5 after which they are refused.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

_is_first: ContextVar[bool] = ContextVar("is_first", default=False)


@contextmanager
def first() -> Iterator[None]:
    """Inside, a wait goes to the head of the line: a probe must tell a busy database from one that is away."""
    token = _is_first.set(True)
    try:
        yield
    finally:
        _is_first.reset(token)


class Line(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """SQLAlchemy's queue, but what is put is handed to a waiter; it is never full, as the pool counts what it makes."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._free: deque[ConnectionPoolEntry] = deque()
        self._waiters: deque[asyncio.Future[ConnectionPoolEntry]] = deque()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits who has been handed nothing yet."""
        return any(not waiter.done() for waiter in self._waiters)

    def empty(self) -> bool:
        return not self._free

    def full(self) -> bool:
        return len(self._free) >= self.maxsize

    def qsize(self) -> int:
        return len(self._free)

    def put_nowait(self, item: ConnectionPoolEntry) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return
        self._free.append(item)

    def put_first(self, item: ConnectionPoolEntry) -> None:
        """Put back what whoever takes one at once is to get."""
        self._free.appendleft(item)

    def put(self, item: ConnectionPoolEntry, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002 - it never blocks
        self.put_nowait(item)

    def get_nowait(self) -> ConnectionPoolEntry:
        if not self._free:
            raise Empty
        return self._free.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        if self._free or not block:
            return self.get_nowait()
        return await_only(self.wait(timeout))

    async def wait(self, seconds: float | None) -> ConnectionPoolEntry:
        """What is put next, for whoever waits longest. Raises Empty."""
        waiter: asyncio.Future[ConnectionPoolEntry] = asyncio.get_running_loop().create_future()
        (self._waiters.appendleft if _is_first.get() else self._waiters.append)(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            self._leave(waiter)
            raise Empty from None
        except BaseException:
            self._leave(waiter)
            raise

    def _leave(self, waiter: asyncio.Future[ConnectionPoolEntry]) -> None:
        """Pass on what was handed over too late."""
        if not waiter.cancel() and not waiter.cancelled():
            self.put_nowait(waiter.result())
