"""The sweep: texts that no message names and documents that no answer stands on are removed, and counts made exact.

A round walks over all texts and then all documents, a batch in each transaction. It removes what nobody names and
nobody stored within the grace. An append that names a text began within the text's lease, so before the last round
did; and none that began before the last round is still running (`xmin`). So whoever could still name it has
ended, and what it committed is seen here, however long a process was stalled.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from app.db.pool import Write
from app.store import jobs
from app.store.jobs import State

TEXTS = 1_000
DOCUMENTS = 50  # locked while they are counted: 0.4 s for a million uses

NOW = "SELECT now()::text AS at, pg_snapshot_xmax(pg_current_snapshot())::text AS xmax"

HORIZON = """
SELECT least(now() - make_interval(secs => :grace),
             CAST(CAST(:at AS text) AS timestamptz) - make_interval(secs => :lease)) AS before
WHERE pg_snapshot_xmin(pg_current_snapshot()) >= CAST(CAST(:xmax AS text) AS xid8)
"""

NEXT_TEXTS = """
SELECT id, document_ref, seen_at < :before AS is_old FROM evidence WHERE id > :after ORDER BY id LIMIT :most
"""

# LATERAL with LIMIT: the first message that names it is enough, and a planner cannot make a join of all uses of it.
UNNAMED = """
SELECT e.id FROM unnest(CAST(:ids AS bigint[]), CAST(:refs AS bigint[])) AS e(id, document_ref)
    LEFT JOIN LATERAL (
        SELECT true AS named
        FROM evidence_uses u
            JOIN chat_messages m ON m.session_id = u.session_id AND m.seq = u.seq AND m.created_at = u.at
        WHERE u.document_ref = e.document_ref AND e.id = ANY (m.context_refs) LIMIT 1
    ) AS found ON true
WHERE found.named IS NULL
"""

DELETE_TEXTS = "DELETE FROM evidence WHERE id = ANY (CAST(:ids AS bigint[])) AND seen_at < :before"

NEXT_DOCUMENTS = """
SELECT tenant_id, ref FROM documents WHERE (tenant_id, ref) > (CAST(:tenant_id AS int), CAST(:ref AS bigint))
ORDER BY tenant_id, ref LIMIT :most FOR UPDATE
"""

COUNT = """
UPDATE documents d
SET answers = c.answers, cited = c.cited, first_used = c.first, last_used = c.last,
    counted = pg_current_snapshot()::text
FROM unnest(CAST(:tenants AS int[]), CAST(:refs AS bigint[])) AS k(tenant_id, ref)
    CROSS JOIN LATERAL (
        SELECT count(*) AS answers, count(*) FILTER (WHERE cited) AS cited, min(at) AS first, max(at) AS last
        FROM evidence_uses WHERE document_ref = k.ref
    ) AS c
WHERE d.tenant_id = k.tenant_id AND d.ref = k.ref
"""

DELETE_DOCUMENTS = """
DELETE FROM documents d USING unnest(CAST(:tenants AS int[]), CAST(:refs AS bigint[])) AS k(tenant_id, ref)
WHERE d.tenant_id = k.tenant_id AND d.ref = k.ref
  AND d.last_used IS NULL AND d.mark IS NULL AND d.seen_at < :before
"""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a batch removed, and whether the round goes on."""

    texts: int
    documents: int
    goes_on: bool


async def batch(conn: Write, grace: float) -> Swept | None:
    """Do the next batch of the sweep, a round every half `grace` (in seconds); None if it is not the time for one."""
    state = await jobs.take(conn, "sweep")
    if state is None:
        return None
    if "stage" not in state:
        now = (await conn.execute(text(NOW))).one()
        state = {"stage": "texts", "after": 0, "last": state.get("this"), "this": {"at": now.at, "xmax": now.xmax}}
    before = await _horizon(conn, state["last"], grace)
    swept = await (_texts if state["stage"] == "texts" else _documents)(conn, state, before)
    if swept.goes_on:
        await jobs.save(conn, "sweep", state, 0)
    else:
        await jobs.save(conn, "sweep", {"this": state["this"]}, grace / 2)
    return swept


async def _horizon(conn: Write, last: dict[str, Any] | None, grace: float) -> datetime | None:
    """What was last stored before this may be removed; None: nothing, as long as old transactions are running."""
    if last is None:
        return None
    parameters = {**last, "grace": grace, "lease": grace / 2}
    found: datetime | None = (await conn.execute(text(HORIZON), parameters)).scalar_one_or_none()
    return found


async def _texts(conn: Write, state: State, before: datetime | None) -> Swept:
    parameters = {"after": state["after"], "before": before, "most": TEXTS}
    rows = (await conn.execute(text(NEXT_TEXTS), parameters)).all()
    old = [row for row in rows if row.is_old]
    gone = 0
    if old:
        named = {"ids": [row.id for row in old], "refs": [row.document_ref for row in old]}
        unnamed = list((await conn.execute(text(UNNAMED), named)).scalars())
        gone = (await conn.execute(text(DELETE_TEXTS), {"ids": unnamed, "before": before})).rowcount
    if len(rows) == TEXTS:
        state["after"] = rows[-1].id
    else:
        state["stage"], state["after"] = "documents", [0, -(2**63)]
    return Swept(gone, 0, goes_on=True)


async def _documents(conn: Write, state: State, before: datetime | None) -> Swept:
    tenant_id, ref = state["after"]
    rows = (await conn.execute(text(NEXT_DOCUMENTS), {"tenant_id": tenant_id, "ref": ref, "most": DOCUMENTS})).all()
    parameters = {"tenants": [row.tenant_id for row in rows], "refs": [row.ref for row in rows]}
    await conn.execute(text(COUNT), parameters)
    gone = (await conn.execute(text(DELETE_DOCUMENTS), {**parameters, "before": before})).rowcount
    if rows:
        state["after"] = list(rows[-1])
    return Swept(0, gone, goes_on=len(rows) == DOCUMENTS)
