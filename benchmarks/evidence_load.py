"""Many messages into a database, as rows of the shape that the service writes, by COPY; and what they take there."""

import hashlib
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
from evidence_variants import PLAIN, ROWS, SERVICE, TUNED, use
from evidence_workload import SESSION, USERS, Sent, Workload

sys.path.insert(0, str(Path(__file__).parents[1]))
from app import evidence, ids, strict_json
from app.store.evidence import Evidence
from app.store.placing import place
from app.store.rows import Seen

TENANT = 1
BATCH = 5_000

_SESSION = ("id", "tenant_id", "user_id", "is_favorite", "metadata", "message_count", "revision")
_MESSAGE = ("session_id", "seq", "id", "sender", "content", "metadata", "created_at", "fingerprint")
_CONTEXT = {
    SERVICE: ("context", "context_form", "context_refs"),
    PLAIN: ("context",),
    TUNED: ("context",),
    ROWS: ("context",),
}
_USE = ("document_ref", "at", "session_id", "seq", "cited")
_DOCUMENT = (
    *("session_id", "seq", "tenant_id", "at", "place"),
    *("document_id", "chunk_id", "version", "rank", "score", "in_prompt", "cited"),
)

# As a full count of the service writes it.
_COUNT = """
UPDATE documents d SET answers = u.answers, cited = u.cited, first_used = u.first, last_used = u.last
FROM (
    SELECT document_ref, count(*) AS answers, count(*) FILTER (WHERE cited) AS cited, min(at) AS first, max(at) AS last
    FROM evidence_uses GROUP BY document_ref
) u WHERE d.ref = u.document_ref
"""

# The same rows again, later by all the time that they span, in the same order, under ids that sort behind.
_AGAIN = """
SET session_replication_role = replica;
CREATE FUNCTION pg_temp.other(id uuid, n int) RETURNS uuid IMMUTABLE
    RETURN overlay(id::text PLACING lpad(to_hex(n + 1), 2, '0') FROM 1 FOR 2)::uuid;
CREATE TEMP TABLE span AS SELECT max(created_at) - min(created_at) + interval '1 second' AS span FROM chat_messages;
CREATE TEMP TABLE sessions AS SELECT * FROM chat_sessions;
CREATE TEMP TABLE messages AS SELECT * FROM chat_messages;
CREATE TEMP TABLE uses AS SELECT * FROM evidence_uses;
"""
_COPY = """
INSERT INTO chat_sessions (id, tenant_id, user_id, is_favorite, metadata, message_count, revision)
SELECT pg_temp.other(id, {n}), tenant_id, user_id, is_favorite, metadata, message_count, revision FROM sessions;
INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata, created_at, fingerprint, context_form,
                           context_refs)
SELECT pg_temp.other(session_id, {n}), seq, pg_temp.other(id, {n}), sender, content, metadata, created_at + {n} * span,
       fingerprint, context_form, context_refs FROM messages, span;
INSERT INTO evidence_uses
SELECT document_ref, at + {n} * span, pg_temp.other(session_id, {n}), seq, cited FROM uses, span;
"""

SIZES = """
SELECT relname, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version' ORDER BY relname
"""


class Loader:
    """One variant's tables in one database."""

    def __init__(self, variant: str, conn: asyncpg.Connection) -> None:
        self._variant = variant
        self._conn = conn
        self._evidence = Evidence(3_600)

    async def write(self, batch: list[Sent], contexts: list[evidence.Context | None]) -> None:
        """Store a batch of messages with what is understood of their contexts."""
        begun = [one.session_id for one in batch if one.seq == 1]
        sessions = [(one, TENANT, f"user-{one.int % USERS}", False, "{}", SESSION, SESSION + 1) for one in begun]
        await self._copy("chat_sessions", _SESSION, sessions)
        stored, uses = await self._placed(batch, contexts)
        rows = [(*_message(one), *columns) for one, columns in zip(batch, stored, strict=True)]
        await self._copy("chat_messages", (*_MESSAGE, *_CONTEXT[self._variant]), rows)
        if self._variant == SERVICE:
            await self._copy("evidence_uses", _USE, uses)
        elif self._variant == ROWS:
            await self._copy("message_documents", _DOCUMENT, uses)

    async def multiply(self, times: int) -> None:
        """Hold so many times as many messages of the service: a copy costs less than making them."""
        await self._conn.execute(_AGAIN, timeout=600)
        for n in range(1, times):
            await self._conn.execute(_COPY.format(n=n), timeout=600)

    async def finish(self) -> None:
        if self._variant == SERVICE:
            await self._conn.execute(_COUNT)
        await self._conn.execute("VACUUM ANALYZE", timeout=600)

    async def close(self) -> None:
        await self._conn.close()

    async def _placed(
        self, batch: list[Sent], contexts: list[evidence.Context | None]
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """The context columns of each message, and the rows for the reverse question."""
        if self._variant != SERVICE:
            uses = [
                (one.session_id, one.seq, TENANT, one.at, place, *use(document))
                for one, context in zip(batch, contexts, strict=True)
                for place, document in enumerate(context.documents if context else (), start=1)
            ]
            return [(context and context.text,) for context in contexts], uses
        server = await self._conn.fetchval("SELECT pg_postmaster_start_time()")
        await self._evidence.hear(self._conn, TENANT, Seen(0, server))  # else it would remember no text
        placed = await place(self._conn, TENANT, self._evidence, contexts, anew=False)
        uses = [
            (ref, one.at, one.session_id, one.seq, cited)
            for one, where in zip(batch, placed, strict=True)
            for ref, cited in where.cited.items()
        ]
        return [(where.context, where.form, where.refs) for where in placed], uses

    async def _copy(self, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        await self._conn.copy_records_to_table(table, columns=columns, records=rows, timeout=600)


def _message(one: Sent) -> tuple[Any, ...]:
    body = one.body
    metadata = strict_json.dumps(body.get("metadata", {}))
    fingerprint = hashlib.sha256(body["content"].encode()).digest()[:16]
    return one.session_id, one.seq, ids.new(), body["sender"], body["content"], metadata, one.at, fingerprint


async def load(workload: Workload, messages: int, loaders: Sequence[Loader], times: int = 1) -> None:
    """The same messages in the same order for each loader, and all of them so many times."""
    sent = workload.load(messages)
    while batch := list(islice(sent, BATCH)):
        values = [one.body.get("context") for one in batch]
        contexts = [value and evidence.understand(value, strict_json.dumps(value)) for value in values]
        for loader in loaders:
            await loader.write(batch, contexts)
    for loader in loaders:
        if times > 1:
            await loader.multiply(times)
        await loader.finish()
