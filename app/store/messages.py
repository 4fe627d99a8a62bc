"""Messages: read one or a page, redact, rewind. Appending has append.py to itself.

`seq` is dense, so a page is one index range: no OFFSET, no COUNT, the same cost at any depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from app.db.pool import Driver, Write
from app.errors import NotFound
from app.models import Message, Rewound
from app.store import showing, uses
from app.store.counts import Counts
from app.store.evidence import Evidence
from app.store.lock import lock_session, require
from app.store.rows import MESSAGE, SEEN, seen
from app.store.showing import Shown

GET = f"""
SELECT {SEEN}, {MESSAGE}
FROM chat_sessions s JOIN chat_messages m ON m.session_id = s.id AND m.id = $5
WHERE s.id = $1 AND s.tenant_id = $2 AND ($3::text IS NULL OR s.user_id = $3)
"""


async def get(
    conn: Driver,
    tenant_id: int,
    user: str | None,
    evidence: Evidence,
    session_id: UUID,
    message_id: UUID,
    shown: Shown,
) -> Message:
    row = await conn.fetchrow(GET, session_id, tenant_id, user, shown != "none", message_id)
    if row is None:
        raise NotFound("This message")
    [message] = await showing.messages(conn, tenant_id, evidence, seen(row[0]), [row[1:]], shown)
    return message


# A page is one statement, so that total, revision and messages belong together. Bounds counted from the end
# come from message_count inside the statement.
_RANGE = f"""
SELECT s.message_count, s.revision, {SEEN}, {MESSAGE}
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
    evidence: Evidence,
    session_id: UUID,
    place: Forward | Backward,
    shown: Shown,
) -> Window:
    """The messages at `place`, by seq; `has_more` looks in the direction of `place`."""
    asked = (session_id, tenant_id, user, shown != "none")
    if isinstance(place, Forward):
        rows = await conn.fetch(FORWARD, *asked, place.after, place.limit)
    else:
        rows = await conn.fetch(BACKWARD, *asked, place.before - 1, place.skip, place.limit)
    if not rows:
        raise NotFound("This session")
    total, revision, told, first_id = rows[0][:4]
    stored = [] if first_id is None else [row[3:] for row in rows]
    messages = await showing.messages(conn, tenant_id, evidence, seen(told), stored, shown)
    more = bool(messages) and (messages[-1].seq < total if isinstance(place, Forward) else messages[0].seq > 1)
    return Window(messages, total, revision, more)


REDACTED = "SELECT seq, redacted_at FROM chat_messages WHERE session_id = :session_id AND id = :id"

REDACT = """
UPDATE chat_messages
SET content = '', context = NULL, context_form = NULL, context_refs = NULL, metadata = '{}', redacted_at = now(),
    fingerprint = NULL
WHERE session_id = :session_id AND id = :id
"""

REWIND = "DELETE FROM chat_messages WHERE session_id = :session_id AND seq > :after"

SET_COUNT = """
UPDATE chat_sessions
SET message_count = :message_count, revision = revision + 1, updated_at = greatest(updated_at, now())
WHERE id = :id
RETURNING revision
"""


async def redact(
    conn: Write,
    tenant_id: int,
    user: str | None,
    counts: Counts,
    session_id: UUID,
    message_id: UUID,
    revisions: Sequence[int] | None,
) -> int:
    """Remove what a message says; its row and seq stay. Returns the session's revision, the same for a repeat.

    Raises NotFound (of the session or the message) or RevisionMismatch.
    """
    session = await lock_session(conn, tenant_id, user, session_id)
    one = {"session_id": session_id, "id": message_id}
    found = (await conn.execute(text(REDACTED), one)).one_or_none()
    if found is None:
        raise NotFound("This message")
    if found.redacted_at is not None:
        return int(session.revision)
    require(session.revision, revisions)
    await uses.remove(conn, tenant_id, counts, session_id, found.seq, found.seq)
    await conn.execute(text(REDACT), one)
    return await _set_count(conn, session_id, session.message_count)


async def rewind(
    conn: Write,
    tenant_id: int,
    user: str | None,
    counts: Counts,
    session_id: UUID,
    after: int,
    revisions: Sequence[int] | None,
) -> Rewound:
    """Remove every message behind the seq `after`, so that the next append continues there.

    Raises NotFound or RevisionMismatch; where there is nothing to remove nothing changes.
    """
    session = await lock_session(conn, tenant_id, user, session_id)
    count = session.message_count
    if after >= count:
        return Rewound(0, count, session.revision)
    require(session.revision, revisions)
    await uses.remove(conn, tenant_id, counts, session_id, after + 1, count)
    await conn.execute(text(REWIND), {"session_id": session_id, "after": after})
    return Rewound(count - after, after, await _set_count(conn, session_id, after))


async def _set_count(conn: Write, session_id: UUID, message_count: int) -> int:
    """The session's new revision."""
    row = await conn.execute(text(SET_COUNT), {"id": session_id, "message_count": message_count})
    return int(row.scalar_one())
