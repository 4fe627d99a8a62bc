"""Migrations: the schema brought up to date by Alembic, by one process at a time, within time limits.

The lock is pg_advisory_xact_lock and everything happens in its transaction: a session lock would be stranded
by pgbouncer, and a half-made schema by a crash.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.db.pool import Database, Write, sqlstate
from app.errors import Problem, Refused

_LOCK = 0x7A6_C4A7  # any number, the same in every release

_INSUFFICIENT_PRIVILEGE = "42501"
_READ_ONLY = "25006"


async def upgrade(database: Database) -> None:
    """Bring the schema to this release's. Raises Refused with one line if the role or the schema forbids it."""
    try:
        async with database.write() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = '120s'"))  # bounds the wait for the others
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.execute(text("SET LOCAL lock_timeout = '5s'"))  # never queue readers behind our DDL
            await _check_encoding(connection)
            await connection.run_sync(_run)
    except (DBAPIError, Problem) as error:
        raise await _explain(database, error) from error
    except CommandError as error:
        raise Refused(
            f"the schema of {database.description} was made by a newer release of this service ({error}): "
            "run that release, or restore a backup"
        ) from None


def _run(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _check_encoding(connection: Write) -> None:
    encoding = (await connection.execute(text("SELECT current_setting('server_encoding')"))).scalar_one()
    if encoding != "UTF8":
        raise Refused(
            f"the database's encoding is {encoding}, and only UTF8 holds every message: "
            "CREATE DATABASE rag_chat ENCODING 'UTF8' TEMPLATE template0;"
        )


async def _explain(database: Database, error: Exception) -> Exception:
    wrapped = error.__cause__ if isinstance(error, Problem) else error
    state = sqlstate(getattr(wrapped, "orig", wrapped))
    if state not in (_INSUFFICIENT_PRIVILEGE, _READ_ONLY):
        return error
    async with database.read() as connection:
        statement = text("SELECT quote_ident(current_user), quote_ident(coalesce(current_schema, 'public'))")
        role, schema = (await connection.execute(statement)).one()
    if state == _READ_ONLY:
        return Refused(f"{database.description} is read-only for the role {role}: name the primary in DATABASE_URL")
    return Refused(
        f"the role {role} may not create tables in schema {schema} of {database.description}: "
        f"as its owner run  GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"
    )
