"""Restore: a backup into an empty database, whole or not at all; docs/decisions/0006-backup.md.

pg_restore only reads the file. What it writes, a script of DDL and COPY blocks, runs on a connection of ours, in one
transaction that also locks out a running server, makes sure that the database is empty and compares every row.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import asyncpg

from app.db import migrate, programs
from app.db.backup import VERSION_TABLE, Progress, Report, connected, one_line, tables
from app.db.dsn import Target
from app.db.pool import Database
from app.db.schema import DEFAULT_TENANT
from app.db.start import locate
from app.errors import Refused
from app.settings import Settings

_MAGIC = b"PGDMP"
_BATCH = 1 << 16
_CHUNK = 1 << 20
_AS_SCRIPT = ("--no-owner", "--no-privileges", "--no-tablespaces", "--file=-")
_COPY = re.compile(rb'COPY "?(.+?)"?\."?(\w+)"? \((.+)\) FROM stdin;')


class Archive(NamedTuple):
    """A backup, and what must be known of it beforehand."""

    file: Path
    size: int
    server: int
    """The major version of the PostgreSQL that it was made of."""
    schema: str
    pg_restore: programs.Program

    @classmethod
    async def open(cls, file: Path) -> "Archive":
        """Raises Refused if `file` is no backup of this service, or a newer release's."""
        with file.open("rb") as opened:
            if opened.read(len(_MAGIC)) != _MAGIC:
                raise Refused(f"{file} is not a backup")
            size = opened.seek(0, os.SEEK_END)
        pg_restore = programs.newest("pg_restore")
        async with pg_restore.run("--list", str(file)) as output:
            listed = (await output.read(-1)).decode(errors="replace")
        server = re.search(r"^;\s+Dumped from database version: (\d+)", listed, re.MULTILINE)
        schema = re.search(rf"^\d+; \d+ \d+ TABLE DATA (.+) {VERSION_TABLE} ", listed, re.MULTILINE)
        if not server or not schema:
            raise Refused(f"{file} is not a backup of this service")
        archive = cls(file, size, int(server[1]), schema[1], pg_restore)
        await archive._check_revision()
        return archive

    async def _check_revision(self) -> None:
        only = ("--data-only", f"--table={VERSION_TABLE}")
        async with self.pg_restore.run(*_AS_SCRIPT, *only, str(self.file)) as output:
            script = (await output.read(-1)).decode(errors="replace")
        revision = script.partition("FROM stdin;\n")[2].partition("\n")[0]
        if revision not in migrate.REVISIONS:
            raise Refused(f"{self.file} was made by a newer release of this service ({revision}): restore it with that")


@dataclass
class Rows:
    """How many rows, and a digest of them in whatever order: PostgreSQL fills gaps, so it gives back another one."""

    count: int = 0
    digest: int = 0
    rest: bytes = b""

    def add(self, row: bytes) -> None:
        self.count += 1
        self.digest += int.from_bytes(blake2b(row, digest_size=16).digest())

    async def feed(self, text: bytes) -> None:
        *rows, self.rest = (self.rest + text).split(b"\n")
        for row in rows:
            self.add(row)


async def restore(settings: Settings, file: Path) -> Report:
    """Load the backup in `file` and migrate it to this release. Raises Refused, and then nothing has changed."""
    began = time.monotonic()
    with one_line():
        archive = await Archive.open(file)
        async with locate(settings, guest=True) as target, connected(target, settings) as connection:
            await _check_server(archive, connection, target)
            database = Database(target, settings)
            try:
                await migrate.upgrade(database)  # has every objection that there is to a database
                async with connection.transaction():
                    loaded = await _replace(archive, connection, target)
                await migrate.upgrade(database)
            finally:
                await database.close()
    sessions, messages = loaded["chat_sessions"].count, loaded["chat_messages"].count
    what = f"restore of {file} to {target.description}"
    return Report(what, archive.size, sessions, messages, time.monotonic() - began)


async def _check_server(archive: Archive, connection: asyncpg.Connection, target: Target) -> None:
    version = connection.get_server_version().major
    if version < archive.server:
        raise Refused(
            f"{archive.file} was made of a PostgreSQL {archive.server}, and {target.description} is {version}: "
            f"restore it into {archive.server} or newer"
        )
    schema = await connection.fetchval("SELECT current_schema")
    if schema != archive.schema:
        raise Refused(
            f"{archive.file} holds the schema {archive.schema}, and the one of {target.description} is {schema}: "
            "create it and name it in DATABASE_URL, as ?options=-csearch_path%3DNAME"
        )


