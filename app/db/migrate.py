"""Migrations: the schema brought up to date by Alembic, by one process at a time, within time limits.

The lock is pg_advisory_xact_lock and everything happens in its transaction: a session lock would be stranded
by pgbouncer, and a half-made schema by a crash.
"""

import logging
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.db.pool import Database, Read, Write
from app.db.translation import sqlstate
from app.errors import Problem, Refused

SCRIPTS = Path(__file__).parent / "migrations"

REVISIONS = sorted(path.name[: len("20261125_1200")] for path in (SCRIPTS / "versions").glob("[0-9]*.py"))
"""Every revision of the schema that this release knows, the oldest first; a file's name begins with its own."""

_log = logging.getLogger("app")

_LOCK = 0x7A6_C4A7  # any number, the same in every release

_MIGRATE = "run  python -m app migrate  with a role that may create tables"

_WHO = "SELECT quote_ident(current_user), quote_ident(coalesce(current_schema, 'public'))"
_IS_MADE = "to_regclass('alembic_version') IS NOT NULL"

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
            found = await _revision(connection)
            if found is not None and found not in REVISIONS:
                raise Refused(
                    f"the schema of {database.description} was made by a newer release of this service ({found}): "
                    "run that release, or restore a backup"
                )
            if found != REVISIONS[-1]:
                await connection.run_sync(_run)
            await _check_rights(connection, database)
    except (DBAPIError, Problem) as error:
        raise await _explain(database, error) from error


async def _revision(connection: Read | Write) -> str | None:
    """The revision of the schema; None where there is none."""
    if not (await connection.execute(text(f"SELECT {_IS_MADE}"))).scalar_one():
        return None
    found: str | None = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
    return found


async def check(database: Database) -> None:
    """Raise Refused with one line if the schema, which somebody else migrates, is absent or older than this release.

    A newer one is served, with a warning: in a rolling upgrade a server of the old release may restart after the
    new one has migrated, and a release's migrations keep what the release before it uses.
    """
    try:
        async with database.read() as connection:
            found = await _revision(connection)
    except DBAPIError as error:
        raise await _explain(database, error) from error
    if found is None:
        raise Refused(f"{database.description} has no schema yet: {_MIGRATE}")
    if found not in REVISIONS:
        _log.warning("the schema of %s was made by a newer release (%s)", database.description, found)
    elif found != REVISIONS[-1]:
        raise Refused(f"the schema of {database.description} is of an older release: {_MIGRATE}")
    else:
        async with database.read() as connection:
            await _check_rights(connection, database)


def _run(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - 0.2 s that a start with nothing to do is spared
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _check_encoding(connection: Write) -> None:
    encoding = (await connection.execute(text("SELECT current_setting('server_encoding')"))).scalar_one()
    if encoding != "UTF8":
        raise Refused(
            f"the database's encoding is {encoding}, and only UTF8 holds every message: "
            "CREATE DATABASE rag_chat ENCODING 'UTF8' TEMPLATE template0;"
        )


# A release that adds a table needs a grant more where the owner of the tables is another role.
_MAY_NOT = """
SELECT EXISTS (
    SELECT FROM unnest(ARRAY['chat_sessions', 'chat_messages', 'documents', 'evidence', 'evidence_uses']) AS name,
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS need
    WHERE NOT has_table_privilege(name, need)
) OR NOT has_any_column_privilege('tenants', 'UPDATE') OR NOT has_any_column_privilege('jobs', 'UPDATE')
"""


async def _check_rights(connection: Read | Write, database: Database) -> None:
    if (await connection.execute(text(_MAY_NOT))).scalar_one():
        role, schema = (await connection.execute(text(_WHO))).one()
        raise _lacking_rights(role, schema, database)


def _lacking_rights(role: str, schema: str, database: Database) -> Refused:
    return Refused(
        f"the role {role} may not use all tables of {database.description}: as their owner run  "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};"
    )


async def _explain(database: Database, error: Exception) -> Exception:
    wrapped = error.__cause__ if isinstance(error, Problem) else error
    state = sqlstate(getattr(wrapped, "orig", wrapped))
    if state not in (_INSUFFICIENT_PRIVILEGE, _READ_ONLY):
        return error
    async with database.read() as connection:
        role, schema = (await connection.execute(text(_WHO))).one()
        made = (await connection.execute(text(f"SELECT {_IS_MADE}"))).scalar_one()
    if state == _READ_ONLY:
        return Refused(f"{database.description} is read-only for the role {role}: name the primary in DATABASE_URL")
    if made:
        return _lacking_rights(role, schema, database)
    return Refused(
        f"the role {role} may not create tables in schema {schema} of {database.description}: "
        f"as its owner run  GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"
    )
