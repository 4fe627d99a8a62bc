"""Uses: which answers stood on a document, and what happens to that when the answers are removed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import text

from app import strict_json
from app.db.pool import Driver, Write
from app.evidence import Document, document_ref
from app.models import DocumentUse, Message, UsedMessage
from app.store import showing
from app.store.counts import Added, Counts
from app.store.evidence import Evidence
from app.store.rows import MESSAGE, SEEN, seen
from app.store.showing import Shown

EXAMINED = 1_000
"""Uses that one page looks at, at most, however few of them its filters keep."""

READ = 100
"""The same where a filter asks what stands in the contexts."""

# Not rows.CONTEXT, which a verdict needs: a thousand contexts of sources without a text would be read for nothing.
_CONTEXT = """CASE WHEN $4::boolean THEN m.context::text END, m.context_refs,
       CASE WHEN $4::boolean THEN m.context_form::text END"""

# The inner LIMIT comes first: a join without it took 5.5 ms where this takes 0.1.
USES = f"""
SELECT u.at, u.session_id, u.seq, m.id IS NOT NULL AND ($7::boolean IS NULL OR u.cited = $7) AS matches, {_CONTEXT}
FROM (
    SELECT * FROM evidence_uses
    WHERE document_ref = $5 AND at >= $6 AND (at, session_id, seq) < ($8, $9, $10)
    ORDER BY at DESC, session_id DESC, seq DESC LIMIT $11
) u
    LEFT JOIN chat_sessions s ON s.id = u.session_id AND s.tenant_id = $2
        AND ($1::text IS NULL OR s.user_id = $1) AND ($3::text IS NULL OR s.user_id = $3)
    LEFT JOIN chat_messages m ON m.session_id = s.id AND m.seq = u.seq AND m.created_at = u.at AND m.redacted_at IS NULL
ORDER BY u.at DESC, u.session_id DESC, u.seq DESC
"""

MESSAGES = f"""
SELECT {SEEN}, {MESSAGE}
FROM unnest($1::uuid[], $3::int[], $5::timestamptz[]) AS u(session_id, seq, at)
    JOIN chat_messages m ON m.session_id = u.session_id AND m.seq = u.seq AND m.created_at = u.at
WHERE m.redacted_at IS NULL
ORDER BY u.at DESC, u.session_id DESC, u.seq DESC
"""

Position = tuple[datetime, UUID, int]

EVER = datetime(1, 1, 1, tzinfo=UTC)
NEWEST: Position = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1), 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which uses of a document are wanted; None filters nothing."""

    chunk_id: str | None = None
    version: str | None = None
    cited: bool | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def reads_contexts(self) -> bool:
        """Whether a context must be read to answer."""
        return self.chunk_id is not None or self.version is not None

    def fits(self, document: Document) -> bool:
        """Whether this use is wanted, as far as its context tells."""
        return (
            self.chunk_id in (None, document.chunk_id)
            and self.version in (None, document.version)
            and self.cited in (None, bool(document.cited))
        )

    @property
    def is_narrow(self) -> bool:
        """Whether it may drop uses between `since` and `until`."""
        return self.reads_contexts or self.cited is not None or self.user_id is not None


@dataclass(frozen=True, slots=True)
class Found:
    """One page of the answers that used a document, and the position of the last use examined if there may be more."""

    messages: list[UsedMessage]
    position: Position | None


async def find(
    conn: Driver,
    tenant_id: int,
    user: str | None,
    evidence: Evidence,
    document_id: str,
    wanted: Filter,
    after: Position | None,
    limit: int,
    shown: Shown,
) -> Found:
    """The answers behind `after` that used the document, newest first."""
    start = min(after or NEWEST, (wanted.until, UUID(int=0), -1) if wanted.until else NEWEST)
    cited = None if wanted.reads_contexts else wanted.cited  # of the answer; fits() asks the one use
    examined = READ if wanted.reads_contexts else EXAMINED if user or wanted.is_narrow else limit + 1
    rows = await conn.fetch(
        USES,
        *(wanted.user_id, tenant_id, user, wanted.reads_contexts, document_ref(tenant_id, document_id)),
        *(wanted.since or EVER, cited, *start, examined),
    )
    kept = [row for row in rows if row["matches"]]
    if wanted.reads_contexts:
        retrieved = await showing.retrieved(conn, evidence, [tuple(row)[4:7] for row in kept])
        kept = [
            row
            for row, documents in zip(kept, retrieved, strict=True)
            if any(wanted.fits(one) for one in documents if one.document_id == document_id)
        ]
    more = len(kept) > limit or len(rows) == examined
    last = kept[limit - 1] if len(kept) > limit else rows[-1] if rows else None
    position = (last["at"], last["session_id"], last["seq"]) if more and last else None
    messages = await _messages(conn, tenant_id, evidence, document_id, kept[:limit], shown)
    return Found(messages, position)


async def _messages(
    conn: Driver, tenant_id: int, evidence: Evidence, document_id: str, uses: Sequence[asyncpg.Record], shown: Shown
) -> list[UsedMessage]:
    places = ([use["session_id"] for use in uses], [use["seq"] for use in uses], [use["at"] for use in uses])
    rows = await conn.fetch(MESSAGES, places[0], tenant_id, places[1], True, places[2]) if uses else []
    if not rows:
        return []
    stored = [tuple(row)[1:] for row in rows]
    messages = await showing.messages(conn, tenant_id, evidence, seen(rows[0][0]), stored, shown)
    retrieved = await showing.retrieved(conn, evidence, [row[5:8] for row in stored])
    own = [[one for one in documents if one.document_id == document_id] for documents in retrieved]
    # One that was redacted since its use was found stands on nothing any more.
    return [_used(message, documents) for message, documents in zip(messages, own, strict=True) if documents]


def _used(message: Message, documents: Iterable[Document]) -> UsedMessage:
    uses = [
        DocumentUse(one.chunk_id, one.version, _number(one.rank), _number(one.score), one.cited, one.in_prompt)
        for one in documents
    ]
    return UsedMessage(**message.members(), uses=uses)


def _number(value: float | None) -> Any:
    """As JSON: orjson itself writes no integer of more than 64 bits."""
    return value and orjson.Fragment(strict_json.dumps(value))


# After lock_session, in a statement of its own: a delete as one statement with its wait left 5,103 orphan uses.
REMOVE = """
WITH named AS (
    SELECT coalesce(e.document_ref, r.ref) AS document_ref, m.created_at, m.session_id, m.seq
    FROM chat_messages m CROSS JOIN unnest(m.context_refs) AS r(ref) LEFT JOIN evidence e ON e.id = r.ref
    WHERE m.session_id = :session_id AND m.seq BETWEEN :first AND :last
), gone AS (
    DELETE FROM evidence_uses u USING named n
    WHERE u.document_ref = n.document_ref AND u.at = n.created_at AND u.session_id = n.session_id AND u.seq = n.seq
    RETURNING u.document_ref, u.cited
)
SELECT document_ref, count(*) AS answers, count(*) FILTER (WHERE cited) AS cited,
       pg_current_xact_id()::text::bigint AS transaction
FROM gone GROUP BY document_ref
"""


async def remove(conn: Write, tenant_id: int, counts: Counts, session_id: UUID, first: int, last: int) -> None:
    """Remove the uses of the session's messages `first` to `last`; the session is locked."""
    rows = await conn.execute(text(REMOVE), {"session_id": session_id, "first": first, "last": last})
    counts.add(
        Added(tenant_id, row.document_ref, row.transaction, -row.answers, -row.cited, None) for row in rows.all()
    )
