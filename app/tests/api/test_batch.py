"""Batch append: up to 500 messages, all of them or none, one behind the other."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.telemetry import metrics
from app.tests.harness import KEY, Chat, Service, problem, settings

HELLO = {"sender": "user", "content": "hello"}


def path(session: dict[str, Any]) -> str:
    return f"/chat/sessions/{session['id']}/messages"


def some(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"sender": "user", "content": str(number), **fields} for number in range(count)]


def with_ids(count: int) -> list[dict[str, Any]]:
    return [{**message, "id": str(uuid4())} for message in some(count)]


async def batch(chat: Chat, session: dict[str, Any], messages: Any, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await chat.post(f"{path(session)}/batch", json={"messages": messages}, headers=sent)


async def nothing_was_stored(chat: Chat, session: dict[str, Any]) -> None:
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json() == session


async def test_a_batch_is_stored_in_its_order_behind_what_was_there(chat: Chat) -> None:
    session = await chat.create()
    await chat.append(session)
    response = await batch(chat, session, some(500))
    assert response.status_code == 201
    assert response.headers["etag"] == '"3"'
    assert "location" not in response.headers
    messages = response.json()["messages"]
    assert [(message["seq"], message["content"]) for message in messages] == [(n + 2, str(n)) for n in range(500)]
    assert {UUID(message["id"]).version for message in messages} == {7}
    page = await chat.messages(session, after=1, limit=100)
    assert page["messages"] == messages[:100]
    after = (await chat.get(f"/chat/sessions/{session['id']}")).json()
    assert (after["message_count"], after["revision"]) == (501, 3)


async def test_every_field_is_stored_as_an_append_stores_it(chat: Chat) -> None:
    one, many = await chat.create(), await chat.create()
    bodies: list[dict[str, Any]] = [
        {"sender": "assistant", "content": "", "context": [1, 2.5, {"é": None}], "metadata": {"a": 1e23}},
        {"role": "user", "content": "a\nb", "created_at": "2001-02-03T04:05:06.789+02:00"},
        {"sender": "x", "content": "y", "context": None, "metadata": None},
        {"sender": "x", "content": "y", "context": "text", "created_at": None, "id": str(uuid4())},
    ]
    stored = (await batch(chat, many, bodies)).json()["messages"]
    assert [warning["field"] for warning in stored[0].pop("context_warnings")] == [
        "/messages/0/context/0",
        "/messages/0/context/1",
    ]
    for body, message in zip(bodies, stored, strict=True):
        appended = (await chat.post(path(one), json=body)).json()
        appended.pop("context_warnings", None)
        differing = {"session_id", "id", "created_at"} - ({"created_at"} if body.get("created_at") else set())
        assert {**message, **{name: appended[name] for name in differing}} == appended
    assert (await chat.messages(many))["messages"] == stored


async def test_messages_without_a_time_of_their_own_share_one(chat: Chat) -> None:
    messages = (await batch(chat, await chat.create(), some(3))).json()["messages"]
    assert len({message["created_at"] for message in messages}) == 1


async def test_contexts_can_be_left_out_of_the_answer(chat: Chat) -> None:
    session = await chat.create()
    sent = {"messages": [{**HELLO, "context": {"a": 1}}]}
    answer = await chat.post(f"{path(session)}/batch?context=none", json=sent)
    assert answer.json()["messages"][0]["context"] is None
    assert (await chat.messages(session))["messages"][0]["context"] == {"a": 1}


@pytest.mark.parametrize("way", ["id", "key"])
async def test_a_repeated_batch_finds_its_messages(chat: Chat, way: str) -> None:
    session = await chat.create()
    messages, headers = (with_ids(3), {}) if way == "id" else (some(3), {"idempotency_key": str(uuid4())})
    first = await batch(chat, session, messages, **headers)
    await chat.append(session)
    again = await batch(chat, session, messages, **headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["etag"] == '"3"'
    assert again.json() == first.json()
    assert (await chat.messages(session))["total"] == 4


async def test_a_repeat_in_another_order_answers_in_that_order(chat: Chat) -> None:
    session = await chat.create()
    messages = with_ids(4)
    await batch(chat, session, messages)
    again = await batch(chat, session, messages[::-1])
    assert again.status_code == 200
    assert [message["seq"] for message in again.json()["messages"]] == [4, 3, 2, 1]


async def test_a_key_gives_each_message_an_id_of_its_place(chat: Chat) -> None:
    session = await chat.create()
    key = str(uuid4())
    same = [HELLO, HELLO]
    first = (await batch(chat, session, same, idempotency_key=key)).json()["messages"]
    assert len({message["id"] for message in first}) == 2
    assert {UUID(message["id"]).version for message in first} == {5}
    single = await chat.post(path(session), json=HELLO, headers={"Idempotency-Key": key})
    assert single.status_code == 201  # another call: its key stands for one message


async def test_an_id_wins_over_the_key(chat: Chat) -> None:
    session = await chat.create()
    messages = [HELLO, {**HELLO, "id": str(uuid4())}]
    stored = (await batch(chat, session, messages, idempotency_key="k")).json()["messages"]
    assert stored[1]["id"] == messages[1]["id"]
    assert (await batch(chat, session, messages, idempotency_key="k")).status_code == 200


async def test_a_batch_of_which_some_are_stored_names_them_and_stores_nothing(chat: Chat) -> None:
    session = await chat.create()
    first, second, third, fourth, fifth = with_ids(5)
    assert (await batch(chat, session, [first, second, third])).status_code == 201
    state = (await chat.get(f"/chat/sessions/{session['id']}")).json()
    for _ in range(2):
        response = await batch(chat, session, [second, third, fourth, fifth])
        assert problem(response, 409, "idempotency_conflict")["known"] == [second["id"], third["id"]]
    response = await batch(chat, session, [third, {**HELLO, "id": second["id"]}])
    assert problem(response, 409, "idempotency_conflict")["known"] == [third["id"], second["id"]]
    await nothing_was_stored(chat, state)
    assert (await batch(chat, session, [fourth, fifth])).status_code == 201
    response = await batch(chat, session, [{**fifth, "content": "other"}, *with_ids(1)])  # C29, the third
    assert problem(response, 409, "idempotency_conflict")["known"] == [fifth["id"]]
    assert (await chat.messages(session))["total"] == 5


async def test_a_message_appended_alone_is_known_to_a_batch(chat: Chat) -> None:
    session = await chat.create()
    [message] = with_ids(1)
    await chat.append(session, **message)
    assert (await batch(chat, session, [message])).status_code == 200
    response = await batch(chat, session, [{**message, "content": "other"}])
    assert problem(response, 409, "idempotency_conflict")["known"] == [message["id"]]
    response = await chat.post(path(session), json={**message, "content": "other"})
    assert problem(response, 409, "idempotency_conflict")["known"] == [message["id"]]


@pytest.fixture(scope="module")
async def small(database_url: str) -> AsyncIterator[Chat]:
    """A service whose limits a test can reach: bodies of 1 kB, batches of 4 kB, 5 kB held in all."""
    limits = {"max_body_bytes": 1_000, "max_batch_body_bytes": 4_000, "max_held_body_bytes": 5_000}
    async with (
        Service.running(settings(database_url=database_url, **limits)) as service,
        Chat(service.url, KEY) as chat,
    ):
        yield chat


async def test_a_batch_has_a_body_limit_of_its_own(small: Chat) -> None:
    session = await small.create()
    problem(await small.post(path(session), json={**HELLO, "content": "x" * 2_000}), 413, "body_too_large")
    assert (await batch(small, session, [{**HELLO, "content": "x" * 2_000}])).status_code == 201
    problem(await batch(small, session, [{**HELLO, "content": "x" * 4_000}]), 413, "body_too_large")


async def test_bodies_that_would_not_fit_together_are_shed(small: Chat) -> None:
    session = await small.create()

    async def slowly(size: int, sent: Any) -> AsyncIterator[bytes]:
        yield b'{"messages":[{"sender":"user","content":"'
        yield b"x" * size
        sent.append(await batch(small, session, [{**HELLO, "content": "y" * 2_000}]))
        yield b'"}]}'

    refused: list[httpx.Response] = []
    headers = {"Content-Type": "application/json"}
    held = await small.post(f"{path(session)}/batch", content=slowly(3_500, refused), headers=headers)
    assert held.status_code == 201
    assert problem(refused[0], 503, "overloaded")
    assert refused[0].headers["retry-after"]
    assert (await batch(small, session, [{**HELLO, "content": "y" * 2_000}])).status_code == 201


async def test_every_message_of_a_batch_is_counted(chat: Chat) -> None:
    def appended() -> float:
        return float(metrics.appended._value.get())  # noqa: SLF001 - what a scrape reads

    before = appended()
    session = await chat.create()
    messages = with_ids(7)
    await batch(chat, session, messages)
    await batch(chat, session, messages)
    assert appended() == before + 7


async def test_a_batch_for_another_users_session_is_a_404(chat: Chat, stranger: Chat) -> None:
    session = await chat.create(user_id="ada")
    problem(await batch(chat, session, [HELLO], x_user_id="bob"), 404, "not_found")
    problem(await batch(stranger, session, [HELLO]), 404, "not_found")
    assert (await batch(chat, session, [HELLO], x_user_id="ada")).status_code == 201
