"""Sessions: every SQL statement about them. A guard is one more predicate: `user` None narrows nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app.db.pool import Driver, Write
from app.errors import IdempotencyConflict, IdTaken, NotFound, TimedOut
from app.models import Session, SessionDraft, Stored
from app.store import uses
from app.store.counts import Counts
from app.store.listing import Listing
from app.store.lock import lock_session, require
from app.store.rows import SESSION, to_session
from app.strict_json import same

ATTEMPTS = 5

CREATE = f"""
INSERT INTO chat_sessions (id, tenant_id, user_id, name, name_folded, is_favorite, metadata, fingerprint)
VALUES ($1, $2, $3, $4, $5, $6, $7::json, $8)
ON CONFLICT (id) DO NOTHING
RETURNING {SESSION}
"""

LOOK = f"""
SELECT tenant_id = $2 AND ($3::text IS NULL OR user_id = $3) AS visible, fingerprint, {SESSION}
FROM chat_sessions WHERE id = $1
"""


async def create(conn: Driver, tenant_id: int, user: str | None, draft: SessionDraft) -> Stored[Session]:
    """Store a session, or find that it is stored already.

    Raises IdempotencyConflict if the id belongs to another session, IdTaken if that session is out of sight.
    """
    for _ in range(ATTEMPTS):
        row = await conn.fetchrow(
            CREATE,
            draft.id,
            tenant_id,
            draft.user_id,
            draft.name,
            fold(draft.name),
            draft.is_favorite,
            draft.metadata,
            draft.fingerprint,
        )
        if row is not None:
            session = to_session(row)
            return Stored(session, session.revision)
        row = await conn.fetchrow(LOOK, draft.id, tenant_id, user)
        if row is not None:
            visible, fingerprint, *columns = row
            return _replay(visible, fingerprint, columns, draft)
    raise TimedOut  # created and deleted by others each time we looked


def _replay(visible: bool, fingerprint: bytes | None, columns: Sequence[Any], draft: SessionDraft) -> Stored[Session]:
    if not visible:
        raise IdTaken
    if fingerprint not in (None, draft.fingerprint):
        raise IdempotencyConflict("session")
    session = to_session(columns)
    return Stored(session, session.revision, replayed=True)


GET = f"""
SELECT {SESSION} FROM chat_sessions WHERE id = $1 AND tenant_id = $2 AND ($3::text IS NULL OR user_id = $3)
"""


async def get(conn: Driver, tenant_id: int, user: str | None, session_id: UUID) -> Session:
    row = await conn.fetchrow(GET, session_id, tenant_id, user)
    if row is None:
        raise NotFound("This session")
    return to_session(row)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sessions a list holds; None filters nothing."""

    user_id: str | None = None
    is_favorite: bool | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a list, and the position of the last row examined where there may be more."""

    sessions: list[Session]
    position: tuple[datetime, UUID] | None


async def find(
    conn: Driver, tenant_id: int, user: str | None, wanted: Filter, after: tuple[datetime, UUID] | None, limit: int
) -> Found:
    """The sessions behind `after`, most recently active first; looks at listing.EXAMINED rows and no more."""
    sessions = Listing("chat_sessions", SESSION, ("updated_at", "id"))
    sessions.only("tenant_id = {}", tenant_id)
    for user_id in {user, wanted.user_id} - {None}:
        sessions.only("user_id = {}", user_id)
    if wanted.is_favorite is not None:
        sessions.matching("is_favorite = {}", wanted.is_favorite)
    if wanted.name is not None:
        sessions.matching("coalesce(strpos(name_folded, {}), 0) > 0", fold(wanted.name))
    sessions.behind(after)
    rows, position = await sessions.page(conn, limit)
    return Found([to_session(tuple(row)[:9]) for row in rows], position)


UPDATE = f"""
UPDATE chat_sessions
SET name = :name, name_folded = :name_folded, is_favorite = :is_favorite, metadata = CAST(:metadata AS json),
    revision = revision + 1, updated_at = greatest(updated_at, now())
WHERE id = :id
RETURNING {SESSION}
"""


async def update(
    conn: Write,
    tenant_id: int,
    user: str | None,
    session_id: UUID,
    changes: Mapping[str, Any],
    revisions: Sequence[int] | None,
) -> Session:
    """Change `name`, `is_favorite` and `metadata` (as JSON text); what is equal already changes nothing."""
    row = await lock_session(conn, tenant_id, user, session_id)
    now = {"name": row.name, "is_favorite": row.is_favorite, "metadata": row.metadata}
    wanted = {**now, **changes}
    if {**now, "metadata": None} == {**wanted, "metadata": None} and same(now["metadata"], wanted["metadata"]):
        return to_session(row)
    require(row.revision, revisions)
    parameters = {**wanted, "name_folded": fold(wanted["name"]), "id": session_id}
    return to_session((await conn.execute(text(UPDATE), parameters)).one())


DELETE = "DELETE FROM chat_sessions WHERE id = :id"


async def delete(
    conn: Write, tenant_id: int, user: str | None, counts: Counts, session_id: UUID, revisions: Sequence[int] | None
) -> None:
    """Remove the session and, with it, its messages."""
    row = await lock_session(conn, tenant_id, user, session_id)
    require(row.revision, revisions)
    await uses.remove(conn, tenant_id, counts, session_id, 1, row.message_count)
    await conn.execute(text(DELETE), {"id": session_id})


def fold(name: str | None) -> str | None:
    """`name` as the name filter compares it: Unicode case folding here, the same on every database."""
    return None if name is None else name.casefold()