async def _replace(archive: Archive, connection: asyncpg.Connection, target: Target) -> dict[str, Rows]:
    """Put the archive's tables in the place of the empty ones. Answers what was loaded, by table."""
    names = ", ".join(tables())
    await connection.execute(f"SET LOCAL lock_timeout = '5s'; LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
    if await connection.fetchval(_IS_USED, DEFAULT_TENANT):
        raise Refused(f"{target.description} is not empty: restore into a new database (CREATE DATABASE) or DATA_DIR")
    await connection.execute(f"DROP TABLE {names}")
    async with archive.pg_restore.run(*_AS_SCRIPT, str(archive.file)) as output:
        with Progress("restore") as progress:
            loaded = await _Replay(connection, progress).run(_lines(output))
    await connection.execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL bytea_output = 'hex'")
    for table, rows in loaded.items():
        stored = Rows()
        await connection.copy_from_table(**table._asdict(), output=stored.feed)
        if rows != stored:
            raise Refused(f"the rows of {table.table_name} are not those of {archive.file}: was it made by `backup`?")
    return {table.table_name: rows for table, rows in loaded.items()}


# A running service may know by its number a text that was there; the archive has others under the same numbers.
_IS_USED = """
SELECT EXISTS (TABLE chat_sessions) OR EXISTS (SELECT FROM tenants WHERE id <> $1) OR EXISTS (TABLE documents)
    OR pg_sequence_last_value(pg_get_serial_sequence('evidence', 'id')::regclass) IS NOT NULL
"""


class _Table(NamedTuple):
    schema_name: str
    table_name: str
    columns: tuple[str, ...]


class _Replay:
    """The script of an archive, run within the transaction that `connection` is in."""

    def __init__(self, connection: asyncpg.Connection, progress: Progress) -> None:
        self._connection = connection
        self._progress = progress
        self._has_transaction_timeout = connection.get_server_version().major >= 17  # noqa: PLR2004 - came with 17

    async def run(self, lines: AsyncIterator[bytes]) -> dict[_Table, Rows]:
        loaded: dict[_Table, Rows] = {}
        statements: list[bytes] = []
        async for line in lines:
            if found := _COPY.fullmatch(line):
                await self._execute(statements)
                schema, name, columns = (part.decode() for part in found.groups())
                table = _Table(schema, name, tuple(column.strip(' "') for column in columns.split(",")))
                loaded[table] = Rows()
                await self._connection.copy_to_table(**table._asdict(), source=self._copied(lines, loaded[table]))
            else:
                statements.append(self._local(line))
        await self._execute(statements)
        return loaded

    async def _execute(self, statements: list[bytes]) -> None:
        if any(line and not line.startswith(b"--") for line in statements):  # asyncpg trips over mere comments
            await self._connection.execute(b"\n".join(statements).decode())
        statements.clear()

    def _local(self, line: bytes) -> bytes:
        """A line of DDL as it may run here. No SET outlives the transaction: a pooler has others on this connection."""
        if line.startswith(b"\\"):
            return b""  # \restrict, for psql
        if line.startswith(b"SET transaction_timeout") and not self._has_transaction_timeout:
            return b""
        if line.startswith(b"SELECT pg_catalog.set_config("):
            return line.replace(b", false)", b", true)")
        return line.replace(b"SET ", b"SET LOCAL ", 1) if line.startswith(b"SET ") else line

    async def _copied(self, lines: AsyncIterator[bytes], rows: Rows) -> AsyncIterator[bytes]:
        """The rows up to the end of a COPY block, counted into `rows` on their way."""
        batch = bytearray()
        async for line in lines:
            if line == b"\\.":
                break
            rows.add(line)
            batch += line + b"\n"
            if len(batch) > _BATCH:
                self._progress.add(len(batch))
                yield bytes(batch)
                batch.clear()
        yield bytes(batch)


async def _lines(output: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines, however long; what is cut off at the end is left to pg_restore's exit status."""
    rest = b""
    while chunk := await output.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
