"""Backup: the service's tables as of one moment, in a file of pg_dump's custom format; docs/decisions/0006-backup.md.

Two things tie the file to the database that was asked for: pg_dump reads the snapshot of a transaction of ours, which
it finds in no other database, and the file gets its name only when it is complete and on disk.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import asyncpg
from sqlalchemy.exc import DBAPIError

from app.db import dsn, migrate, programs
from app.db.cluster import VERSION
from app.db.connecting import Connector
from app.db.schema import Base
from app.db.start import locate
from app.errors import Refused
from app.settings import Settings

VERSION_TABLE = "alembic_version"

_CHUNK = 1 << 20
_MEGABYTE = 1_000_000
_TICK = 0.1  # seconds between two signs of progress


@dataclass(frozen=True, slots=True)
class Report:
    """What a backup or a restore did; as text, one line for people."""

    what: str
    size: int
    sessions: int
    messages: int
    seconds: float

    def __str__(self) -> str:
        rows = f"{self.sessions:,} sessions, {self.messages:,} messages"
        return f"{self.what}: {rows}, {self.size / _MEGABYTE:,.1f} MB in {self.seconds:.1f} s"


async def backup(settings: Settings, file: Path) -> Report:
    """Write the database's backup to `file`, which must not exist. Raises Refused, and then there is no file."""
    began = time.monotonic()
    if not settings.database_url and not (settings.data_dir / f"pg{VERSION}").exists():
        raise Refused(
            f"there is no database in DATA_DIR {settings.data_dir.absolute()}: correct it, or set DATABASE_URL"
        )
    with one_line(), new_file(file) as output:
        async with locate(settings, guest=True) as target, connected(target, settings) as connection:
            pg_dump = programs.oldest_from("pg_dump", connection.get_server_version().major)
            conninfo, environment = programs.connection(target, settings.connect_timeout)
            patterns = [f"--table={pattern}" for pattern in await _patterns(connection, target)]
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                ((sessions, messages, snapshot),) = await connection.fetch(_MOMENT)
                command = (*_PG_DUMP, f"--snapshot={snapshot}", *patterns, "-d", conninfo)
                # The time zone is part of how COPY writes rows, and a restore compares them.
                async with pg_dump.run(*command, **environment, PGTZ="UTC") as archive:
                    size = await _copy(archive, output)
    return Report(f"backup of {target.description} to {file}", size, sessions, messages, time.monotonic() - began)


_MOMENT = """
    SELECT (SELECT count(*) FROM chat_sessions), (SELECT count(*) FROM chat_messages), pg_export_snapshot()
"""
_PG_DUMP = ("--format=custom", "--no-owner", "--no-privileges", "--strict-names", "--no-password")


async def _copy(archive: asyncio.StreamReader, output: BinaryIO) -> int:
    with Progress("backup") as progress:
        while chunk := await archive.read(_CHUNK):
            output.write(chunk)
            progress.add(len(chunk))
    return output.tell()


async def _patterns(connection: asyncpg.Connection, target: dsn.Target) -> list[str]:
    """The service's tables, as pg_dump's patterns. Refused where the schema is another release's: it may have more."""
    if await connection.fetchval("SELECT to_regclass($1)", VERSION_TABLE) is None:
        raise Refused(f"{target.description} holds no tables of this service")
    revision = await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}")
    if revision != migrate.REVISIONS[-1]:
        raise Refused(
            f"the schema of {target.description} ({revision}) is not this release's: "
            "back up with the release that made it, or run `python -m app migrate` first"
        )
    statement = """
        SELECT format('"%s"."%s"', replace(nspname, '"', '""'), relname)
        FROM unnest($1::text[]) AS name JOIN pg_class c ON c.oid = to_regclass(name) JOIN pg_namespace n
        ON n.oid = relnamespace
    """
    return [row[0] for row in await connection.fetch(statement, tables())]


def tables() -> list[str]:
    """The names of all tables of this release's schema."""
    return [VERSION_TABLE, *(table.name for table in Base.metadata.sorted_tables)]


@contextlib.asynccontextmanager
async def connected(target: dsn.Target, settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection without a limit on how long a statement may take."""
    connection = await Connector(target, settings, command_timeout=None)()
    try:
        yield connection
    finally:
        connection.terminate()  # whatever is not committed shall not be, and nobody waits for a dead server


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn what a database or a file system complains of into Refused. Never its DETAIL: it quotes rows."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Refused(f"{where}{error.strerror or error}") from None
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
        raise Refused(str(cause).partition("\n")[0]) from None


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A private file that becomes `path` once the block has ended well, and is gone otherwise."""
    _refuse_existing(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(path)  # made meanwhile, by a backup that was faster
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise Refused(f"{path} exists: name a file that does not")


class Progress:
    """`label: 12.3 MB` on a terminal, growing in place; nothing elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._size = 0
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._show("\r\x1b[K")

    def add(self, size: int) -> None:
        self._size += size
        if time.monotonic() - self._shown > _TICK:
            self._shown = time.monotonic()
            self._show(f"\r{self._label}: {self._size / _MEGABYTE:,.1f} MB")

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(text)
            sys.stderr.flush()
