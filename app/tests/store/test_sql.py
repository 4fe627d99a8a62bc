"""Every SQL constant of the store is PREPAREd on the migrated schema, and the hot ones must use an index."""

import importlib
import pkgutil
import re

import pytest

from app import store
from app.db.pool import Database
from app.store import messages

STATEMENT = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b")
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
    assert {"messages.APPEND", "messages.FORWARD", "sessions.CREATE", "sessions.LOCK"} <= set(statements())


@pytest.mark.parametrize("name", sorted(statements()))
async def test_every_statement_fits_the_schema(db: Database, name: str) -> None:
    async with db.driver() as conn:
        await conn.prepare(statements()[name])


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (messages.APPEND, "chat_sessions_pkey"),
        (messages.FORWARD, "chat_messages_pkey"),
        (messages.BACKWARD, "chat_messages_pkey"),
        (messages.GET, "chat_messages_session_id_id_key"),
    ],
    ids=["append", "forward", "backward", "get"],
)
async def test_a_hot_statement_reads_by_index(db: Database, statement: str, index: str) -> None:
    async with db.driver() as conn, conn.transaction():
        # What a planner may choose on a large table: without statistics a sequential scan looks as cheap.
        await conn.execute("SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_generic_plan")
        await conn.execute(f"PREPARE hot AS {statement}")
        count = len(set(re.findall(r"\$\d+", statement)))
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN EXECUTE hot ({', '.join(['NULL'] * count)})"))
        await conn.execute("DEALLOCATE hot")
    assert index in plan, plan
    assert "Seq Scan" not in plan, plan
