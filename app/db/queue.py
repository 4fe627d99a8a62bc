"""SQLAlchemy's queue of connections, for a server that is away at times or grants fewer than the pool wants.

Whoever takes a connection gets one that is worth trying: it is open, it is to a server that was not left since, and
where the server was not heard for a moment it has just answered.

A refused connection is no failed request while others exist: whoever wants one waits for it, and meanwhile the
pool asks the server again. What it does not need then it gives back at once, for the other workers that find
the server full; with enough connections nothing of this happens.
"""

import logging
import time
from typing import Any

import asyncpg
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty

from app.db import line
from app.errors import DatabaseUnavailable

logging.getLogger(__name__).setLevel(logging.WARNING)  # SQLAlchemy tells of each connection under our name

_PAUSE = 0.1
"""Seconds between two attempts to get one more: each costs the server a process."""

_TURN = 1.0
"""Seconds after which a connection is given back even if others wait for it here: they wait elsewhere too."""

QUIET = 1.0
"""Seconds without an answer to anything, after which a connection is asked whether it still leads to the server."""

PATIENCE = 2.0
"""Seconds for an answer that takes the server no work."""


class NoneLeft(DatabaseUnavailable):
    """The server has no connection left for us."""


class Queue(AsyncAdaptedQueuePool):
    _queue_class = line.Line
    first = staticmethod(line.first)
    _pool: line.Line

    scarce = False
    """From a refusal until all connections that were wanted are open at once."""

    heard_at = float("-inf")
    """When the server last answered anything."""

    _refused_at = float("-inf")
    _left_at = float("-inf")

    def leave(self) -> None:
        """Use no connection again that is open now: the server is another one, or the way to it is gone."""
        self._left_at = time.time()

    def heard(self) -> None:
        self.heard_at = time.monotonic()

    def idle(self) -> ConnectionPoolEntry | None:
        """One that is free and known to lead to the server, without SQLAlchemy's ceremony: that is 0.2 ms of a request.

        None where somebody has to wait, to ask or to connect. Whoever takes it gives it back, to this queue.
        """
        return None if self._pool.empty() else self._known(self._pool.get_nowait())

    async def next(self) -> ConnectionPoolEntry | None:
        """The one that is given back next, likewise; None where there is more to do than to wait. Raises PoolTimeout.

        Whoever gets None asks SQLAlchemy before anything is awaited: what was handed over is still there.
        """
        if self.scarce or self._overflow < self._max_overflow or not (self._pool.empty() and self._is_heard):
            return None
        try:
            return self._known(await self._pool.wait(self._timeout))
        except Empty:
            raise PoolTimeout from None

    def give_back(self, record: ConnectionPoolEntry) -> None:
        """Take back what `idle` or `next` gave."""
        self._do_return_conn(record)

    def _known(self, record: Any) -> ConnectionPoolEntry | None:
        is_open = record.dbapi_connection is not None and self._current(record)
        if is_open and self._is_heard and record.starttime >= self._invalidate_time:
            return record  # type: ignore[no-any-return]
        self._pool.put_first(record)
        return None

    @property
    def _is_heard(self) -> bool:
        return time.monotonic() - self.heard_at < QUIET

    def _do_get(self) -> ConnectionPoolEntry:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return self._get(deadline - time.monotonic())
            except NoneLeft:
                self.scarce = True
                self._refused_at = time.monotonic()
            except Empty:
                pass
            if time.monotonic() >= deadline:
                raise PoolTimeout

    def _get(self, seconds: float) -> ConnectionPoolEntry:
        asking = time.monotonic() - self._refused_at >= _PAUSE
        if asking and self._overflow < self._max_overflow:  # so that this does not wait
            record = self._usable(super()._do_get())
            self.scarce = self.scarce and self._overflow < self._max_overflow
            return record
        return self._usable(self._pool.get(True, min(_PAUSE, seconds) if self.scarce else seconds))

    def _usable(self, record: Any) -> ConnectionPoolEntry:
        try:
            if record.dbapi_connection is not None and not (self._current(record) and self._answers(record)):
                self._drop(record)
            record.get_connection()
        except NoneLeft:
            self._dec_overflow()
            raise
        except BaseException:
            super()._do_return_conn(record)  # empty: who waits tries next, and is not left to wait for nothing
            raise
        return record  # type: ignore[no-any-return]

    def _current(self, record: Any) -> bool:
        return not record.driver_connection.is_closed() and record.last_connect_time > self._left_at

    def _answers(self, record: Any) -> bool:
        """Whether the server is known to be there, or says so now: a dead socket may look like a living one."""
        asked_at = time.monotonic()
        if asked_at - self.heard_at < QUIET:
            return True
        try:
            await_only(record.driver_connection.execute("SELECT 1", timeout=PATIENCE))
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            if self.heard_at < asked_at:  # nor did any other connection lead there
                self.leave()
            return False
        except BaseException:
            self._drop(record)  # nobody reads the answer
            raise
        self.heard()
        return True

    def _drop(self, record: Any) -> None:
        record.driver_connection.terminate()  # or SQLAlchemy would take leave of a server that does not answer
        record.invalidate()

    def _do_return_conn(self, record: Any) -> None:
        if record.dbapi_connection is not None and not self._current(record):
            self._drop(record)
        if self.scarce and (not self._pool.is_awaited or time.time() - record.last_connect_time > _TURN):
            record.invalidate()
            self._dec_overflow()
        else:
            super()._do_return_conn(record)
