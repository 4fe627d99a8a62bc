"""From settings to a database that answers: the server that DATABASE_URL names, or the embedded one."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from app.db import dsn, embedded, migrate
from app.db.pool import Database
from app.errors import Refused
from app.settings import Settings

_log = logging.getLogger("app")


@asynccontextmanager
async def start(settings: Settings, *, guest: bool = False) -> AsyncIterator[Database]:
    """The database, connected; a guest (a command beside the server) may share the embedded one.

    Raises Refused with one line where no connection can be had.
    """
    if settings.database_url:
        target = dsn.parse(settings.database_url)
        release = None
    else:
        cluster = await embedded.attach(settings.data_dir, guest=guest)
        target = dsn.Target(dsn.parse(cluster.dsn).arguments, f"embedded PostgreSQL in {cluster.location}")
        release = cluster.release
    try:
        await _probe(target, settings)
        database = Database(target, settings)
        try:
            yield database
        finally:
            await database.close()
    finally:
        if release is not None:
            release()


async def bring_up_to_date(settings: Settings) -> None:
    """Bring the schema up to date, beside a running server or without one."""
    async with start(settings, guest=True) as database:
        await migrate.upgrade(database)
        _log.info("schema is up to date on %s", database.description)


async def _probe(target: dsn.Target, settings: Settings) -> None:
    """Connect once, so that what a person has to mend is told in one line before anything else happens."""
    where = target.description
    try:
        connection = await asyncpg.connect(**{"timeout": settings.connect_timeout, **target.arguments})
        await connection.close()
    except asyncpg.InvalidCatalogNameError:
        raise Refused(f"the database {where} does not exist: CREATE DATABASE rag_chat;") from None
    except asyncpg.InvalidAuthorizationSpecificationError:
        raise Refused(f"{where} refuses the user or password in DATABASE_URL") from None
    except (asyncpg.InterfaceError, ValueError) as error:
        raise Refused(f"DATABASE_URL cannot be used: {error}") from None
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        reason = str(error).partition("\n")[0] or f"no answer within {settings.connect_timeout:g} s"
        raise Refused(
            f"the database {where} does not answer ({reason}): start it, correct DATABASE_URL, "
            "or leave DATABASE_URL empty for the embedded database"
        ) from None
