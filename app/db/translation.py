"""What asyncpg, SQLAlchemy and the socket raise, as a Problem where it is the database's doing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError

from app.errors import DatabaseUnavailable, DiskFull, NotExecuted, Problem, ReadOnly, TimedOut

# The last is what asyncpg says of a connection that went away between two of its own steps.
FROM_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, *FROM_DRIVER, OSError, TimeoutError) as error:
        problem = _problem(error)
        if problem is None:
            raise
        raise problem from error


_BY_SQLSTATE: dict[str, Callable[[], Problem]] = {
    "08": DatabaseUnavailable,  # connection exceptions
    "57P": DatabaseUnavailable,  # shutting down, starting up
    "53": DatabaseUnavailable,  # out of connections or memory
    "25006": ReadOnly,  # a demoted primary
    "53100": DiskFull,
    "57014": TimedOut,  # cancelled by statement_timeout
    "55P03": TimedOut,  # lock_timeout
    "40": TimedOut,  # deadlock, serialization: the same request may succeed a moment later
}


def _problem(error: BaseException) -> Problem | None:
    """The problem that `error`, or what SQLAlchemy wrapped in it, stands for; None where it is a bug of ours."""
    driver_error = drivers(error)
    if isinstance(driver_error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError):
        return NotExecuted()
    state = sqlstate(driver_error)
    for length in (5, 3, 2):
        if state[:length] in _BY_SQLSTATE:
            return _BY_SQLSTATE[state[:length]]()
    if isinstance(driver_error, TimeoutError):
        return TimedOut()
    if isinstance(driver_error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return DatabaseUnavailable()
    return None


def drivers(error: BaseException) -> BaseException:
    """The error of asyncpg or the socket that SQLAlchemy wrapped in `error`; `error` where it wrapped none."""
    while isinstance(error, DBAPIError) or type(error).__module__.startswith("sqlalchemy."):
        if error.__cause__ is None:
            break
        error = error.__cause__
    return error


def sqlstate(error: object) -> str:
    """The SQLSTATE of a driver's error, wrapped or not; empty where it has none."""
    return str(getattr(error, "sqlstate", None) or "")
