"""Redact and rewind: one message's words go and its place stays, or a tail of the conversation goes."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.db.pool import Database
from app.tests.harness import Chat, problem

SECRET = "the words that must go"


def path(session: dict[str, Any]) -> str:
    return f"/chat/sessions/{session['id']}/messages"


async def conversation(chat: Chat, count: int, **fields: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A session with `count` messages, and the messages."""
    session = await chat.create(**fields)
    secret = {"context": {"text": SECRET}, "metadata": {"note": SECRET}}
    messages = [
        {"sender": "user", "content": f"{SECRET} {number}", "id": str(uuid4()), **secret} for number in range(count)
    ]
    stored = await chat.post(f"{path(session)}/batch", json={"messages": messages})
    return session, stored.json()["messages"]


async def state(chat: Chat, session: dict[str, Any]) -> tuple[int, int]:
    now = (await chat.get(f"/chat/sessions/{session['id']}")).json()
    return now["message_count"], now["revision"]


def as_sent(message: dict[str, Any]) -> dict[str, Any]:
    return {name: message[name] for name in ("id", "sender", "content", "context", "metadata")}


async def test_a_redacted_message_keeps_its_place_and_says_nothing(chat: Chat, db: Database) -> None:
    session, (first, second, third) = await conversation(chat, 3)
    response = await chat.delete(f"{path(session)}/{second['id']}")
    assert (response.status_code, response.content, response.headers["etag"]) == (204, b"", '"3"')
    tombstone = (await chat.get(f"{path(session)}/{second['id']}")).json()
    gone = {"content": "", "context": None, "metadata": {}, "redacted_at": tombstone["redacted_at"]}
    assert tombstone == {**second, **gone}
    assert tombstone["redacted_at"] >= second["created_at"]
    assert (await chat.messages(session))["messages"] == [first, tombstone, third]
    assert await state(chat, session) == (3, 3)
    async with db.driver() as conn:
        row = await conn.fetchval("SELECT m::text FROM chat_messages m WHERE id = $1", second["id"])
    assert SECRET not in row


async def test_a_session_that_was_redacted_moves_to_the_front(chat: Chat) -> None:
    (session, [message]), (other, _) = await conversation(chat, 1), await conversation(chat, 1)
    await chat.delete(f"{path(session)}/{message['id']}")
    assert [found["id"] for found in (await chat.sessions())["sessions"]] == [session["id"], other["id"]]


async def test_a_repeated_redaction_changes_nothing(chat: Chat) -> None:
    session, [message] = await conversation(chat, 1)
    await chat.delete(f"{path(session)}/{message['id']}")
    before = (await chat.messages(session))["messages"]
    again = await chat.delete(f"{path(session)}/{message['id']}", headers={"If-Match": '"1"'})
    assert (again.status_code, again.headers["etag"]) == (204, '"3"')
    assert (await chat.messages(session))["messages"] == before


@pytest.mark.parametrize("content", [SECRET, "something else"])
async def test_an_append_that_is_repeated_after_its_redaction_gets_the_tombstone(chat: Chat, content: str) -> None:
    session, [message] = await conversation(chat, 1)  # C31 a
    await chat.delete(f"{path(session)}/{message['id']}")
    tombstone = (await chat.get(f"{path(session)}/{message['id']}")).json()
    again = await chat.post(path(session), json={**as_sent(message), "content": content})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json() == tombstone
    batch = await chat.post(f"{path(session)}/batch", json={"messages": [as_sent(message)]})
    assert (batch.status_code, batch.json()["messages"]) == (200, [tombstone])
    assert await state(chat, session) == (1, 3)


async def test_a_rewind_removes_what_is_behind_and_the_next_message_continues_there(chat: Chat) -> None:
    session, messages = await conversation(chat, 5)
    response = await chat.delete(path(session), params={"after": 2})
    assert response.status_code == 200
    assert response.json() == {"deleted": 3, "message_count": 2, "revision": 3}
    assert response.headers["etag"] == '"3"'
    assert (await chat.messages(session))["messages"] == messages[:2]
    problem(await chat.get(f"{path(session)}/{messages[2]['id']}"), 404, "not_found")
    assert (await chat.append(session, "anew"))["seq"] == 3


