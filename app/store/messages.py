"""Messages: every SQL statement about them.

`seq` is dense, so a page is one index range: no OFFSET, no COUNT, the same cost at any depth. Both hot paths,
append and page, are one statement each on the driver's own connection.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from app import times
from app.db.pool import Driver
from app.errors import IdempotencyConflict, NotFound, RevisionMismatch, TimedOut
from app.models import Message, MessageDraft, Stored

ATTEMPTS = 5

# One statement in autocommit: existence, ownership, guard, revision and repeats are its WHERE clause, and the
# row lock of the UPDATE is what makes seq dense. `greatest`: an append that waited must not move time back.
APPEND = """
WITH s AS (
    UPDATE chat_sessions
    SET message_count = message_count + 1, revision = revision + 1, updated_at = greatest(updated_at, now())
    WHERE id = $1 AND tenant_id = $2
      AND ($3::text IS NULL OR user_id = $3)
      AND ($4::int[] IS NULL OR revision = ANY ($4))
      AND ($5::boolean OR NOT EXISTS (SELECT FROM chat_messages WHERE session_id = $1 AND id = $6))
    RETURNING id, message_count, revision
), m AS (
    INSERT INTO chat_messages (session_id, seq, id, sender, content, context, metadata, created_at, fingerprint)
    SELECT s.id, s.message_count, $6, $7, $8, $9::json, $10::json, coalesce($11, now()), $12 FROM s
    RETURNING seq, created_at
)
SELECT m.seq, m.created_at, s.revision FROM m CROSS JOIN s
"""

_COLUMNS = """m.id, m.session_id, m.seq, m.sender, m.content,
       CASE WHEN $4::boolean THEN m.context::text END, m.metadata::text, m.created_at, m.redacted_at"""

LOOK = f"""
SELECT s.revision, m.fingerprint, {_COLUMNS}
FROM chat_sessions s LEFT JOIN chat_messages m ON m.session_id = s.id AND m.id = $5
WHERE s.id = $1 AND s.tenant_id = $2 AND ($3::text IS NULL OR s.user_id = $3)
"""


async def append(
    conn: Driver,
    tenant_id: int,
    user: str | None,
    session_id: UUID,
    draft: MessageDraft,
    revisions: Sequence[int] | None,
) -> Stored[Message]:
    """Store a message behind all others of its session, or find that it is stored already.

    `revisions` are those the session must have one of. Raises NotFound, IdempotencyConflict (the id belongs to
    another message) or RevisionMismatch.
    """
    for _ in range(ATTEMPTS):
        row = await _insert(conn, tenant_id, user, session_id, draft, revisions)
        if row is not None:
            seq, created_at, revision = row
            return Stored(_appended(session_id, seq, created_at, draft), revision)
        row = await conn.fetchrow(LOOK, session_id, tenant_id, user, True, draft.id)
        if row is None:
            raise NotFound("This session")
        revision, fingerprint, *columns = row
        if columns[0] is not None:
            if fingerprint not in (None, draft.fingerprint):
                raise IdempotencyConflict("message")
            return Stored(_message(columns), revision, replayed=True)
        if revisions is not None and revision not in revisions:
            raise RevisionMismatch(revision)
    raise TimedOut  # the session changed between each statement and its look


async def _insert(
    conn: Driver,
    tenant_id: int,
    user: str | None,
    session_id: UUID,
    draft: MessageDraft,
    revisions: Sequence[int] | None,
) -> asyncpg.Record | None:
    try:
        return await conn.fetchrow(
            APPEND,
            session_id,
            tenant_id,
            user,
            revisions,
            draft.is_new,
            draft.id,
            draft.sender,
            draft.content,
            draft.context,
            draft.metadata,
            draft.created_at,
            draft.fingerprint,
        )
    except asyncpg.UniqueViolationError as error:
        # Two appends of one id raced. Any other constraint would be a broken seq, and a bug.
        if error.constraint_name != "chat_messages_session_id_id_key":
            raise
        return None


GET = f"""
SELECT {_COLUMNS}
FROM chat_sessions s JOIN chat_messages m ON m.session_id = s.id AND m.id = $5
WHERE s.id = $1 AND s.tenant_id = $2 AND ($3::text IS NULL OR s.user_id = $3)
"""


async def get(
    conn: Driver, tenant_id: int, user: str | None, session_id: UUID, message_id: UUID, *, with_context: bool
) -> Message:
    row = await conn.fetchrow(GET, session_id, tenant_id, user, with_context, message_id)
    if row is None:
        raise NotFound("This message")
    return _message(row)


# A page is one statement, so that total, revision and messages belong together. Bounds counted from the end
# come from message_count inside the statement.
_RANGE = f"""
SELECT s.message_count, s.revision, {_COLUMNS}
FROM chat_sessions s LEFT JOIN chat_messages m ON m.session_id = s.id AND m.seq BETWEEN %s AND %s
WHERE s.id = $1 AND s.tenant_id = $2 AND ($3::text IS NULL OR s.user_id = $3)
ORDER BY m.seq
"""

FORWARD = _RANGE % ("$5::bigint + 1", "$5::bigint + $6::bigint")
_LAST = "least($5::bigint, s.message_count - $6::bigint)"
BACKWARD = _RANGE % (f"{_LAST} - $7::bigint + 1", _LAST)


BEYOND = 2**31
"""A seq behind every message."""


@dataclass(frozen=True, slots=True)
class Forward:
    """The `limit` messages that follow the seq `after`."""

    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class Backward:
    """The `limit` messages that precede the seq `before` and the newest `skip`."""

    before: int
    limit: int
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Messages that stand next to each other, by seq, with the total and the revision of the same moment."""

    messages: list[Message]
    total: int
    revision: int
    has_more: bool


async def find(
    conn: Driver,
    tenant_id: int,
    user: str | None,
    session_id: UUID,
    place: Forward | Backward,
    *,
    with_context: bool,
) -> Window:
    """The messages at `place`, by seq; `has_more` looks in the direction of `place`."""
    if isinstance(place, Forward):
        rows = await conn.fetch(FORWARD, session_id, tenant_id, user, with_context, place.after, place.limit)
    else:
        rows = await conn.fetch(
            BACKWARD, session_id, tenant_id, user, with_context, place.before - 1, place.skip, place.limit
        )
    if not rows:
        raise NotFound("This session")
    total, revision, first_id = rows[0][:3]
    messages = [] if first_id is None else [_message(row[2:]) for row in rows]
    more = bool(messages) and (messages[-1].seq < total if isinstance(place, Forward) else messages[0].seq > 1)
    return Window(messages, total, revision, more)


def _appended(session_id: UUID, seq: int, created_at: Any, draft: MessageDraft) -> Message:
    return Message(
        draft.id,
        session_id,
        seq,
        draft.sender,
        draft.content,
        draft.context and orjson.Fragment(draft.context),
        orjson.Fragment(draft.metadata),
        times.render(created_at),
        None,
    )


def _message(row: Iterable[Any]) -> Message:
    id_, session_id, seq, sender, content, context, metadata, created_at, redacted_at = row
    return Message(
        id_,
        session_id,
        seq,
        sender,
        content,
        context and orjson.Fragment(context),
        orjson.Fragment(metadata),
        times.render(created_at),
        redacted_at and times.render(redacted_at),
    )
