"""One connection, to whichever host of DATABASE_URL serves: bounded in time, and given up when its network is gone."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import asyncpg

from app.db.dsn import Target
from app.settings import Settings

Driver = asyncpg.Connection


class Connector:
    """Calling it makes a connection. Raises what asyncpg raises, a TimeoutError among it.

    Attempts take CONNECT_TIMEOUT together, however many hosts there are: libpq's, and asyncpg's whole, may be used
    up by a first host that swallows packets. The host that served last is asked first, so that its fellow
    delays no request, and all connections are to one server as long as it serves.
    """

    def __init__(self, target: Target, settings: Settings, **more: Any) -> None:
        self._arguments = {"command_timeout": settings.command_timeout, **target.arguments, **more}
        self._seconds: float = self._arguments.pop("timeout", None) or settings.connect_timeout
        self._hosts = list(target.dsns)
        self.failing = False
        """Whether the last attempt found no server."""

    async def __call__(self) -> Driver:
        try:
            connection = await self._first_that_serves()
        except asyncpg.TooManyConnectionsError:
            self.failing = False
            raise
        except Exception:
            self.failing = True
            raise
        self.failing = False
        return connection

    async def _first_that_serves(self) -> Driver:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        failures: list[Exception] = []
        hosts = self._hosts.copy()
        for number, host in enumerate(hosts):
            share = (deadline - loop.time()) / (len(hosts) - number)
            try:
                connection: Driver = await asyncpg.connect(
                    **{**self._arguments, "dsn": host}, timeout=max(share, 0.001)
                )
            except _NEXT as error:
                failures.append(error)
            else:
                with contextlib.suppress(ValueError):  # another attempt has moved it meanwhile
                    self._hosts.remove(host)
                    self._hosts.insert(0, host)
                _watch(connection, self._seconds)
                return connection
        raise min(failures, key=_rank)


_NEXT = (
    OSError,
    TimeoutError,
    *(asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError),
    *(asyncpg.ConnectionDoesNotExistError, asyncpg.TargetServerAttributeNotMatched),
)
"""After these the next host is asked; a wrong password or name of a database is wrong there too."""


def _rank(failure: Exception) -> int:
    """The least tells most: a server without room is waited for, and a standby explains nothing."""
    if isinstance(failure, asyncpg.TooManyConnectionsError):
        return 0
    return 2 if isinstance(failure, asyncpg.TargetServerAttributeNotMatched) else 1


def _watch(connection: Driver, seconds: float) -> None:
    """Let the system close the connection when nothing that it sent was acknowledged for so long.

    Otherwise Linux goes on for 15 minutes where data is under way, and for ever where only an answer is awaited.
    """
    sock = cast("Any", connection)._transport.get_extra_info("socket")  # noqa: SLF001 - there is no other way to it
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, option, value in _options(seconds):
        sock.setsockopt(level, option, value)


def _options(seconds: float) -> Iterator[tuple[int, int, int]]:
    """Those that this system has; the kernel's unit is whole seconds, of TCP_USER_TIMEOUT milliseconds."""
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    half = max(1, int(seconds / 2))
    chosen = {  # Linux takes no more of each, see net/tcp.h
        "TCP_KEEPIDLE": min(half, 32_767),
        "TCP_KEEPINTVL": min(max(1, half // 127), 32_767),
        "TCP_KEEPCNT": min(half, 127),
        "TCP_USER_TIMEOUT": min(int(seconds * 1000), 2**31 - 1),
    }
    for name, value in chosen.items():
        if hasattr(socket, name):
            yield socket.IPPROTO_TCP, getattr(socket, name), value


def is_read_only(connection: Driver) -> bool:
    """Whether the server has said, with its last answer, that it takes no writes: PostgreSQL tells each change."""
    known = connection.get_settings()
    return "on" in (getattr(known, "in_hot_standby", ""), getattr(known, "default_transaction_read_only", ""))
