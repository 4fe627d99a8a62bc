"""Evidence as the fault suite sends it, and whether a database holds just what its messages stand on.

Some documents are shared by many messages, so that their texts are stored once for all; some are a message's own.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from app import splitting
from app.db import dsn
from app.splitting import GONE, StoredDocument
from app.tests.faults import model_evidence
from app.tests.harness import Chat

Message = Mapping[str, Any]

SHARED = ("handbook/leave.md", "handbook/travel.md")
PAGE = 100

# What the messages' own columns say, beside the uses: each must be there once, and no other. $1: of these sessions,
# or of all where it is NULL. Ids of stored texts are positive, and references of documents negative.
FAULTS = """
WITH named AS (
    SELECT DISTINCT coalesce(e.document_ref, r.ref) AS ref, m.created_at AS at, m.session_id, m.seq
    FROM chat_messages m CROSS JOIN unnest(m.context_refs) AS r(ref) LEFT JOIN evidence e ON e.id = r.ref
    WHERE $1::uuid[] IS NULL OR m.session_id = ANY ($1)
), used AS (
    SELECT document_ref AS ref, at, session_id, seq FROM evidence_uses
    WHERE $1::uuid[] IS NULL OR session_id = ANY ($1)
)
SELECT 'a use without its message, or one too many: ' AS fault, f.* FROM (TABLE used EXCEPT ALL TABLE named) f
UNION ALL
SELECT 'a message without its use: ', f.* FROM (TABLE named EXCEPT ALL TABLE used) f WHERE ref < 0
UNION ALL
SELECT 'a message that names a text that is gone: ', n.* FROM named n WHERE ref > 0
UNION ALL
SELECT 'a redacted message that keeps evidence: ', NULL, created_at, session_id, seq FROM chat_messages
WHERE redacted_at IS NOT NULL AND num_nonnulls(context::text, context_form::text, context_refs) > 0
  AND ($1::uuid[] IS NULL OR session_id = ANY ($1))
LIMIT 20
"""

STORED = "SELECT id, document_ref, body::text FROM evidence WHERE id = ANY ($1)"


def context(rng: random.Random, own: str, shared: Sequence[str] = SHARED) -> dict[str, Any]:
    """A retrieved context with shared documents, one that nobody else has, and what cannot be told apart by an id."""
    documents = [
        {
            "document_id": name,
            "chunk_id": (chunk := f"{name}#{rng.randrange(2)}"),
            "version": "1",
            "text": f"{chunk} " * 40,
            "score": rng.random(),
            "rank": rank,
            "cited": rng.random() < 0.5,
            "in_prompt": True,
            "metadata": {"request": rng.randrange(3)},
        }
        for rank, name in enumerate(shared, start=1)
        if rng.random() < 0.8
    ]
    documents.append({"document_id": f"own/{own}", "text": f"{own} " * rng.randrange(1, 200), "score": 1})
    documents += rng.sample([{"text": "of nobody"}, {"document_id": shared[0]}, {"text": 7}], rng.randrange(3))
    return {"query": own, "documents": documents}


def uses(message: Message, document_id: str) -> list[dict[str, Any]]:
    """How the context of a message says that it used a document."""
    return [use for use in model_evidence.uses(message["context"]) if use.pop("document_id") == document_id]


async def answers(chat: Chat, document_id: str, **query: Any) -> list[dict[str, Any]]:
    """Every answer that stood on a document, as the service lists them; none where it knows no such document."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        asked = {"document_id": document_id, "limit": PAGE, **query, **cursor}
        response = await chat.get("/chat/documents/messages", params=asked)
        if response.status_code == 404:
            return found
        page = response.raise_for_status().json()
        found += page["messages"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def differences(document_id: str, told: Sequence[Message], messages: Iterable[Message]) -> list[str]:
    """A sentence for each of `messages` that is not listed once, as it is, among the answers told of a document."""
    expected = {(one["session_id"], one["id"]): one for one in messages if uses(one, document_id)}
    counts = Counter((one["session_id"], one["id"]) for one in told)
    found = [
        f"{document_id!r}: its answer {'/'.join(key)} is listed {counts[key]} times"
        for key in sorted(expected.keys() | counts.keys())
        if counts[key] != (key in expected)
    ]
    places = [(one["created_at"], one["session_id"], one["seq"]) for one in told]
    if places != sorted(places, reverse=True):
        found.append(f"{document_id!r}: its answers are not told newest first")
    for one in told:
        message = expected.get((one["session_id"], one["id"]))
        if message and one != {**message, "uses": uses(message, document_id)}:
            found.append(f"{document_id!r}: its answer {one['id']} is not as in its session")
    return found


async def unlisted(chat: Chat, document_ids: Iterable[str], messages: Sequence[Message]) -> list[str]:
    """The same asked of the service for each document: all answers, and those that cite it."""
    found: list[str] = []
    for name in document_ids:
        found += differences(name, await answers(chat, name), messages)
        citing = [one for one in messages if any(use["cited"] for use in uses(one, name))]
        found += differences(name, await answers(chat, name, cited="true"), citing)
    return found


async def faults(connection: asyncpg.Connection, sessions: Sequence[str] | None = None) -> list[str]:
    """A sentence for each use that is not what the messages of these, or of all, sessions stand on."""
    return [f"{row[0]}{tuple(row)[1:]}" for row in await connection.fetch(FAULTS, sessions)]


async def audit(url: str, sessions: Sequence[str] | None = None) -> list[str]:
    """The same of the database at `url`."""
    connection = await asyncpg.connect(**dsn.parse(url).arguments)
    try:
        return await faults(connection, sessions)
    finally:
        await connection.close()


async def restore(connection: asyncpg.Connection, row: dict[str, Any]) -> Any:
    """The context of a row with the columns `context`, `context_form` and `context_refs`."""
    if row["context_form"] is None:
        return row["context"] and json.loads(row["context"])
    stored = {one["id"]: StoredDocument.parse(*one) for one in await connection.fetch(STORED, row["context_refs"])}
    named = [stored.get(id_, GONE) for id_ in row["context_refs"]]
    return splitting.restore(json.loads(row["context_form"]), named)
