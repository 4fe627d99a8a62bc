"""Which answers stood on a document: what a first page costs among few and many messages, and what filters read."""

import asyncio
import json
import statistics
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
from evidence_load import TENANT
from evidence_subjects import Item, Subject, url
from evidence_variants import SERVICE
from evidence_workload import START, Workload
from postgres import Postgres
from tables import print_table

from app.errors import NotFound
from app.store import documents, uses
from app.store.evidence import Evidence
from app.store.uses import Filter

SMALL, LARGE = "small_", "large_"
CALLS, LIMIT = 100, 20  # calls of a turn, and answers on a page
NOBODY = "nobody"

POPULAR = "SELECT document_id, answers FROM documents ORDER BY answers DESC LIMIT 1"
SOME_USER = """
SELECT s.user_id FROM evidence_uses u JOIN chat_sessions s ON s.id = u.session_id
WHERE u.document_ref = (SELECT ref FROM documents WHERE document_id = $1) ORDER BY u.at LIMIT 1
"""


def compare(postgres: Postgres, home: Path, rounds: int) -> None:
    """Print what a first page costs on both databases, taking turns, and what each filter reads on them."""
    rare = [str(chunk["document_id"]) for chunk in Workload().rare]
    popular = {name: postgres.sql(name, POPULAR).split("|") for name in (SMALL, LARGE)}
    asked = {name: {"rare": rare, "most popular": popular[name][:1]} for name in (SMALL, LARGE)}
    subjects = {name: Subject(postgres, home, SERVICE, name) for name in asked}
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        for number in range(rounds + 1):
            for name in (SMALL, LARGE) if number % 2 else (LARGE, SMALL):
                for kind, ids in asked[name].items():
                    cost = subjects[name].run("uses", _items(ids))
                    if number:  # the first one warms up
                        costs[kind][name].append(sum(cost))
    finally:
        for subject in subjects.values():
            subject.stop()
    rows = [
        ["first page of 20: CPU µs", *(f"{_count(postgres, name)} messages" for name in asked), "ratio (quartiles)"]
    ]
    for kind, both in costs.items():
        low, middle, high = statistics.quantiles(
            [large / small for small, large in zip(both[SMALL], both[LARGE], strict=True)], n=4
        )
        figures = [f"{statistics.median(both[name]):,.0f}" for name in asked]
        rows.append([kind, *figures, f"{middle:.2f} ({low:.2f}-{high:.2f})"])
    print_table(*rows)
    print(
        ", ".join(f"the most popular has {int(popular[name][1]):,} of {_count(postgres, name)}" for name in asked), "\n"
    )
    read = {name: asyncio.run(_filters(home, name, popular[name][0], rare[0])) for name in asked}
    rows = [
        ["uses examined · rows read in all · buffers · ms", *(f"{_count(postgres, name)} messages" for name in asked)]
    ]
    rows += [[label, *(read[name][label] for name in asked)] for label in read[SMALL]]
    print_table(*rows)


def _count(postgres: Postgres, database: str) -> str:
    return f"{int(postgres.sql(database, 'SELECT sum(message_count) FROM chat_sessions')):,}"


def _items(document_ids: list[str]) -> list[Item]:
    ids = [document_ids[number % len(document_ids)] for number in range(CALLS)]
    return [(None, urlencode({"document_id": one, "limit": LIMIT}), None) for one in ids]


async def _filters(home: Path, database: str, popular: str, rare: str) -> dict[str, str]:
    """By filter, what the statements of one request read."""
    conn = await asyncpg.connect(url(home, database))
    user = await conn.fetchval(SOME_USER, popular)
    since: datetime = START + timedelta(hours=20)
    asked: dict[str, tuple[str, str | None, Filter]] = {
        "rare": (rare, None, Filter()),
        "most popular": (popular, None, Filter()),
        "cited": (popular, None, Filter(cited=True)),
        "chunk_id, no such": (popular, None, Filter(chunk_id=NOBODY)),
        "version": (popular, None, Filter(version="2026-03-01")),
        "version, no such": (popular, None, Filter(version=NOBODY)),
        "user_id, who used it long ago": (popular, None, Filter(user_id=user)),
        "user_id, no such": (popular, None, Filter(user_id=NOBODY)),
        "since and until, an hour long ago": (popular, None, Filter(since=since, until=since + timedelta(hours=1))),
        "until before all": (popular, None, Filter(until=START)),
        "X-User-Id, who used it long ago": (popular, user, Filter()),
        "X-User-Id, no such": (popular, NOBODY, Filter()),
    }
    found = {}
    for label, (document_id, guard, wanted) in asked.items():
        found[label] = await _read(conn, document_id, guard, wanted)
    await conn.close()
    return found


async def _read(conn: asyncpg.Connection, document_id: str, guard: str | None, wanted: Filter) -> str:
    """Run the request as its route does, and then its statements once more to see what each reads."""
    logged: list[Any] = []
    conn.add_query_logger(logged.append)
    try:
        await documents.get(conn, TENANT, guard, document_id)
        await uses.find(conn, TENANT, guard, Evidence(3_600), document_id, wanted, None, LIMIT, "full")
    except NotFound:
        pass
    await asyncio.sleep(0)  # the logger is called by the event loop
    conn.remove_query_logger(logged.append)
    examined = rows = buffers = 0
    milliseconds = 0.0
    for one in logged:
        [plan] = json.loads(await conn.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {one.query}", *one.args))
        milliseconds += plan["Execution Time"]
        buffers += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        for relation, number in _scanned(plan["Plan"]):
            rows += number
            examined += number if relation == "evidence_uses" else 0
    return f"{examined:,} · {rows:,} · {buffers:,} · {milliseconds:.2f}"


def _scanned(plan: dict[str, Any]) -> list[tuple[str, int]]:
    """Of each scan of a table in the plan the table and how many rows it read, those it dropped included."""
    found = [scanned for child in plan.get("Plans", ()) for scanned in _scanned(child)]
    if "Relation Name" in plan:
        dropped = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        found.append((plan["Relation Name"], round((plan["Actual Rows"] + dropped) * plan["Actual Loops"])))
    return found
