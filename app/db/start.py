"""From settings to a database that answers: the server that DATABASE_URL names, or the embedded one."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg

from app.db import dsn, embedded, migrate
from app.db.connecting import Connector
from app.db.pool import Database
from app.errors import Refused
from app.settings import Settings

_log = logging.getLogger("app")

_UNNAMED = {"statement_cache_size": 0}

_PATIENCE = 30
"""Seconds that a start waits for its first connection while the server has none left."""


@asynccontextmanager
async def start(settings: Settings, *, guest: bool = False) -> AsyncIterator[Database]:
    """The database, connected; a guest (a command beside the server) may share the embedded one.

    Raises Refused with one line where no connection can be had.
    """
    async with locate(settings, guest=guest) as target:
        database = Database(target, settings)
        try:
            yield database
        finally:
            await database.close()


@asynccontextmanager
async def locate(settings: Settings, *, guest: bool = False) -> AsyncIterator[dsn.Target]:
    """Where the database is; it answers, and the embedded one runs meanwhile. Raises Refused as `start` does."""
    if settings.database_url:
        target = dsn.parse(settings.database_url)
        release = None
    else:
        cluster = await embedded.attach(settings.data_dir, guest=guest)
        target = replace(dsn.parse(cluster.dsn), description=f"embedded PostgreSQL in {cluster.location}")
        release = cluster.release
    try:
        yield await _probe(target, settings)
    finally:
        if release is not None:
            release()


async def bring_up_to_date(settings: Settings) -> None:
    """Bring the schema up to date, beside a running server or without one."""
    async with start(settings, guest=True) as database:
        await migrate.upgrade(database)
        _log.info("schema is up to date on %s", database.description)


async def _probe(target: dsn.Target, settings: Settings) -> dsn.Target:
    """Connect once, so that what a person has to mend is told in one line before anything else happens.

    Behind a pooler such as pgbouncer in transaction mode each transaction may run on another connection of the
    server, so that statements prepared by name are missing or doubled there. One is known by its process
    number, which it makes up. Statements are then prepared without a name, unless DATABASE_URL says otherwise.
    """
    where = target.description
    try:
        connection = await _connect(target, settings)
        pooled = connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()")
        await connection.close()
    except asyncpg.InvalidCatalogNameError:
        raise Refused(f"the database {where} does not exist: CREATE DATABASE rag_chat;") from None
    except asyncpg.InvalidPasswordError:
        raise Refused(f"{where} refuses the user or password in DATABASE_URL") from None
    except asyncpg.InvalidAuthorizationSpecificationError as error:  # no such role, or pg_hba.conf has no line for it
        raise Refused(f"{where} refuses the connection: {_first_line(error)}") from None
    except asyncpg.TargetServerAttributeNotMatched:
        raise Refused(f"none of {where} is of the kind that DATABASE_URL asks for: {target.attributes}") from None
    except (asyncpg.InterfaceError, ValueError) as error:
        raise Refused(f"DATABASE_URL cannot be used: {_first_line(error)}") from None
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        reason = _first_line(error) or f"no answer within {settings.connect_timeout:g} s"
        raise Refused(
            f"the database {where} does not answer ({reason}): start it, correct DATABASE_URL, "
            "or leave DATABASE_URL empty for the embedded database"
        ) from None
    return replace(target, arguments={**_UNNAMED, **target.arguments}) if pooled else target


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


async def _connect(target: dsn.Target, settings: Settings) -> asyncpg.Connection:
    """A connection; while the server has none left, one is waited for: the other workers start too."""
    connect = Connector(target, settings, **_UNNAMED)
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        try:
            return await connect()
        except asyncpg.TooManyConnectionsError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(0.1)