@pytest.mark.parametrize("after", ["5", "6", "2147483648", "9" * 30])
async def test_a_rewind_that_finds_nothing_changes_nothing(chat: Chat, after: str) -> None:
    session, _ = await conversation(chat, 5)
    before = (await chat.get(f"/chat/sessions/{session['id']}")).json()
    response = await chat.delete(path(session), params={"after": after}, headers={"If-Match": '"1"'})
    assert response.json() == {"deleted": 0, "message_count": 5, "revision": 2}
    assert response.headers["etag"] == '"2"'
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json() == before


async def test_a_rewind_to_nothing_removes_all(chat: Chat) -> None:
    session, messages = await conversation(chat, 3)
    await chat.delete(f"{path(session)}/{messages[0]['id']}")
    assert (await chat.delete(path(session), params={"after": 0})).json()["deleted"] == 3
    assert (await chat.messages(session))["messages"] == []
    again = await chat.delete(path(session), params={"after": 0})
    assert again.json() == {"deleted": 0, "message_count": 0, "revision": 4}


async def test_ids_are_free_again_after_a_rewind(chat: Chat) -> None:
    session, messages = await conversation(chat, 3)  # C31 b
    await chat.delete(path(session), params={"after": 1})
    again = await chat.post(path(session), json=as_sent(messages[2]))
    assert (again.status_code, again.json()["seq"]) == (201, 2)
    known = {"messages": [as_sent(messages[1]), as_sent(messages[2])]}
    conflict = problem(await chat.post(f"{path(session)}/batch", json=known), 409, "idempotency_conflict")
    assert conflict["known"] == [messages[2]["id"]]


async def test_ids_are_free_again_after_a_delete(chat: Chat) -> None:
    session, [message] = await conversation(chat, 1, id=str(uuid4()))  # C31 c
    assert (await chat.delete(f"/chat/sessions/{session['id']}")).status_code == 204
    assert (await chat.post("/chat/sessions", json={"id": session["id"]})).status_code == 201
    assert (await chat.messages(session))["messages"] == []
    assert (await chat.post(path(session), json=as_sent(message))).status_code == 201


@pytest.mark.parametrize(
    ("query", "field"),
    [("", "after"), ("after=-1", "after"), ("after=", "after"), ("after=x", "after"), ("after=1&before=3", "before")],
)
async def test_a_rewind_must_say_where(chat: Chat, query: str, field: str) -> None:
    session, _ = await conversation(chat, 2)
    problem(await chat.delete(f"{path(session)}?{query}"), 422, "validation_error", field)
    assert await state(chat, session) == (2, 2)


Removal = Callable[[Chat, dict[str, Any], dict[str, str]], Awaitable[httpx.Response]]


async def redact(chat: Chat, message: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    return await chat.delete(f"/chat/sessions/{message['session_id']}/messages/{message['id']}", headers=headers)


async def rewind(chat: Chat, message: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    return await chat.delete(f"/chat/sessions/{message['session_id']}/messages?after=0", headers=headers)


@pytest.mark.parametrize("remove", [redact, rewind])
async def test_a_stranger_removes_nothing(chat: Chat, stranger: Chat, remove: Removal) -> None:
    session, [message] = await conversation(chat, 1, user_id="ada")
    problem(await remove(stranger, message, {}), 404, "not_found")
    problem(await remove(chat, message, {"X-User-Id": "bob"}), 404, "not_found")
    problem(await remove(chat, {**message, "session_id": uuid4()}, {}), 404, "not_found")
    assert (await chat.messages(session))["messages"] == [message]
    assert (await remove(chat, message, {"X-User-Id": "ada"})).is_success


async def test_a_message_of_another_session_is_not_redacted(chat: Chat) -> None:
    (session, [message]), (other, _) = await conversation(chat, 1), await conversation(chat, 1)
    for id_ in (message["id"], uuid4()):
        problem(await redact(chat, {"session_id": other["id"], "id": id_}, {}), 404, "not_found")
    assert (await chat.messages(session))["messages"] == [message]
    assert await state(chat, other) == (1, 2)
