"""The one pool, SQLAlchemy's, and the three ways to use a connection of it.

    read()    Core, autocommit: queries whose shape varies
    write()   Core, one transaction: what must lock before it decides
    driver()  asyncpg's own connection, autocommit: the fixed hot statements, at half the CPU of Core

SQLAlchemy begins lazily, so a driver statement before the first Core statement of a transaction would survive
its rollback. The three therefore have three types, and mypy refuses to mix them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, NewType, cast

import asyncpg
from sqlalchemy import PoolProxiedConnection, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.db.dsn import Target
from app.errors import DatabaseUnavailable, DiskFull, Overloaded, Problem, TimedOut
from app.settings import Settings
from app.telemetry import metrics

Read = NewType("Read", AsyncConnection)
Write = NewType("Write", AsyncConnection)
Driver = asyncpg.Connection

PING_TIMEOUT = 2.0


class Database:
    """The database as the store uses it. Every way in raises Problem where PostgreSQL cannot serve."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self.description = target.description
        arguments: dict[str, Any] = {
            "timeout": settings.connect_timeout,
            "command_timeout": settings.command_timeout,
            **target.arguments,
        }

        async def connect() -> Driver:
            try:
                return await asyncpg.connect(**arguments)
            except asyncpg.PostgresError as error:  # SQLAlchemy would wrap it in an error of a third kind
                raise DatabaseUnavailable from error

        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.pool_timeout,
            hide_parameters=True,  # a parameter is a message's content: it must not reach a log
        )
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Read]:
        with _translated(), _in_use():
            async with self._reader.connect() as connection:
                yield Read(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Write]:
        with _translated(), _in_use():
            async with self._engine.begin() as connection:
                yield Write(connection)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Driver]:
        with _translated(), _in_use():
            lease = await self._checkout()
            driver = cast("Driver", lease.driver_connection)
            try:
                yield driver
            except (TimeoutError, asyncio.CancelledError, asyncpg.InternalClientError):
                lease.invalidate()  # nobody knows what is still going on there
                raise
            except Exception:
                if driver.is_closed():
                    lease.invalidate()
                raise
            finally:
                lease.close()

    async def ping(self) -> bool:
        """Whether PostgreSQL answers, told within PING_TIMEOUT seconds."""
        try:
            async with asyncio.timeout(PING_TIMEOUT), self.driver() as driver:
                await driver.fetchval("SELECT 1")
        except (Problem, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        await self._engine.dispose()

    async def _checkout(self) -> PoolProxiedConnection:
        with metrics.pool_waiting.track_inprogress():
            return await self._engine.raw_connection()


def _refuse_closed(connection: Any, _record: object, _lease: object) -> None:
    """Called with each connection that leaves the pool: after a restart of PostgreSQL all old ones are dead."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


def _in_use() -> AbstractContextManager[None]:
    return metrics.pool_in_use.track_inprogress()


# The last is what asyncpg says of a connection that went away between two of its own steps.
_FROM_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what asyncpg, SQLAlchemy and the socket raise into a Problem, where it is the database's doing."""
    try:
        yield
    except PoolTimeout as error:
        raise Overloaded from error
    except (DBAPIError, *_FROM_DRIVER, OSError, TimeoutError) as error:
        problem = _problem(error)
        if problem is None:
            raise
        raise problem from error


_BY_SQLSTATE: dict[str, Callable[[], Problem]] = {
    "08": DatabaseUnavailable,  # connection exceptions
    "57P": DatabaseUnavailable,  # shutting down, starting up
    "53": DatabaseUnavailable,  # out of connections or memory
    "25006": DatabaseUnavailable,  # read-only: a demoted primary
    "53100": DiskFull,
    "57014": TimedOut,  # cancelled by statement_timeout
    "55P03": TimedOut,  # lock_timeout
    "40": TimedOut,  # deadlock, serialization: the same request may succeed a moment later
}


def _problem(error: BaseException) -> Problem | None:
    """The problem that `error`, or what SQLAlchemy wrapped in it, stands for; None where it is a bug of ours."""
    driver_error = error
    while isinstance(driver_error, DBAPIError) or type(driver_error).__module__.startswith("sqlalchemy."):
        if driver_error.__cause__ is None:
            break
        driver_error = driver_error.__cause__
    state = sqlstate(driver_error)
    for length in (5, 3, 2):
        if state[:length] in _BY_SQLSTATE:
            return _BY_SQLSTATE[state[:length]]()
    if isinstance(driver_error, TimeoutError):
        return TimedOut()
    if isinstance(driver_error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return DatabaseUnavailable()
    return None


def sqlstate(error: object) -> str:
    """The SQLSTATE of a driver's error, wrapped or not; empty where it has none."""
    return str(getattr(error, "sqlstate", None) or "")
