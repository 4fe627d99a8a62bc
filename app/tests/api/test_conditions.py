"""ETag and If-Match: a write that demands a revision, and when nobody asks for it."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.tests.harness import Chat, problem

WRITES = ["append", "batch", "put", "redact", "rewind", "delete"]
HELLO = {"sender": "user", "content": "hello"}


async def write(chat: Chat, kind: str, session: dict[str, Any], **headers: str) -> httpx.Response:
    """A write that changes something, with If-Match as `if_match`."""
    path = f"/chat/sessions/{session['id']}"
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if kind == "append":
        return await chat.post(f"{path}/messages", json=HELLO, headers=sent)
    if kind == "batch":
        return await chat.post(f"{path}/messages/batch", json={"messages": [HELLO, HELLO]}, headers=sent)
    if kind == "put":
        return await chat.put(path, json={"name": "changed"}, headers=sent)
    if kind == "redact":
        messages = (await chat.get(f"{path}/messages")).json().get("messages") or [{"id": uuid4()}]
        return await chat.delete(f"{path}/messages/{messages[0]['id']}", headers=sent)
    if kind == "rewind":
        return await chat.delete(f"{path}/messages?after=0", headers=sent)
    return await chat.delete(path, headers=sent)


async def state(chat: Chat, session: dict[str, Any]) -> dict[str, Any]:
    return dict((await chat.get(f"/chat/sessions/{session['id']}")).json())


async def test_every_answer_about_a_session_carries_its_revision(chat: Chat) -> None:
    created = await chat.post("/chat/sessions", json={"name": "Leave"})
    at = created.headers["location"]
    answers = [
        created,
        await chat.post(f"{at}/messages", json=HELLO),
        await chat.put(at, json={"name": "Other"}),
        await chat.put(at, json={"name": "Other"}),
        await chat.get(at),
        await chat.get(f"{at}/messages"),
        *[
            await chat.get(f"{at}/messages?{query}")
            for query in ("order=desc&page=9", "after=0", "before=9", "limit=1")
        ],
    ]
    tags = [answer.headers["etag"] for answer in answers]
    assert tags == ['"1"', '"2"'] + ['"3"'] * 8


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("tag", ['"2"', 'W/"2"', "*"])
async def test_a_write_with_the_right_revision_happens(chat: Chat, kind: str, tag: str) -> None:
    session = await chat.create()
    await chat.append(session)
    assert (await write(chat, kind, session, if_match=tag)).is_success
    if kind == "delete":
        problem(await chat.get(f"/chat/sessions/{session['id']}"), 404, "not_found")
    else:
        assert (await state(chat, session))["revision"] == 3


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize(
    "tag", ['"1"', 'W/"1"', '"3"', '"02"', '"2!"', '"*"', '""', '"two"', '"2.0"', f'"{2**64 + 2}"', f'"{"9" * 500}"']
)
async def test_a_write_with_any_other_tag_changes_nothing(chat: Chat, kind: str, tag: str) -> None:
    session = await chat.create()
    await chat.append(session)
    before = await state(chat, session)
    found = problem(await write(chat, kind, session, if_match=tag), 412, "revision_mismatch")
    assert found["revision"] == 2
    assert await state(chat, session) == before
    assert (await chat.messages(session))["total"] == 1


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("text", ["1", "", '"1', '1"', '"1", "2"', '"1","1"', "W/1", '*, "1"', "**", '"1" x'])
async def test_lists_and_unquoted_text_are_no_tag(chat: Chat, kind: str, text: str) -> None:
    session = await chat.create()
    problem(await write(chat, kind, session, if_match=text), 400, "invalid_header", "If-Match")
    assert await state(chat, session) == session


async def test_two_conditions_are_a_list_too(chat: Chat) -> None:
    session = await chat.create()
    twice = [("If-Match", '"1"'), ("If-Match", '"1"')]
    response = await chat.put(f"/chat/sessions/{session['id']}", json={"name": "x"}, headers=twice)
    problem(response, 400, "invalid_header", "If-Match")


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("tag", ['"1"', "*"])
async def test_what_is_not_there_is_a_404_and_no_mismatch(chat: Chat, kind: str, tag: str) -> None:
    problem(await write(chat, kind, {"id": str(uuid4())}, if_match=tag), 404, "not_found")


@pytest.mark.parametrize("kind", WRITES)
async def test_a_stranger_learns_no_revision(chat: Chat, stranger: Chat, kind: str) -> None:
    session = await chat.create()
    problem(await write(stranger, kind, session, if_match='"9"'), 404, "not_found")


async def test_bad_input_is_told_before_the_condition(chat: Chat) -> None:
    session = await chat.create()
    path = f"/chat/sessions/{session['id']}"
    stale = {"If-Match": '"9"'}
    problem(await chat.put(path, json={"name": ""}, headers=stale), 422, "validation_error", "/name")
    problem(await chat.post(f"{path}/messages", json={}, headers=stale), 422, "validation_error", "/sender")


@pytest.mark.parametrize("way", ["id", "key"])
async def test_a_repeated_append_is_answered_although_its_condition_is_stale(chat: Chat, way: str) -> None:
    session = await chat.create()
    path = f"/chat/sessions/{session['id']}/messages"
    body = HELLO | ({"id": str(uuid4())} if way == "id" else {})
    headers = {"If-Match": '"1"'} | ({"Idempotency-Key": str(uuid4())} if way == "key" else {})
    first = await chat.post(path, json=body, headers=headers)
    assert (first.status_code, first.headers["etag"]) == (201, '"2"')
    again = await chat.post(path, json=body, headers=headers)
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), '"2"')
    other = await chat.post(path, json=body | {"content": "other"}, headers=headers)
    problem(other, 409, "idempotency_conflict")


async def test_a_repeated_batch_is_answered_although_its_condition_is_stale(chat: Chat) -> None:
    session = await chat.create()
    path = f"/chat/sessions/{session['id']}/messages/batch"
    headers = {"If-Match": '"1"', "Idempotency-Key": str(uuid4())}
    first, again = [await chat.post(path, json={"messages": [HELLO, HELLO]}, headers=headers) for _ in range(2)]
    assert (first.status_code, first.headers["etag"]) == (201, '"2"')
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), '"2"')


async def test_an_append_with_a_new_id_and_a_stale_condition_is_a_mismatch(chat: Chat) -> None:
    session = await chat.create()
    await chat.append(session)
    body = HELLO | {"id": str(uuid4())}
    path = f"/chat/sessions/{session['id']}/messages"
    problem(await chat.post(path, json=body, headers={"If-Match": '"1"'}), 412, "revision_mismatch")
    assert (await chat.post(path, json=body, headers={"If-Match": '"2"'})).status_code == 201


@pytest.mark.parametrize("body", [{}, {"name": "Leave"}, {"metadata": {"b": 1, "a": 2}, "is_favorite": True}], ids=repr)
async def test_an_equal_put_is_answered_although_its_condition_is_stale(chat: Chat, body: dict[str, Any]) -> None:
    session = await chat.create(name="Leave", is_favorite=True, metadata={"a": 2, "b": 1})
    response = await chat.put(f"/chat/sessions/{session['id']}", json=body, headers={"If-Match": '"9"'})
    assert (response.status_code, response.json(), response.headers["etag"]) == (200, session, '"1"')


async def test_a_retried_conditional_put_is_a_200(chat: Chat) -> None:
    session = await chat.create()
    first, again = [await write(chat, "put", session, if_match='"1"') for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert first.json()["revision"] == 2


async def test_a_read_asks_for_no_condition(chat: Chat) -> None:
    session = await chat.create()
    assert (await chat.get(f"/chat/sessions/{session['id']}", headers={"If-Match": '"9"'})).json() == session
