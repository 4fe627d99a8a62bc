"""Documents: the sources that answers stood on, and their marks. uses.py has the answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from app import times
from app.db.pool import Driver, Write
from app.errors import IdTaken, NotFound
from app.evidence import document_ref
from app.models import Document, Mark
from app.store.listing import Listing
from app.store.rows import DURABLE

COUNTED = 10_000
"""Uses, the newest, that a guarded user's counts are taken of."""

_SOURCE = """document_id, title, url, status, version, reason, marked_at, greatest(answers, 0), greatest(cited, 0),
       first_used, last_used"""

GET = f"""
SELECT {_SOURCE}, mark IS NOT NULL AS is_marked, EXISTS (SELECT FROM evidence_uses WHERE document_ref = $2) AS is_used
FROM documents WHERE tenant_id = $1 AND ref = $2 AND document_id = $3
"""

COUNT_OF_USER = """
SELECT count(s.id), count(s.id) FILTER (WHERE u.cited), min(u.at) FILTER (WHERE s.id IS NOT NULL),
       max(u.at) FILTER (WHERE s.id IS NOT NULL)
FROM (SELECT * FROM evidence_uses WHERE document_ref = $2 ORDER BY at DESC LIMIT $4) u
    LEFT JOIN chat_sessions s ON s.id = u.session_id AND s.tenant_id = $1 AND s.user_id = $3
"""

USED_BY_USER = """
SELECT EXISTS (
    SELECT FROM evidence_uses u JOIN chat_sessions s ON s.id = u.session_id AND s.tenant_id = $1 AND s.user_id = $3
    WHERE u.document_ref = $2
)
"""


@dataclass(frozen=True, slots=True)
class Found:
    """One page of documents, and the position of the last one examined where there may be more."""

    documents: list[Document]
    position: tuple[datetime, int] | None


async def find(
    conn: Driver,
    tenant_id: int,
    document_id: str | None,
    status: str | None,
    after: tuple[datetime, int] | None,
    limit: int,
) -> Found:
    """The documents behind `after`, most recently used first; looks at listing.EXAMINED and no more.

    Without a `document_id` those that answers stood on, with it that one, which may also be marked only.
    """
    rows, position = await listing(tenant_id, document_id, status, after).page(conn, limit)
    return Found([_to_document(tuple(row)[:11]) for row in rows], position)


def listing(tenant_id: int, document_id: str | None, status: str | None, after: tuple[datetime, int] | None) -> Listing:
    documents = Listing("documents", f"{_SOURCE}, ref", ("last_used", "ref"))
    documents.only("tenant_id = {}", tenant_id)
    if document_id is None:
        documents.only("last_used IS NOT NULL")
    else:
        documents.only("ref = {} AND document_id = {}", document_ref(tenant_id, document_id), document_id)
        documents.only("(last_used IS NOT NULL OR mark IS NOT NULL)")
    if status is not None:
        documents.matching("status = {}", status)
    documents.behind(after)
    return documents


async def get(conn: Driver, tenant_id: int, user: str | None, document_id: str) -> Document:
    """The document, its counts those of `user` if there is one. Raises NotFound where it is neither marked nor used."""
    ref = document_ref(tenant_id, document_id)
    row = await conn.fetchrow(GET, tenant_id, ref, document_id)
    if row is None or not (row["is_used"] if user else row["is_used"] or row["is_marked"]):
        raise NotFound("This document")
    source = tuple(row)[:11]
    if user:
        [counts] = await conn.fetch(COUNT_OF_USER, tenant_id, ref, user, COUNTED)
        if not counts[0] and not await conn.fetchval(USED_BY_USER, tenant_id, ref, user):
            raise NotFound("This document")
        source = (*source[:7], *counts)
    return _to_document(source)


def _to_document(row: Iterable[Any]) -> Document:
    document_id, title, url, status, version, reason, marked_at, answers, cited, first_used, last_used = row
    return Document(
        document_id,
        title,
        url,
        status,
        version,
        reason,
        marked_at and times.render(marked_at),
        answers,
        cited,
        first_used and times.render(first_used),
        last_used and times.render(last_used),
    )


LOCK = f"""
SELECT {_SOURCE} FROM documents WHERE tenant_id = :tenant_id AND ref = :ref FOR UPDATE
"""

# First of all: two that mark one document would else lock it and this in either order, and both count.
LOCK_MARKS = "SELECT FROM tenants WHERE id = :tenant_id FOR NO KEY UPDATE"

NEXT_MARK = f"UPDATE tenants SET marks = marks + 1 WHERE id = :tenant_id RETURNING marks, {DURABLE}"

MARK = f"""
INSERT INTO documents (tenant_id, ref, document_id, status, version, reason, marked_at, mark)
VALUES (:tenant_id, :ref, :document_id, :status, :version, :reason, now(), :mark)
ON CONFLICT (tenant_id, ref) DO UPDATE
SET status = excluded.status, version = excluded.version, reason = excluded.reason, marked_at = excluded.marked_at,
    mark = excluded.mark
RETURNING {_SOURCE}
"""


async def mark(conn: Write, tenant_id: int, document_id: str, wanted: Mark) -> Document:
    """Mark a document, seen or not. What is marked so already does not change."""
    named = {"tenant_id": tenant_id, "ref": document_ref(tenant_id, document_id), "document_id": document_id}
    await conn.execute(text(LOCK_MARKS), named)
    row = (await conn.execute(text(LOCK), named)).one_or_none()
    now = (
        _to_document(row) if row else _to_document((document_id, None, None, "current", *[None] * 3, 0, 0, None, None))
    )
    if now.document_id != document_id:
        raise IdTaken  # of another document with the same hash
    if (now.status, now.version, now.reason) == (wanted.status, wanted.version, wanted.reason):
        return now
    number = (await conn.execute(text(NEXT_MARK), named)).scalar_one()
    parameters = {**named, "mark": number, "status": wanted.status, "version": wanted.version, "reason": wanted.reason}
    return _to_document((await conn.execute(text(MARK), parameters)).one())
