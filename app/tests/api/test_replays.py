"""Repeats: an `id` or an Idempotency-Key makes the second call an answer about the first."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.tests.harness import Chat, problem

MESSAGE = {"sender": "user", "content": "hello", "context": {"a": [1, 2.5]}, "metadata": {"x": 1, "y": {"z": None}}}
SESSION = {"user_id": "ada", "name": "Leave", "is_favorite": True, "metadata": {"x": 1, "y": {"z": None}}}
WAYS = ["id", "key"]


def once(way: str) -> tuple[dict[str, str], dict[str, str]]:
    """Fields and headers that make a call repeatable."""
    return ({"id": str(uuid4())}, {}) if way == "id" else ({}, {"Idempotency-Key": f"key-{uuid4()}"})


def path(session: dict[str, Any]) -> str:
    return f"/chat/sessions/{session['id']}/messages"


def replayed(response: httpx.Response, first: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert response.headers["idempotent-replayed"] == "true"
    assert response.json()["id"] == first.json()["id"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_repeated_create_finds_the_session(chat: Chat, way: str) -> None:
    fields, headers = once(way)
    first = await chat.post("/chat/sessions", json=SESSION | fields, headers=headers)
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    again = await chat.post("/chat/sessions", json=SESSION | fields, headers=headers)
    replayed(again, first)
    assert (again.json(), again.headers["etag"]) == (first.json(), '"1"')
    assert len((await chat.sessions())["sessions"]) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_repeated_append_finds_the_message(chat: Chat, way: str) -> None:
    session = await chat.create()
    fields, headers = once(way)
    first = await chat.post(path(session), json=MESSAGE | fields, headers=headers)
    await chat.append(session, "another one")
    state = (await chat.get(f"/chat/sessions/{session['id']}")).json()
    again = await chat.post(path(session), json=MESSAGE | fields, headers=headers)
    replayed(again, first)
    assert (again.json(), again.headers["etag"]) == (first.json(), '"3"')
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json() == state
    assert (await chat.messages(session))["total"] == 2


async def test_an_id_derived_from_a_key_is_of_version_5(chat: Chat) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    session = (await chat.post("/chat/sessions", json={}, headers=key)).json()
    message = (await chat.post(path(session), json=MESSAGE, headers=key)).json()
    assert (UUID(session["id"]).version, UUID(message["id"]).version) == (5, 5)
    assert session["id"] != message["id"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_repeat_answers_the_session_as_it_is_now(chat: Chat, way: str) -> None:
    fields, headers = once(way)
    first = await chat.post("/chat/sessions", json=SESSION | fields, headers=headers)
    at = first.headers["location"]
    renamed = (await chat.put(at, json={"name": "Other", "is_favorite": False, "metadata": None})).json()
    again = await chat.post("/chat/sessions", json=SESSION | fields, headers=headers)
    replayed(again, first)
    assert (again.json(), again.headers["etag"], again.headers["location"]) == (renamed, '"2"', at)


@pytest.mark.parametrize(
    "other",
    [
        {"content": "hallo"},
        {"sender": "assistant"},
        {"context": None},
        {"context": {"a": [1.0, 2.5]}},
        {"context": {"a": [2.5, 1]}},
        {"metadata": {"x": 1}},
        {"metadata": {"x": True, "y": {"z": None}}},
        {"metadata": {"x": 1, "y": {}}},
    ],
    ids=repr,
)
@pytest.mark.parametrize("way", WAYS)
async def test_an_append_of_other_content_is_a_conflict(chat: Chat, other: dict[str, Any], way: str) -> None:
    session = await chat.create()
    fields, headers = once(way)
    first = await chat.post(path(session), json=MESSAGE | fields, headers=headers)
    response = await chat.post(path(session), json=MESSAGE | fields | other, headers=headers)
    problem(response, 409, "idempotency_conflict")
    assert (await chat.messages(session))["messages"] == [first.json()]


@pytest.mark.parametrize(
    "other",
    [
        *({"name": "leave"}, {"name": None}, {"user_id": "bob"}, {"user_id": None}, {"is_favorite": False}),
        *({"metadata": {"x": 1.0, "y": {"z": None}}}, {"metadata": None}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("way", WAYS)
async def test_a_create_of_other_content_is_a_conflict(chat: Chat, other: dict[str, Any], way: str) -> None:
    fields, headers = once(way)
    first = await chat.post("/chat/sessions", json=SESSION | fields, headers=headers)
    response = await chat.post("/chat/sessions", json=SESSION | fields | other, headers=headers)
    problem(response, 409, "idempotency_conflict")
    assert (await chat.sessions())["sessions"] == [first.json()]


@pytest.mark.parametrize(
    "same",
    [
        {"metadata": {"y": {"z": None}, "x": 1}},
        {"role": "user"},
        {"created_at": "2001-01-01T00:00:00Z"},
        {"context": {"a": [1, 2.50]}},
    ],
    ids=repr,
)
async def test_an_append_that_says_the_same_in_other_words_is_a_repeat(chat: Chat, same: dict[str, Any]) -> None:
    session = await chat.create()
    fields, _ = once("id")
    first = await chat.post(path(session), json=MESSAGE | fields)
    again = await chat.post(path(session), json=MESSAGE | fields | same)
    replayed(again, first)
    assert again.json() == first.json()


@pytest.mark.parametrize(
    ("target", "bare", "defaults"),
    [
        ("session", {}, {"user_id": None, "name": None, "is_favorite": False, "metadata": {}}),
        ("message", {"sender": "user", "content": ""}, {"context": None, "metadata": None, "role": None}),
        ("message", {"sender": "user", "content": ""}, {"metadata": {}}),
    ],
)
async def test_defaults_add_nothing(chat: Chat, target: str, bare: dict[str, Any], defaults: dict[str, Any]) -> None:
    at = "/chat/sessions" if target == "session" else path(await chat.create())
    fields, _ = once("id")
    first = await chat.post(at, json=bare | fields)
    replayed(await chat.post(at, json=bare | fields | defaults), first)


async def test_an_id_in_upper_case_is_the_same_id(chat: Chat) -> None:
    id_ = str(uuid4())
    first = await chat.post("/chat/sessions", json={"id": id_})
    replayed(await chat.post("/chat/sessions", json={"id": id_.upper()}), first)
    message = await chat.post(path({"id": id_}), json=MESSAGE | {"id": id_.upper()})
    replayed(await chat.post(path({"id": id_.upper()}), json=MESSAGE | {"id": id_}), message)
    assert message.json()["id"] == id_


async def test_an_id_wins_over_a_key(chat: Chat) -> None:
    session = await chat.create()
    (fields, _), (_, headers) = once("id"), once("key")
    first = await chat.post(path(session), json=MESSAGE | fields, headers=headers)
    assert first.json()["id"] == fields["id"]
    assert (await chat.post(path(session), json=MESSAGE, headers=headers)).status_code == 201
    replayed(await chat.post(path(session), json=MESSAGE | fields, headers=headers), first)


@pytest.mark.parametrize("what", ["session", "message", "batch"])
async def test_a_broken_key_is_refused_beside_an_id_too(chat: Chat, what: str) -> None:
    session = await chat.create()
    fields, _ = once("id")
    at, body = {
        "session": ("/chat/sessions", fields),
        "message": (path(session), MESSAGE | fields),
        "batch": (f"{path(session)}/batch", {"messages": [MESSAGE | fields]}),
    }[what]
    broken = await chat.post(at, json=body, headers={"Idempotency-Key": "a b"})
    problem(broken, 400, "invalid_header", "Idempotency-Key")


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_is_repeated_within_its_session_only(chat: Chat, way: str) -> None:
    fields, headers = once(way)
    ids = set()
    for session in (await chat.create(), await chat.create()):
        first = await chat.post(path(session), json=MESSAGE | fields, headers=headers)
        assert first.status_code == 201
        replayed(await chat.post(path(session), json=MESSAGE | fields, headers=headers), first)
        ids.add(first.json()["id"])
    assert len(ids) == (1 if way == "id" else 2)


async def test_a_key_of_another_tenant_or_user_is_another_key(chat: Chat, stranger: Chat) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    answers = [
        await chat.post("/chat/sessions", json={}, headers=headers),
        await stranger.post("/chat/sessions", json={}, headers=headers),
        await chat.post("/chat/sessions", json={}, headers=headers | {"X-User-Id": "ada"}),
        await chat.post("/chat/sessions", json={}, headers=headers | {"X-User-Id": "bob"}),
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 4


async def test_a_session_id_of_another_tenant_is_taken_and_tells_nothing(chat: Chat, stranger: Chat) -> None:
    session = await chat.create(**SESSION)
    response = await stranger.post("/chat/sessions", json=SESSION | {"id": session["id"]})
    assert "ada" not in problem(response, 409, "id_taken")["detail"]
    assert (await stranger.sessions())["sessions"] == []
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json() == session


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_deleted_is_made_anew_by_a_repeat_and_nothing_old_comes_back(chat: Chat, way: str) -> None:
    (fields, headers), (of_message, key) = once(way), once(way)
    for round_ in ("first", "second"):
        created = await chat.post("/chat/sessions", json=SESSION | fields, headers=headers)
        assert (created.status_code, created.json()["revision"]) == (201, 1)
        await chat.append(created.json(), f"only in the {round_} round")
        appended = await chat.post(path(created.json()), json=MESSAGE | of_message, headers=key)
        assert (appended.status_code, appended.json()["seq"]) == (201, 2)
        history = await chat.messages(created.json())
        assert [message["content"] for message in history["messages"]] == [f"only in the {round_} round", "hello"]
        assert (await chat.delete(created.headers["location"])).status_code == 204


@pytest.mark.parametrize("key", [b"", b"two words", b"k" * 256, "clé".encode(), b"tab\there"])
async def test_a_key_that_cannot_be_is_refused(chat: Chat, key: bytes) -> None:
    session = await chat.create()
    for at, body in (("/chat/sessions", {}), (path(session), MESSAGE)):
        response = await chat.post(at, json=body, headers=[(b"Idempotency-Key", key)])
        problem(response, 400, "invalid_header", "Idempotency-Key")
    assert (await chat.sessions())["sessions"] == [session]


@pytest.mark.parametrize("key", ["!", "~" * 255, '"quoted"', "a,b;c=d"])
async def test_a_key_may_be_any_visible_ascii(chat: Chat, key: str) -> None:
    headers = {"Idempotency-Key": key}
    first = await chat.post("/chat/sessions", headers=headers)
    replayed(await chat.post("/chat/sessions", headers=headers), first)


async def test_a_key_sent_twice_is_refused(chat: Chat) -> None:
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    problem(await chat.post("/chat/sessions", json={}, headers=twice), 400, "invalid_header", "Idempotency-Key")
