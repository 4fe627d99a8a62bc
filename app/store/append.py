"""Appending messages: one, or a batch of which all are stored or none.

Each is one statement in autocommit: existence, ownership, guard, revision, repeats and the lease of its evidence are
its WHERE clause, and the row lock of its UPDATE is what makes seq dense. No row came back: one look tells which of
them it was.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from app import splitting, strict_json, times
from app.db.pool import Driver
from app.errors import IdempotencyConflict, NotFound, TimedOut
from app.evidence import Context
from app.models import Message, MessageDraft, Stored
from app.store import showing
from app.store.counts import Added
from app.store.evidence import Evidence
from app.store.lock import require
from app.store.marks import NO_EVIDENCE, Verdict
from app.store.placing import Placed, place, shortest_lease
from app.store.rows import MESSAGE, SEEN, array, seen
from app.store.showing import Shown, uses_of

ATTEMPTS = 5

# `greatest`: an append that waited must not move time back.
_SESSION = """
    UPDATE chat_sessions
    SET message_count = message_count + {count}, revision = revision + 1, updated_at = greatest(updated_at, now())
    WHERE id = $1 AND tenant_id = $2
      AND ($3::text IS NULL OR user_id = $3)
      AND ($4::int[] IS NULL OR revision = ANY ($4))
      AND ($5::boolean OR NOT EXISTS (SELECT FROM chat_messages WHERE session_id = $1 AND id {ids}))"""

APPEND = f"""
WITH s AS ({_SESSION.format(count=1, ids="= $6")}
    RETURNING id, message_count, revision
), m AS (
    INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata, created_at, fingerprint)
    SELECT s.id, s.message_count, $6, $7, $8, $9::json, coalesce($10, now()), $11 FROM s
    RETURNING seq, created_at
)
SELECT m.seq, m.created_at, s.revision FROM m CROSS JOIN s
"""

# Not now(): that is when the statement was prepared, or began to wait for a table. Until it works it has no
# transaction id, and the sweep does not wait for it. Not clock_timestamp(): Citus takes nothing volatile here.
APPEND_WITH_CONTEXT = f"""
WITH s AS ({_SESSION.format(count=1, ids="= $6")}
      AND ($15::timestamptz IS NULL OR statement_timestamp() < $15 AND pg_postmaster_start_time() = $16)
    RETURNING id, message_count, revision
), m AS (
    INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata, created_at, fingerprint,
                               context, context_form, context_refs)
    SELECT s.id, s.message_count, $6, $7, $8, $9::json, coalesce($10, now()), $11, $12::json, $13::json,
           $14::text::bigint[]
    FROM s
    RETURNING session_id, seq, created_at
), u AS (
    INSERT INTO evidence_uses (document_ref, at, session_id, seq, cited)
    SELECT d.ref, m.created_at, m.session_id, m.seq, d.cited
    FROM m CROSS JOIN unnest($17::text::bigint[], $18::text::boolean[]) AS d(ref, cited)
)
SELECT m.seq, m.created_at, s.revision, pg_current_xact_id()::text::bigint AS transaction, {SEEN}
FROM m CROSS JOIN s
"""

# The same for many. For one it costs a sixth more than APPEND, which is the hot path.
APPEND_BATCH = f"""
WITH s AS ({_SESSION.format(count="cardinality($6::uuid[])", ids="= ANY ($6)")}
      AND ($15::timestamptz IS NULL OR statement_timestamp() < $15 AND pg_postmaster_start_time() = $16)
    RETURNING id, message_count - cardinality($6) AS before, revision
), m AS (
    INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata, created_at, fingerprint,
                               context, context_form, context_refs)
    SELECT s.id, s.before + d.place, d.id, d.sender, d.content, d.metadata::json, coalesce(d.created_at, now()),
           d.fingerprint, d.context::json, d.form::json, d.refs::bigint[]
    FROM s CROSS JOIN unnest($6, $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::bytea[],
                             $12::text[], $13::text[], $14::text[])
        WITH ORDINALITY AS d(id, sender, content, metadata, created_at, fingerprint, context, form, refs, place)
    RETURNING session_id, seq, created_at
), u AS (
    INSERT INTO evidence_uses (document_ref, at, session_id, seq, cited)
    SELECT d.ref, m.created_at, m.session_id, m.seq, d.cited
    FROM s CROSS JOIN unnest($17::text::bigint[], $18::text::boolean[], $19::text::int[]) AS d(ref, cited, place)
        JOIN m ON m.seq = s.before + d.place
)
SELECT m.seq, m.created_at, s.revision, pg_current_xact_id()::text::bigint AS transaction, {SEEN}
FROM m CROSS JOIN s ORDER BY m.seq
"""

LOOK = f"""
SELECT s.revision, m.fingerprint, {SEEN}, {MESSAGE}
FROM chat_sessions s LEFT JOIN chat_messages m ON m.session_id = s.id AND m.id = ANY ($5)
WHERE s.id = $1 AND s.tenant_id = $2 AND ($3::text IS NULL OR s.user_id = $3)
"""


async def append(
    conn: Driver,
    tenant_id: int,
    user: str | None,
    evidence: Evidence,
    session_id: UUID,
    drafts: Sequence[MessageDraft],
    revisions: Sequence[int] | None,
    shown: Shown,
) -> Stored[list[Message]]:
    """Store messages behind all others of their session, or find that they are stored already.

    The ids of `drafts` differ. `revisions` are those the session must have one of. Raises NotFound,
    IdempotencyConflict (an id belongs to another message, or only some of them are stored) or RevisionMismatch.
    """
    contexts = [draft.context for draft in drafts]
    for attempt in range(ATTEMPTS):
        placed = await place(conn, tenant_id, evidence, contexts, anew=attempt > 0)
        rows = await _insert(conn, tenant_id, user, session_id, drafts, placed, revisions)
        if rows:
            marks = await _account(conn, evidence, tenant_id, rows, placed)
            verdicts = [_judge(evidence, tenant_id, draft.context) if marks else NO_EVIDENCE for draft in drafts]
            return Stored(
                [
                    _appended(session_id, row, draft, verdict, shown)
                    for row, draft, verdict in zip(rows, drafts, verdicts, strict=True)
                ],
                rows[0]["revision"],
            )
        rows = await conn.fetch(LOOK, session_id, tenant_id, user, True, [draft.id for draft in drafts])
        if not rows:
            raise NotFound("This session")
        revision = rows[0]["revision"]
        if rows[0]["id"] is not None:
            stored = [tuple(row)[3:] for row in _replay(rows, drafts)]
            messages = await showing.messages(conn, tenant_id, evidence, seen(rows[0][2]), stored, shown)
            return Stored(messages, revision, replayed=True)
        require(revision, revisions)
    raise TimedOut  # the session changed between each statement and its look


async def _insert(
    conn: Driver,
    tenant_id: int,
    user: str | None,
    session_id: UUID,
    drafts: Sequence[MessageDraft],
    placed: Sequence[Placed],
    revisions: Sequence[int] | None,
) -> list[asyncpg.Record]:
    statement, values = _statement(drafts, placed)
    all_new = all(draft.is_new for draft in drafts)
    try:
        return await conn.fetch(statement, session_id, tenant_id, user, revisions, all_new, *values)
    except asyncpg.UniqueViolationError as error:
        # Two appends of one id raced. Any other constraint would be a broken seq, and a bug.
        if error.constraint_name != "chat_messages_session_id_id_key":
            raise
        return []


def _statement(drafts: Sequence[MessageDraft], placed: Sequence[Placed]) -> tuple[str, Sequence[Any]]:
    """The statement that stores them, and its parameters from $6 on."""
    messages = [
        (one.id, one.sender, one.content, one.metadata, one.created_at, one.fingerprint, where.context, where.form)
        for one, where in zip(drafts, placed, strict=True)
    ]
    uses = [(ref, cited, at) for at, where in enumerate(placed, start=1) for ref, cited in where.cited.items()]
    refs, cited, places = map(array, zip(*uses, strict=True)) if uses else ("{}",) * 3
    until, server, _ = shortest_lease(placed) or (None, None, 0)
    if len(drafts) > 1:
        lists = [None if where.refs is None else array(where.refs) for where in placed]
        return APPEND_BATCH, [*zip(*messages, strict=True), lists, until, server, refs, cited, places]
    if drafts[0].context is None:
        return APPEND, messages[0][:6]
    return APPEND_WITH_CONTEXT, [*messages[0], array(placed[0].refs or ()), until, server, refs, cited]


async def _account(
    conn: Driver, evidence: Evidence, tenant_id: int, rows: Sequence[asyncpg.Record], placed: Sequence[Placed]
) -> bool:
    """Know the marks that these rows saw, and count the uses of what they store; whether there was a context."""
    if len(rows[0]) == _WITHOUT_CONTEXT:
        return False
    for row, where in zip(rows, placed, strict=True):
        evidence.counts.add(
            Added(tenant_id, ref, row["transaction"], 1, int(cited), row["created_at"])
            for ref, cited in where.cited.items()
        )
        if where.new:
            await evidence.used_first(conn, tenant_id, where.new, row["created_at"])
    await evidence.hear(conn, tenant_id, seen(rows[0][4]))
    return True


_WITHOUT_CONTEXT = 3
"""Columns of APPEND."""


def _judge(evidence: Evidence, tenant_id: int, context: Context | None) -> Verdict:
    return evidence.marks.judge(tenant_id, uses_of(tenant_id, context.documents)) if context else NO_EVIDENCE


def _replay(rows: Sequence[asyncpg.Record], drafts: Sequence[MessageDraft]) -> list[asyncpg.Record]:
    """The stored messages in the order of `drafts`, where all of them are stored as they were sent now."""
    stored = {row["id"]: row for row in rows}
    known = [draft.id for draft in drafts if draft.id in stored]
    for draft in drafts:
        # A message that was redacted or imported has no fingerprint, and equals anything.
        if draft.id not in stored or stored[draft.id]["fingerprint"] not in (None, draft.fingerprint):
            raise IdempotencyConflict("message", known)
    return [stored[draft.id] for draft in drafts]


def _appended(session_id: UUID, row: asyncpg.Record, draft: MessageDraft, verdict: Verdict, shown: Shown) -> Message:
    seq, created_at = row[:2]
    return Message(
        draft.id,
        session_id,
        seq,
        draft.sender,
        draft.content,
        _sent(draft.context, shown),
        orjson.Fragment(draft.metadata),
        times.render(created_at),
        None,
        *verdict,
    )


def _sent(context: Context | None, shown: Shown) -> Any:
    if context is None or shown == "none":
        return None
    if shown == "full":
        return orjson.Fragment(context.text)
    return orjson.Fragment(strict_json.dumps(splitting.without_texts(context.value)))
