"""Databases to back up and restore: awkward rows, and what of a database must be the same afterwards."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg

from app.db import dsn, migrate, programs
from app.db.backup import tables
from app.db.pool import Database
from app.tests.harness import settings

MESSAGES = 5_000

AWKWARD = """
    INSERT INTO tenants (name)
    VALUES (''), (E'tab\\t, newline\\n, backslash \\\\, quote '' and \\\\.'), (repeat('é', 255));

    INSERT INTO chat_sessions
        (id, tenant_id, user_id, name, name_folded, is_favorite, metadata, created_at, updated_at)
    VALUES
        (gen_random_uuid(), 1, NULL, NULL, NULL, false, '{}', '0001-01-01 00:00Z', '9999-12-31 23:59:59.999999Z'),
        (gen_random_uuid(), 2, '', '', '', true, '{"n": 1e23, "n":1E+23, "n": -0.0}', now(), now()),
        (gen_random_uuid(), 3, E'\\x01\\x7f', repeat(U&'\\+10FFFF', 255), NULL, false,
            ' { "é" : "\\ud83d\\ude00" } ', 'infinity', now());

    INSERT INTO chat_sessions (id, tenant_id, is_favorite, metadata, message_count)
    VALUES ('00000000-0000-0000-0000-000000000001', 1, false, '{}', 5000);

    INSERT INTO chat_messages
        (session_id, seq, id, sender, content, context, metadata, created_at, redacted_at, fingerprint)
    SELECT
        '00000000-0000-0000-0000-000000000001', n, gen_random_uuid(), 'user',
        CASE WHEN n % 7 = 0 THEN '' ELSE E'\\\\N \\\\. \\r\\n' || n END,
        CASE
            WHEN n = 1 THEN json_build_object('text', repeat('x', 1048500))
            WHEN n = 2 THEN 'null'::json
            WHEN n = 3 THEN (repeat('[', 100) || repeat(']', 100))::json
        END,
        '{}', now() + n * interval '1 us', CASE WHEN n % 5 = 0 THEN now() END,
        CASE WHEN n % 3 = 0 THEN decode(repeat(to_hex(n % 256 + 256), 4), 'hex') END
    FROM generate_series(1, 5000) n;
"""

EVIDENCE = """
    UPDATE tenants SET marks = 9223372036854775807 WHERE id = 3;

    INSERT INTO documents
        (tenant_id, ref, document_id, title, url, status, version, reason, marked_at, mark, answers, cited,
         first_used, last_used, seen_at, counted)
    VALUES
        (1, -1, E'tab\\t, newline\\n, %2F/../\\\\N', NULL, NULL, 'current', NULL, NULL, NULL, NULL, 0, 0,
            NULL, NULL, now(), NULL),
        (1, -2, U&'caf\\00E9', U&'cafe\\0301', '', 'superseded', '', E'\\x01', now(), 1, 11, 5,
            '0001-01-01 00:00Z', '9999-12-31 23:59:59.999999Z', now(), pg_current_snapshot()::text),
        (3, -9223372036854775808, repeat(U&'\\+10FFFF', 2048), repeat('x', 100000), 'u', 'withdrawn', '7',
            repeat('y', 9000), now(), 9223372036854775807, -3, 9223372036854775807, now(), now(), 'infinity',
            '7:99999999999:7,8');

    INSERT INTO evidence (tenant_id, document_ref, digest, body, seen_at)
    SELECT 1 + n % 3, -1 - n, sha256(decode(to_hex(n + 4096), 'hex')),
        json_build_object('text', repeat('é' || n, n * 10), 'n', '{"n": 1e23, "n":1E+23, "n": -0.0}'::json), now()
    FROM generate_series(1, 200) n;
    DELETE FROM evidence WHERE id % 7 = 0;
    INSERT INTO evidence (id, tenant_id, document_ref, digest, body)
    VALUES (9223372036854775807, 1, -1, '', ' { "text" : "\\ud83d\\ude00" } ');

    UPDATE chat_messages SET
        context_refs = CASE WHEN seq % 3 = 0 THEN '{}' WHEN seq % 2 = 0 THEN ARRAY[seq, -seq] ELSE ARRAY[seq] END,
        context_form = CASE WHEN seq % 2 = 0 THEN '{"documents": [[0, {"score":1e23}, ["x"]], ["\\\\N"]]}'::json END,
        context = CASE WHEN seq % 2 = 1 THEN '[ "not split" ]'::json END
    WHERE seq BETWEEN 100 AND 400;

    INSERT INTO evidence_uses (document_ref, at, session_id, seq, cited)
    SELECT -1 - n % 5, now() + n * interval '1 us', '00000000-0000-0000-0000-000000000001', 100 + n, n % 2 = 0
    FROM generate_series(0, 300) n, generate_series(1, 2);  -- no key: nothing forbids equal rows

    UPDATE jobs SET state = '{"after": [1, -9223372036854775808]}', next_at = NULL WHERE name = 'backfill';
"""


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(**dsn.parse(url).arguments)
    try:
        yield connection
    finally:
        await connection.close()


async def execute(url: str, statement: str) -> None:
    async with connected(url) as connection:
        await connection.execute(statement)


async def fill(url: str) -> str:
    """Bring the database up to date and put the awkward rows in."""
    database = Database(dsn.parse(url), settings())
    await migrate.upgrade(database)
    await database.close()
    await execute(url, AWKWARD)
    await execute(url, EVIDENCE)
    return url


async def dump(url: str, file: Path, **environment: str) -> None:
    """A dump as people make it themselves."""
    conninfo, mine = programs.connection(dsn.parse(url), 5)
    pg_dump = programs.newest("pg_dump")
    async with pg_dump.run("-Fc", "-d", conninfo, "-f", str(file), **mine, **environment) as output:
        assert await output.read() == b""


async def content(url: str) -> dict[str, bytes]:
    """Every table, with every row of it and every bit of the row; and where its sequence stands."""
    orders = {"chat_messages": "1, 2", "documents": "1, 2", "evidence_uses": "1, 2, 3, 4, 5"}
    found = {}
    async with connected(url) as connection:
        for table in tables():
            found[table] = b""

            async def collect(chunk: bytes, table: str = table) -> None:
                found[table] += chunk

            order = f"ORDER BY {orders.get(table, '1')}"
            await connection.copy_from_query(f"TABLE {table} {order}", output=collect, format="binary")
        for sequence in ("tenants_id_seq", "evidence_id_seq"):
            stands = await connection.fetchrow(f"SELECT last_value, is_called FROM {sequence}")
            found[sequence] = repr(stands).encode()
    return found


async def is_empty(url: str) -> bool:
    """Whether the database holds nothing of this service, or nothing but its empty tables."""
    async with connected(url) as connection:
        if await connection.fetchval("SELECT to_regclass('chat_sessions')") is None:
            return True
        rows = """
            SELECT id::text FROM chat_sessions UNION ALL SELECT id::text FROM chat_messages
            UNION ALL SELECT document_id FROM documents UNION ALL SELECT id::text FROM evidence
        """
        return [row[0] for row in await connection.fetch(f"{rows} UNION ALL SELECT name FROM tenants")] == ["default"]


def files(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def read(file: Path) -> bytes:
    return file.read_bytes()


def write(file: Path, content: bytes | bytearray) -> None:
    file.write_bytes(content)
