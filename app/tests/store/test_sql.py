"""Every SQL constant of the store is PREPAREd on the migrated schema, and the hot ones must use an index."""

import importlib
import pkgutil
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from app import store
from app.db import dsn, migrate
from app.db.pool import Database
from app.store import documents
from app.tests.conftest import NewDatabase
from app.tests.harness import settings

STATEMENT = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
JOBS = {"sweep", "backfill"}
"""What goes on in the background reads whole tables, in batches."""
NAMED = re.compile(r"(?<!:):([a-z_]+)")


def statements() -> dict[str, str]:
    """Every SQL constant of `app.store`; Core's named parameters numbered as the driver gets them."""
    found = {}
    for module in pkgutil.iter_modules(store.__path__):
        for name, value in vars(importlib.import_module(f"app.store.{module.name}")).items():
            if name.isupper() and not name.startswith("_") and isinstance(value, str) and STATEMENT.match(value):
                found[f"{module.name}.{name}"] = numbered(value)
    return found


def numbered(statement: str) -> str:
    names = list(dict.fromkeys(NAMED.findall(statement)))
    return NAMED.sub(lambda match: f"${names.index(match[1]) + 1}", statement)


def test_the_statements_are_found() -> None:
    assert {"append.APPEND", "messages.FORWARD", "sessions.CREATE", "lock.LOCK"} <= set(statements())


@pytest.fixture(scope="module")
async def conn(new_database: NewDatabase) -> AsyncIterator[asyncpg.Connection]:
    """A connection to tables with rows and statistics: of empty ones any index looks as good as any other."""
    url = await new_database()
    database = Database(dsn.parse(url), settings(database_url=url))
    await migrate.upgrade(database)
    async with database.driver() as connection:
        await connection.execute(ROWS)
        # As a planner chooses on large tables: of a few thousand rows it would read all.
        await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        yield connection
    await database.close()


ROWS = """
INSERT INTO tenants (id, name) SELECT -n, 'tenant ' || n FROM generate_series(1, 50) n;
INSERT INTO chat_sessions (id, tenant_id, user_id, is_favorite, metadata)
SELECT gen_random_uuid(), -n % 50 - 1, 'user ' || n % 90, false, '{}' FROM generate_series(1, 2000) n;
INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata)
SELECT s.id, n, gen_random_uuid(), 'user', '', '{}'
FROM (SELECT id FROM chat_sessions WHERE tenant_id < 0 LIMIT 20) s, generate_series(1, 200) n;
INSERT INTO documents (tenant_id, ref, document_id, last_used, mark)
SELECT -n % 5 - 1, -n, 'd ' || n, now() - n * interval '1 s', CASE WHEN n % 10 = 0 THEN n END
FROM generate_series(1, 2000) n;
INSERT INTO evidence (tenant_id, document_ref, digest, body)
SELECT -n % 5 - 1, -n, int4send(n), '{}' FROM generate_series(1, 2000) n;
INSERT INTO evidence_uses (document_ref, at, session_id, seq, cited)
SELECT -n % 20 - 1, now() - n * interval '1 s', gen_random_uuid(), 1, false FROM generate_series(1, 4000) n;
ANALYZE tenants, chat_sessions, chat_messages, documents, evidence, evidence_uses;
"""


async def plan(conn: asyncpg.Connection, statement: str) -> str:
    await conn.execute(f"PREPARE hot AS {statement}")
    count = len(set(re.findall(r"\$\d+", statement)))
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    try:
        return "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN EXECUTE hot{values}"))
    finally:
        await conn.execute("DEALLOCATE hot")


@pytest.mark.parametrize("name", sorted(statements()))
async def test_every_statement_fits_the_schema(db: Database, name: str) -> None:
    async with db.driver() as conn:
        await conn.prepare(statements()[name])


@pytest.mark.parametrize("name", sorted(name for name in statements() if name.split(".")[0] not in JOBS))
async def test_what_a_request_runs_reads_no_table_from_end_to_end(conn: asyncpg.Connection, name: str) -> None:
    found = await plan(conn, statements()[name])
    assert "Seq Scan" not in found, found
    # An index without a condition would be read whole.
    assert len(re.findall("Index Cond", found)) == len(re.findall(r"Index (?:Only )?Scan", found)), found


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("append.APPEND", "chat_sessions_pkey"),
        ("append.APPEND_WITH_CONTEXT", "chat_sessions_pkey"),
        ("append.APPEND_BATCH", "chat_sessions_pkey"),
        ("append.LOOK", "chat_messages_session_id_id_key"),
        ("messages.FORWARD", "chat_messages_pkey"),
        ("messages.BACKWARD", "chat_messages_pkey"),
        ("messages.GET", "chat_messages_session_id_id_key"),
        ("evidence.STORE_TEXTS", "evidence_tenant_id_digest_key"),
        ("evidence.STORE_SOURCES", "documents_pkey"),
        ("evidence.BODIES", "evidence_pkey"),
        ("marks.NEW_MARKS", "documents_mark_idx"),
        ("documents.GET", "evidence_uses_idx"),
        ("documents.COUNT_OF_USER", "evidence_uses_idx"),
        ("documents.USED_BY_USER", "evidence_uses_idx"),
        ("uses.MESSAGES", "chat_messages_pkey"),
        ("uses.REMOVE", "evidence_uses_idx"),
        ("counts.FIRST_USE", "documents_pkey"),
    ],
)
async def test_a_hot_statement_reads_by_its_index(conn: asyncpg.Connection, name: str, index: str) -> None:
    found = await plan(conn, statements()[name])
    assert index in found, found


async def test_uses_are_read_from_the_cursor_on_in_the_order_of_their_index(conn: asyncpg.Connection) -> None:
    found = await plan(conn, statements()["uses.USES"])
    assert re.search(r"Index Scan Backward using evidence_uses_idx.*\n *Index Cond: .*at <= \$8", found), found
    assert "Presorted Key: evidence_uses.at" in found, found


async def test_documents_are_listed_from_the_cursor_on_in_the_order_of_their_index(conn: asyncpg.Connection) -> None:
    found = await plan(conn, documents.listing(1, None, None, (EPOCH, 0)).statement)
    assert re.search(r"Index Scan Backward using documents_last_used_idx.*\n *Index Cond: .*ROW\(", found), found
    assert "Sort" not in found, found
