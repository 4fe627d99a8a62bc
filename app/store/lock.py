"""The lock that PUT, redact, rewind and delete begin with, and the questions they ask under it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from app.db.pool import Write
from app.errors import NotFound, RevisionMismatch
from app.store.rows import SESSION

LOCK = f"""
SELECT {SESSION} FROM chat_sessions
WHERE id = :id AND tenant_id = :tenant_id AND (CAST(:user AS text) IS NULL OR user_id = :user)
FOR UPDATE
"""


async def lock_session(conn: Write, tenant_id: int, user: str | None, session_id: UUID) -> Row[Any]:
    """The session's columns, held until the transaction ends: a read after this sees what the wait was for.

    One statement that waits and then reads other rows would read them as they were before its wait.
    """
    row = (await conn.execute(text(LOCK), {"id": session_id, "tenant_id": tenant_id, "user": user})).one_or_none()
    if row is None:
        raise NotFound("This session")
    return row


def require(revision: int, revisions: Sequence[int] | None) -> None:
    """Raise RevisionMismatch unless `revision` is one of those that If-Match allows; None allows all."""
    if revisions is not None and revision not in revisions:
        raise RevisionMismatch(revision)
