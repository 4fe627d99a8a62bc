"""What the fault suite asks of evidence can tell: each kind of damage is noticed."""

import copy
import random
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from app.db import dsn
from app.tests.faults import evidence
from app.tests.faults.stand import over_http, over_sql
from app.tests.harness import Chat

DAMAGE = {
    "a redacted message that keeps": "UPDATE chat_messages SET redacted_at = now() WHERE session_id = $1 AND seq = 1",
    "a message without its use": "DELETE FROM evidence_uses WHERE session_id = $1 AND seq = 1",
    "one too many": "INSERT INTO evidence_uses SELECT * FROM evidence_uses WHERE session_id = $1 AND seq = 1",
    "a use without its message": "DELETE FROM chat_messages WHERE session_id = $1 AND seq = 2",
    "names a text that is gone": """
        DELETE FROM evidence
        WHERE id IN (SELECT unnest(context_refs) FROM chat_messages WHERE session_id = $1 AND seq = 2)
    """,
}


@pytest.mark.parametrize("sentence", DAMAGE)
async def test_a_database_whose_messages_and_uses_differ_is_noticed(
    chat: Chat, database_url: str, sentence: str
) -> None:
    session = await chat.create()
    chance = random.Random(1)  # noqa: S311 - the same each time
    sent = [evidence.context(chance, own) for own in ("one", "two")]
    for context in sent:
        await chat.append(session, context=context)
    connection = await asyncpg.connect(**dsn.parse(database_url).arguments)
    try:
        assert [row["context"] for row in (await over_sql(connection, session["id"])).messages] == sent
        assert await evidence.faults(connection, [session["id"]]) == []
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(DAMAGE[sentence], session["id"])
        found = await evidence.faults(connection, [session["id"]])
        await transaction.rollback()
    finally:
        await connection.close()
    assert [one for one in found if sentence in one], found


Told = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda told: told.pop(), "is listed 0 times"),
        (lambda told: told.append(told[-1]), "is listed 2 times"),
        (lambda told: told.append({**told[-1], "id": "other"}), "other is listed 1 times"),
        (lambda told: told.reverse(), "newest first"),
        (lambda told: told[0]["uses"][0].update(rank=9), "is not as in its session"),
        (lambda told: told[0].update(context=None), "is not as in its session"),
    ],
)
async def test_answers_that_are_told_wrongly_are_noticed(
    chat: Chat, damage: Callable[[Told], object], sentence: str
) -> None:
    session = await chat.create()
    for own in ("one", "two", "three"):
        await chat.append(session, context=evidence.context(random.Random(own), own))  # noqa: S311
    name = evidence.SHARED[1]
    messages = (await over_http(chat, session["id"])).messages
    assert await evidence.unlisted(chat, [name], messages) == []
    told = copy.deepcopy(await evidence.answers(chat, name))
    assert len(told) > 1
    damage(told)
    [found] = evidence.differences(name, told, messages)
    assert sentence in found
