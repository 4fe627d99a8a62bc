"""The one pool, SQLAlchemy's, and the three ways to use a connection of it.

    read()    Core, autocommit: what is asked rarely
    write()   Core, one transaction: what must lock before it decides
    driver()  asyncpg's own connection, autocommit: every statement of a request, at half the CPU of Core and less

SQLAlchemy begins lazily, so a driver statement before the first Core statement of a transaction would survive
its rollback. The three therefore have three types, and mypy refuses to mix them.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import NewType, cast

import asyncpg
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.db.connecting import Connector, is_read_only
from app.db.dsn import Target
from app.db.queue import PATIENCE, NoneLeft, Queue
from app.db.silence import Silence
from app.db.translation import FROM_DRIVER, translated
from app.errors import DatabaseUnavailable, Overloaded, Problem, ReadOnly
from app.settings import Settings
from app.telemetry import metrics

Read = NewType("Read", AsyncConnection)
Write = NewType("Write", AsyncConnection)
Driver = asyncpg.Connection

PING_TIMEOUT = 2.0

# Under a stricter default, appends that race would fail instead of waiting. Not a start-up parameter, which
# pgbouncer refuses, and nothing at all where the default is the usual one.
_READ_COMMITTED = """
    SELECT set_config('default_transaction_isolation', 'read committed', false)
    WHERE current_setting('default_transaction_isolation') <> 'read committed'
"""


class Database:
    """The database as the store uses it. Every way in raises Problem where PostgreSQL cannot serve."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self.description = target.description
        self.wanted = settings.pool_size
        self._target = target
        self._settings = settings
        self._connector = Connector(target, settings)
        self._open: weakref.WeakSet[Driver] = weakref.WeakSet()
        self._parting: set[asyncio.Task[None]] = set()
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            poolclass=Queue,
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.pool_timeout,
            hide_parameters=True,  # a parameter is a message's content: it must not reach a log
        )
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._silence = Silence(self._connect, lambda: self._queue)
        metrics.pool_size.set(settings.pool_size)

    @property
    def _queue(self) -> Queue:
        pool: Queue = self._engine.sync_engine.pool  # type: ignore[assignment] # it is made by `poolclass`
        return pool

    async def _connect(self) -> Driver:
        try:
            connection = await self._connector()
            try:
                await connection.execute(_READ_COMMITTED, timeout=self._settings.connect_timeout)
            except BaseException:
                connection.terminate()
                raise
        except asyncpg.TooManyConnectionsError as error:
            self._queue.heard()
            raise NoneLeft from error
        except FROM_DRIVER as error:  # SQLAlchemy would wrap it in an error of a third kind
            raise DatabaseUnavailable from error
        self._queue.heard()
        self._open.add(connection)
        return connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Read]:
        with self._translated():
            async with self._core(self._reader) as connection:
                yield Read(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Write]:
        with self._translated():
            async with self._core(self._engine) as connection, connection.begin():
                yield Write(connection)

    @asynccontextmanager
    async def _core(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            with metrics.pool_waiting.track_inprogress(), self._silence.waiting():
                connection = await stack.enter_async_context(engine.connect())
            driver = self._lent(cast("Driver", (await connection.get_raw_connection()).driver_connection))
            try:
                yield connection
            finally:
                self._returned(driver)
            self._heard(driver)

    def driver(self) -> AbstractAsyncContextManager[Driver]:
        return _Loan(self)

    async def lend(self) -> tuple[Driver, Callable[[], None]]:
        """A connection, and how to give it back."""
        queue = self._queue
        record = queue.idle()
        if record is None:
            with self._translated(), metrics.pool_waiting.track_inprogress(), self._silence.waiting():
                record = await queue.next()
                if record is None:
                    lease = await self._engine.raw_connection()
                    return self._lent(cast("Driver", lease.driver_connection)), lease.close
        return self._lent(cast("Driver", record.driver_connection)), partial(queue.give_back, record)

    def _lent(self, driver: Driver) -> Driver:
        metrics.pool_in_use.inc()
        self._silence.begin(driver)
        return driver

    def _returned(self, driver: Driver) -> None:
        metrics.pool_in_use.dec()
        self._silence.end(driver)

    def take_back(self, driver: Driver, give_back: Callable[[], None], error: BaseException | None) -> None:
        """A connection that was lent. Raises what `error` stands for, where that is something else."""
        self._returned(driver)
        try:
            if error is None:
                self._heard(driver)
            elif isinstance(error, asyncpg.InternalClientError):
                driver.terminate()  # nobody knows what is still going on there
        finally:
            if isinstance(error, TimeoutError | asyncio.CancelledError):
                self._part(driver, give_back)
            else:
                give_back()
        if error is not None:
            with self._translated():
                raise error

    def _heard(self, driver: Driver) -> None:
        """The server has answered, perhaps that it takes no writes any more: then the answer may be an old one."""
        self._queue.heard()
        if driver.is_closed() or not is_read_only(driver) or self._target.attributes in _READ_ONLY_IS_FINE:
            return
        self._queue.leave()
        if self._target.attributes == "read-write":
            raise DatabaseUnavailable

    def _part(self, driver: Driver, give_back: Callable[[], None]) -> None:
        """Give the connection back once the server was told to cancel what runs there: else it would go on, unseen."""

        async def part() -> None:
            with suppress(Exception):
                await driver.close(timeout=PATIENCE)
            give_back()

        task = asyncio.create_task(part())
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except ReadOnly:
            self._queue.leave()
            raise
        except PoolTimeout as error:
            raise (DatabaseUnavailable if self._connector.failing else Overloaded) from error

    async def granted(self) -> int:
        """How many of the connections that the pool wants the server grants at this moment."""
        await self._engine.dispose()  # none of ours counts against us
        made = await asyncio.gather(*(self._connect() for _ in range(self.wanted)), return_exceptions=True)
        connections = [connection for connection in made if isinstance(connection, asyncpg.Connection)]
        await asyncio.gather(*(connection.close() for connection in connections), return_exceptions=True)
        self._queue.scarce = any(isinstance(failed, NoneLeft) for failed in made)
        return len(connections)

    async def ping(self) -> bool:
        """Whether PostgreSQL answers, told within PING_TIMEOUT seconds."""
        try:
            with self._queue.first():
                async with asyncio.timeout(PING_TIMEOUT), self.driver() as driver:
                    await driver.fetchval("SELECT 1")
        except (Problem, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Take leave of the server, for no longer than it takes one that answers."""
        await self._silence.close()
        await asyncio.gather(*self._parting)
        closing = [connection.close(timeout=PATIENCE) for connection in self._open]
        await asyncio.gather(*closing, return_exceptions=True)
        await self._engine.dispose()


class _Loan:
    """A connection of the driver while it is lent: a class, since every request would feel what a generator costs."""

    __slots__ = ("_database", "_driver", "_give_back")

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> Driver:
        self._driver, self._give_back = await self._database.lend()
        return self._driver

    async def __aexit__(self, kind: object, error: BaseException | None, frames: object) -> None:
        try:
            self._database.take_back(self._driver, self._give_back, error)
        except BaseException as told:
            if told is not error:
                raise


_READ_ONLY_IS_FINE = frozenset(("any", "read-only", "standby", "prefer-standby"))
