"""Backfill: contexts that an earlier release stored whole are brought into the form of this one, in batches.

Forms that a server of an earlier release has left on a message that it redacted are removed on the way.
Reads take both forms meanwhile. A message is changed under the lock of its session and only while it still is what
was read, so that redacting or removing it goes first or last. Nothing that a client sees changes.
"""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import text

from app import strict_json
from app.db.pool import Database, Driver, Write
from app.evidence import understand
from app.store import jobs, uses
from app.store.counts import Added, Counts
from app.store.evidence import Evidence
from app.store.placing import Placed, place, shortest_lease
from app.store.rows import array

EXAMINED = 5_000
MOST = 50
"""Messages that one batch changes: the appends to their sessions wait for it."""

AGAIN = 3_600
"""Seconds to the next walk, until one finds nothing: in a rolling upgrade old servers still write the old form."""

STATE = "SELECT state::text FROM jobs WHERE name = 'backfill' AND next_at <= now()"

# `place` tells where the walk goes on though nothing is found.
NEXT = """
SELECT m.session_id, m.seq, m.id, s.tenant_id, m.place, m.is_old, m.is_left,
       CASE WHEN m.is_old THEN m.context::text END AS context
FROM (
    SELECT *, context IS NOT NULL AND context_refs IS NULL AS is_old,
           redacted_at IS NOT NULL AND context_refs IS NOT NULL AS is_left,
           row_number() OVER (ORDER BY session_id, seq) AS place
    FROM chat_messages WHERE (session_id, seq) > ($1, $2) ORDER BY session_id, seq LIMIT $3
) m JOIN chat_sessions s ON s.id = m.session_id
WHERE m.is_old OR m.is_left OR m.place = $3 ORDER BY m.place LIMIT $4
"""

LOCK = "SELECT FROM chat_sessions WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE"

PLACE = """
WITH changed AS (
    UPDATE chat_messages m
    SET context = d.context::json, context_form = d.form::json, context_refs = d.refs::bigint[]
    FROM unnest(CAST(:sessions AS uuid[]), CAST(:seqs AS int[]), CAST(:ids AS uuid[]), CAST(:contexts AS text[]),
                CAST(:forms AS text[]), CAST(:refs AS text[])) AS d(session_id, seq, id, context, form, refs)
    WHERE m.session_id = d.session_id AND m.seq = d.seq AND m.id = d.id
      AND m.context IS NOT NULL AND m.context_refs IS NULL
      AND (CAST(:until AS timestamptz) IS NULL
           OR clock_timestamp() < CAST(:until AS timestamptz) AND pg_postmaster_start_time() = :server)
    RETURNING m.session_id, m.seq, m.id, m.created_at
)
INSERT INTO evidence_uses (document_ref, at, session_id, seq, cited)
SELECT u.ref, c.created_at, c.session_id, c.seq, u.cited
FROM unnest(CAST(:users AS uuid[]), CAST(:used AS bigint[]), CAST(:cited AS boolean[])) AS u(id, ref, cited)
    JOIN changed c ON c.id = u.id
RETURNING document_ref, at, cited, pg_current_xact_id()::text::bigint AS transaction
"""

REMOVE_LEFT = """
UPDATE chat_messages SET context_form = NULL, context_refs = NULL
WHERE session_id = :session_id AND seq = :seq AND redacted_at IS NOT NULL
"""


async def batch(db: Database, evidence: Evidence) -> bool | None:
    """Bring the next messages over; whether the walk goes on, None if it is not the time for one.

    What is stored for all comes first, by itself: its rows stay locked for no longer than a statement.
    """
    async with db.driver() as conn:
        found = await conn.fetchval(STATE)
        if found is None:
            return None
        state = {"session_id": str(UUID(int=0)), "seq": 0, "found": False, **orjson.loads(found)}
        rows = await conn.fetch(NEXT, UUID(state["session_id"]), state["seq"], EXAMINED, MOST)
        old, left = ([row for row in rows if row[kind]] for kind in ("is_old", "is_left"))
        placed = [await _placed(conn, evidence, row) for row in old]
    after = {"session_id": str(rows[-1]["session_id"]), "seq": rows[-1]["seq"]} if rows else {}
    async with db.write() as write:
        if await jobs.take(write, "backfill") != orjson.loads(found):
            return True  # another instance has done this batch
        await write.execute(text(LOCK), {"ids": [row["session_id"] for row in (*old, *left)]})
        await _remove_left(write, evidence.counts, left)
        if old:
            await _change(write, evidence.counts, old, placed)
        if rows:
            await jobs.save(write, "backfill", {**after, "found": state["found"] or bool(old or left)}, 0)
        else:
            await jobs.save(write, "backfill", {}, AGAIN if state["found"] else None)
    return bool(rows)


async def _placed(conn: Driver, evidence: Evidence, row: asyncpg.Record) -> Placed:
    value = strict_json.loads(row["context"])
    [placed] = await place(conn, row["tenant_id"], evidence, [understand(value, row["context"])], anew=False)
    return placed


async def _remove_left(conn: Write, counts: Counts, rows: Sequence[asyncpg.Record]) -> None:
    for row in rows:
        session_id, seq = row["session_id"], row["seq"]
        await uses.remove(conn, row["tenant_id"], counts, session_id, seq, seq)
        await conn.execute(text(REMOVE_LEFT), {"session_id": session_id, "seq": seq})


async def _change(conn: Write, counts: Counts, rows: Sequence[asyncpg.Record], placed: Sequence[Placed]) -> None:
    used = [(row["id"], ref, cited) for row, one in zip(rows, placed, strict=True) for ref, cited in one.cited.items()]
    until, server, _ = shortest_lease(placed) or (None, None, 0)
    parameters = {
        "sessions": [row["session_id"] for row in rows],
        "seqs": [row["seq"] for row in rows],
        "ids": [row["id"] for row in rows],
        "contexts": [one.context for one in placed],
        "forms": [one.form for one in placed],
        "refs": [array(one.refs or ()) for one in placed],
        "until": until,
        "server": server,
        "users": [id_ for id_, _, _ in used],
        "used": [ref for _, ref, _ in used],
        "cited": [cited for _, _, cited in used],
    }
    tenants = {ref: row["tenant_id"] for row, one in zip(rows, placed, strict=True) for ref in one.cited}
    counts.add(
        Added(tenants[use.document_ref], use.document_ref, use.transaction, 1, int(use.cited), use.at)
        for use in (await conn.execute(text(PLACE), parameters)).all()
    )
