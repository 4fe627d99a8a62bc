"""The same answers whatever the server's settings: one conversation on a plain server and on odd ones."""

import asyncio
from typing import Any

import pytest

from app.tests.conftest import NewDatabase
from app.tests.db.postgres import needs_postgres, postgres
from app.tests.harness import DEADLINE, KEY, Chat, Service, settings

pytestmark = needs_postgres

ODD = {
    "timezone": "Pacific/Chatham",  # 45 minutes off the hour
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "enable_indexscan": "off",
    "enable_bitmapscan": "off",
    "jit_above_cost": "0",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "client_min_messages": "error",
    "idle_session_timeout": "10min",
}
NAMES = [
    *(
        "\u0130stanbul",
        "ISPARTA",
        "\u0131sparta",
        "Stra\u00dfe",
        "STRASSE",
        "\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3",
    ),
    *("na\u00efve", "100% sure", "back\\slash", "'quoted'"),
]
SEARCHES = [
    "i",
    "\u0131",
    "istanbul",
    "strasse",
    "\u00df",
    "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
    "%",
    "\\",
    "'",
]
TIMES = [
    *("0001-01-01T00:00:00Z", "1999-12-31T23:59:59.999999-13:00"),
    *("2026-03-29T02:30:00+02:00", "9999-12-31T23:59:59Z"),
]
CONTEXT = {"n": [1e23, 0.1, -0.0, 12345678901234567890123, 5e-324], "t": "a\\b'\"\u2028\U0010ffff", "": None}
OF_ITS_OWN = ("id", "session_id", "created_at", "updated_at")


async def conversation(url: str) -> list[Any]:
    """Everything that a fixed conversation answers, but ids and the times of writing."""
    # With jit_above_cost=0 each statement is compiled, and a slow machine takes seconds for that.
    chosen = settings(database_url=url, run_migrations=True, pool_timeout=DEADLINE, command_timeout=DEADLINE)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        first, second, *_ = [await client.create(name=name, user_id=f"of {name}", metadata=CONTEXT) for name in NAMES]
        dated = [await client.append(first, f"'\\n{time}", context=CONTEXT, created_at=time) for time in TIMES]
        await asyncio.gather(*(client.append(second, "raced") for _ in range(40)))
        page = await client.messages(first, order="desc")
        raced = [message["seq"] for message in (await client.messages(second, page_size=50))["messages"]]
        found = [(await client.sessions(name=search))["sessions"] for search in SEARCHES]
        renamed = (await client.put(f"/chat/sessions/{first['id']}", json={"name": "renamed"})).json()
        newest = (await client.sessions())["sessions"][0]
        deleted = (await client.delete(f"/chat/sessions/{first['id']}")).status_code
    names = [sorted(session["name"] for session in sessions) for sessions in found]
    times = [message["created_at"] for message in dated]
    messages = [own(message) for message in (*dated, *page["messages"])]
    return [messages, times, page["total"], raced, names, own(renamed), own(newest), deleted]


def own(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name not in OF_ITS_OWN}


@pytest.fixture(scope="module")
async def plain(new_database: NewDatabase) -> list[Any]:
    return await conversation(await new_database())


@pytest.mark.parametrize(
    ("chosen", "initdb"),
    [
        ({}, ("--locale=C",)),
        (ODD, ("--locale=C.UTF-8",)),
        (ODD, ("--locale=C", "--locale-provider=icu", "--icu-locale=tr-TR")),
    ],
    ids=["C", "odd", "odd and Turkish"],
)
async def test_a_conversation_is_the_same_on_every_server(
    plain: list[Any], chosen: dict[str, str], initdb: tuple[str, ...]
) -> None:
    async with postgres(chosen, initdb) as server:
        assert await conversation(server.url()) == plain
