"""The columns that a statement reads of each table, and the noun they make. JSON stays text all the way."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from app import times
from app.models import Message, Session
from app.store.marks import Verdict

SESSION = "id, user_id, name, is_favorite, metadata::text, message_count, revision, created_at, updated_at"

CONTEXT = """CASE WHEN $4::boolean OR m.context_refs IS NULL OR 0 > ANY (m.context_refs) THEN m.context::text END,
       CASE WHEN m.redacted_at IS NULL THEN m.context_refs END,
       CASE WHEN m.redacted_at IS NULL AND ($4::boolean OR 0 > ANY (m.context_refs)) THEN m.context_form::text END"""
"""Of `chat_messages m`; $4 says whether contexts are wanted. One that names sources itself is read in any case.

A server of the release before evidence redacts a message and leaves its form, until backfill.py removes that.
"""

MESSAGE = (
    f"""m.id, m.session_id, m.seq, m.sender, m.content, {CONTEXT}, m.metadata::text, m.created_at, m.redacted_at"""
)

DURABLE = "set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)"
"""A column of a statement that a process remembers the outcome of: its commit waits for the disk, whatever the default.

With `synchronous_commit = off` a crash of PostgreSQL would take back what this process still believes to be stored,
and give its ids to other texts.
"""

SEEN = """(SELECT marks || ' ' || (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
           FROM tenants WHERE id = $2) AS seen"""
"""A column for `seen`. One text, because every row of a page has it: as two numbers they were a tenth of reading it."""


class Seen(NamedTuple):
    """What a statement saw: how many marks the tenant has made, and which server it was, by its start.

    After a failover what a process knows may be of another server, and an id stand for something else there.
    """

    marks: int
    server: datetime


@lru_cache(64)
def seen(text: str) -> Seen:
    """What the column SEEN says."""
    marks, microseconds = map(int, text.split())
    return Seen(marks, _EPOCH + timedelta(microseconds=microseconds))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_session(row: Iterable[Any]) -> Session:
    id_, user_id, name, is_favorite, metadata, message_count, revision, created_at, updated_at = row
    return Session(
        str(id_),  # of asyncpg's own kind, which orjson does not write
        user_id,
        name,
        is_favorite,
        orjson.Fragment(metadata),
        message_count,
        revision,
        times.render(created_at),
        times.render(updated_at),
    )


def to_message(row: Iterable[Any], context: Any, verdict: Verdict) -> Message:
    id_, session_id, seq, sender, content, _, _, _, metadata, created_at, redacted_at = row
    return Message(
        str(id_),
        str(session_id),
        seq,
        sender,
        content,
        context,
        orjson.Fragment(metadata),
        times.render(created_at),
        redacted_at and times.render(redacted_at),
        *verdict,
    )


def array(values: Iterable[int]) -> str:
    """As PostgreSQL writes an array: asyncpg asks of each member of a list whether it is one, and wants them alike."""
    return "{" + ",".join(map(str, values)) + "}"
