"""The ways to store a context that are compared: this service as it is, and three others in its place.

Each is this service, its routes, checks and answers; the others have another `context` column, another statement for
the append and another one for the page, and understand nothing of a context that they do not need.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

sys.path.insert(0, str(Path(__file__).parents[1]))
from app import evidence
from app.db.pool import Driver
from app.evidence import Context, Steps
from app.models import Message, MessageDraft
from app.settings import Settings
from app.store import append as appending
from app.store import evidence as stored
from app.store import messages, showing
from app.store.evidence import Evidence
from app.store.marks import NO_EVIDENCE
from app.store.placing import Placed
from app.store.rows import Seen, to_message
from app.store.showing import Shown
from app.strict_json import JsonText

KEY = "benchmark"
POOL = 8  # connections, and requests at once
SERVICE, PLAIN, TUNED, ROWS = "service", "jsonb", "json", "jsonb + rows"
COLD = "service, cold"
"""The service as a process that remembers nothing of the evidence: the worst of a restart."""

_OTHER = """
ALTER TABLE chat_messages DROP COLUMN context, DROP COLUMN context_form, DROP COLUMN context_refs;
ALTER TABLE chat_messages ADD COLUMN context {type};
UPDATE jobs SET next_at = NULL;
"""
# The primary key is what a cascade needs as well.
_USES = """
CREATE TABLE message_documents (
    session_id uuid, seq integer, place integer, tenant_id integer NOT NULL, document_id text NOT NULL, chunk_id text,
    version text, rank double precision, score double precision, in_prompt boolean, cited boolean,
    at timestamptz NOT NULL, PRIMARY KEY (session_id, seq, place),
    FOREIGN KEY (session_id, seq) REFERENCES chat_messages ON DELETE CASCADE);
CREATE INDEX ON message_documents (tenant_id, document_id, at);
"""
TABLES = {
    SERVICE: "",
    PLAIN: _OTHER.format(type="jsonb"),
    TUNED: _OTHER.format(type="json"),
    ROWS: _OTHER.format(type="jsonb") + _USES,
}

# The service's own append and page, with another column.
_APPEND = appending.APPEND.replace("fingerprint)", "fingerprint, context)")
_USE = "document_id, chunk_id, version, rank, score, in_prompt, cited"
_KINDS = ("text", "text", "text", "float8", "float8", "boolean", "boolean")
APPENDS = {
    PLAIN: _APPEND.replace("$11 FROM s", "$11, $12::jsonb FROM s"),
    TUNED: _APPEND.replace("$11 FROM s", "$11, $12::json FROM s"),
}
APPENDS[ROWS] = (
    APPENDS[PLAIN]
    .replace("RETURNING seq, created_at\n)", "RETURNING session_id, seq, created_at\n), u AS (%s)")
    .replace(
        "%s",
        f"""INSERT INTO message_documents (session_id, seq, tenant_id, at, {_USE}, place)
        SELECT m.session_id, m.seq, $2, m.created_at, d.* FROM m CROSS JOIN
        unnest({", ".join(f"${13 + number}::{kind}[]" for number, kind in enumerate(_KINDS))}) WITH ORDINALITY AS d""",
    )
)
PAGE = """
SELECT s.message_count, s.revision, '0 0' AS seen, m.id, m.session_id, m.seq, m.sender, m.content,
       CASE WHEN $4::boolean THEN m.context::text END, NULL, NULL, m.metadata::text, m.created_at, m.redacted_at
FROM chat_sessions s LEFT JOIN chat_messages m ON m.session_id = s.id
    AND m.seq BETWEEN $5::bigint + 1 AND $5::bigint + $6::bigint
WHERE s.id = $1 AND s.tenant_id = $2 AND ($3::text IS NULL OR s.user_id = $3)
ORDER BY m.seq
"""


def use(document: evidence.Document) -> tuple[Any, ...]:
    return tuple(getattr(document, name) for name in _USE.split(", "))


def become(variant: str) -> None:
    """Put this variant's statements in the place of the service's, and nothing else."""
    if variant == SERVICE:
        return
    if variant == COLD:
        vars(stored)["MOST_KNOWN"] = vars(stored)["MOST_BYTES"] = 0
        return

    def understand(value: Any, text: JsonText, _: Steps = ()) -> Context:
        return Context(value, text, evidence.read(value)[0] if variant == ROWS else [], [], {})

    def statement(drafts: Sequence[MessageDraft], _: Sequence[Placed]) -> tuple[str, Sequence[Any]]:
        [one] = drafts
        values = [one.id, one.sender, one.content, one.metadata, one.created_at, one.fingerprint]
        if one.context is None:
            return appending.APPEND, values
        values.append(one.context.text)
        if variant == ROWS:
            uses = [use(document) for document in one.context.documents if document.document_id]
            values += list(zip(*uses, strict=True)) or [[]] * len(_KINDS)
        return APPENDS[variant], values

    vars(evidence)["understand"] = understand
    vars(appending)["_statement"] = statement
    vars(messages)["FORWARD"] = PAGE
    vars(appending)["place"] = _place
    vars(showing)["messages"] = _messages


async def _place(_: Driver, __: int, ___: Evidence, contexts: Sequence[Context | None], *, anew: bool) -> list[Placed]:
    return [Placed() for _ in contexts] if not anew else []


async def _messages(_: Driver, __: int, ___: Evidence, ____: Seen, rows: Sequence[Any], _____: Shown) -> list[Message]:
    return [to_message(row, row[5] and orjson.Fragment(row[5]), NO_EVIDENCE) for row in rows]


def settings(database_url: str) -> Settings:
    chosen: dict[str, Any] = {
        "database_url": database_url,
        "api_key": (KEY,),
        "pool_size": POOL,
        "run_migrations": False,
    }
    quiet: dict[str, Any] = {"rate_limit": "", "log_file": None, "log_level": "WARNING"}
    return Settings(_env_file=None, _secrets_dir=None, **chosen, **quiet)
