"""Servers of the release before evidence on the same tables: what they remove is gone for this release too."""

import asyncio

from app.store import backfill
from app.tests.harness import Chat, Service, problem
from app.tests.process import DEADLINE

REDACT_OF_THE_RELEASE_BEFORE = """
UPDATE chat_messages
SET content = '', context = NULL, metadata = '{}', redacted_at = now(), fingerprint = NULL
WHERE session_id = $1 AND id = $2
"""

REMAINS = """
SELECT context_form IS NOT NULL OR context_refs IS NOT NULL
    OR EXISTS (SELECT FROM evidence_uses WHERE session_id = $1 AND seq = m.seq)
FROM chat_messages m WHERE session_id = $1 AND id = $2
"""


async def test_an_answer_that_an_old_server_redacted_shows_no_evidence_and_loses_it(
    service: Service, chat: Chat
) -> None:
    session = await chat.create()
    context = {"query": "secret?", "documents": [{"document_id": "hr/secret.md", "text": "secret"}]}
    one = (session["id"], (await chat.append(session, context=context))["id"])
    async with service.db.driver() as conn:
        await conn.execute(REDACT_OF_THE_RELEASE_BEFORE, *one)

    path = f"/chat/sessions/{session['id']}/messages"
    for answer in (await chat.get(path), await chat.get(f"{path}/{one[1]}"), await chat.get(f"{path}?context=refs")):
        assert answer.status_code == 200
        assert "secret" not in answer.text
    found = await chat.get("/chat/documents/messages?document_id=hr/secret.md")
    assert found.json()["messages"] == []

    async with service.db.driver() as conn, asyncio.timeout(DEADLINE):
        await conn.execute("UPDATE jobs SET next_at = now() WHERE name = 'backfill'")
        while await conn.fetchval(REMAINS, *one):
            await backfill.batch(service.db, service.state.evidence)
    problem(await chat.get("/chat/documents/messages?document_id=hr/secret.md"), 404, "not_found")
