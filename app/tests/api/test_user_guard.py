"""X-User-Id narrows a call to the sessions of one user: what is not theirs does not exist."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tests.harness import Chat, Service, problem

PRINTED = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255)

HELLO = {"sender": "user", "content": "hello"}
OTHERS = [{"user_id": "bob"}, {"user_id": "Ada"}, {"user_id": "ada "}, {"user_id": "ada\u0301"}, {}]


def of(user: str) -> dict[bytes, bytes]:
    return {b"X-User-Id": user.encode()}


async def every_call(chat: Chat, session: dict[str, Any], message: dict[str, Any], user: str) -> list[httpx.Response]:
    """The answers of every route about a session and its message; the last one deletes it."""
    path, guard = f"/chat/sessions/{session['id']}", of(user)
    return [
        await chat.get(path, headers=guard),
        await chat.head(path, headers=guard),
        await chat.get(f"{path}/messages", headers=guard),
        await chat.get(f"{path}/messages?before=9&order=desc", headers=guard),
        await chat.get(f"{path}/messages/{message['id']}", headers=guard),
        await chat.post(f"{path}/messages", json=HELLO, headers=guard),
        await chat.post(f"{path}/messages", json=HELLO | {"id": message["id"]}, headers=guard),
        await chat.put(path, json={"name": "changed"}, headers=guard),
        await chat.put(path, json={}, headers=guard),
        await chat.delete(path, headers=guard),
    ]


async def test_a_user_reaches_what_is_theirs_by_every_route(chat: Chat) -> None:
    session = await chat.create(user_id="ada")
    message = await chat.append(session)
    answers = await every_call(chat, session, message, "ada")
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 201, 200, 200, 200, 204]


@pytest.mark.parametrize("owner", OTHERS, ids=repr)
async def test_what_is_not_theirs_is_a_404_by_every_route_and_stays_as_it_is(chat: Chat, owner: dict[str, str]) -> None:
    session = await chat.create(**owner)
    message = await chat.append(session)
    before = (await chat.get(f"/chat/sessions/{session['id']}")).json()
    answers = await every_call(chat, session, message, "ada")
    assert [answer.status_code for answer in answers] == [404] * len(answers)
    assert {answer.json()["code"] for answer in answers if answer.content} == {"not_found"}
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json() == before
    assert (await chat.messages(session))["messages"] == [message]


async def test_not_theirs_and_not_there_read_the_same(chat: Chat) -> None:
    session = await chat.create(user_id="bob")
    one, other = [
        (await chat.get(f"/chat/sessions/{id_}/messages", headers=of("ada"))).json() for id_ in (session["id"], uuid4())
    ]
    assert one | {"request_id": ""} == other | {"request_id": ""}


async def test_a_condition_on_what_is_not_theirs_tells_no_revision(chat: Chat) -> None:
    session = await chat.create(user_id="bob")
    headers = {**of("ada"), b"If-Match": b'"9"'}
    problem(await chat.put(f"/chat/sessions/{session['id']}", json={"name": "x"}, headers=headers), 404, "not_found")


async def test_a_list_holds_only_theirs(chat: Chat) -> None:
    mine = [await chat.create(user_id="ada", name=name) for name in ("a", "b", "c")]
    for owner in OTHERS:
        await chat.create(**owner, name="a")
    found = (await chat.get("/chat/sessions", headers=of("ada"))).json()
    assert found == {"sessions": mine[::-1], "next_cursor": None}
    named = (await chat.get("/chat/sessions?name=a", headers=of("ada"))).json()
    assert named["sessions"] == [mine[0]]


async def test_a_filter_within_the_guard_never_widens_it(chat: Chat) -> None:
    mine, _ = await chat.create(user_id="ada"), await chat.create(user_id="bob")
    for user_id, expected in (("ada", [mine]), ("bob", [])):
        found = await chat.get(f"/chat/sessions?user_id={user_id}", headers=of("ada"))
        assert found.json()["sessions"] == expected


async def test_a_walk_under_the_guard_goes_on_under_the_same_guard_only(chat: Chat) -> None:
    mine = [(await chat.create(user_id="ada"))["id"] for _ in range(3)]
    await chat.create(user_id="bob")
    first = (await chat.get("/chat/sessions?limit=2", headers=of("ada"))).json()
    rest = await chat.get(f"/chat/sessions?cursor={first['next_cursor']}", headers=of("ada"))
    assert [session["id"] for session in first["sessions"] + rest.json()["sessions"]] == mine[::-1]
    for headers in (of("bob"), {}):
        response = await chat.get(f"/chat/sessions?cursor={first['next_cursor']}", headers=headers)
        problem(response, 422, "invalid_cursor", "cursor")


@pytest.mark.parametrize("body", [{}, {"user_id": None}, {"user_id": "ada"}], ids=repr)
async def test_a_create_stores_the_user(chat: Chat, body: dict[str, Any]) -> None:
    response = await chat.post("/chat/sessions", json=body, headers=of("ada"))
    assert (response.status_code, response.json()["user_id"]) == (201, "ada")


async def test_a_create_without_a_body_stores_the_user_too(chat: Chat) -> None:
    assert (await chat.post("/chat/sessions", headers=of("ada"))).json()["user_id"] == "ada"


async def test_a_create_for_somebody_else_is_refused(chat: Chat) -> None:
    response = await chat.post("/chat/sessions", json={"user_id": "bob"}, headers=of("ada"))
    problem(response, 422, "validation_error", "/user_id")
    assert (await chat.sessions())["sessions"] == []


@pytest.mark.parametrize("owner", OTHERS, ids=repr)
async def test_an_id_of_another_users_session_is_taken(chat: Chat, owner: dict[str, str]) -> None:
    session = await chat.create(**owner)
    response = await chat.post("/chat/sessions", json={"id": session["id"]}, headers=of("ada"))
    problem(response, 409, "id_taken")
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json() == session


@pytest.mark.parametrize("body", [{}, {"user_id": "ada"}], ids=repr)
async def test_a_guarded_create_is_repeated_with_the_user_in_header_or_body(chat: Chat, body: dict[str, str]) -> None:
    id_ = str(uuid4())
    first = await chat.post("/chat/sessions", json={"id": id_}, headers=of("ada"))
    again = await chat.post("/chat/sessions", json=body | {"id": id_}, headers=of("ada"))
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())


async def test_the_guard_does_not_reach_into_another_tenant(chat: Chat, stranger: Chat) -> None:
    session = await chat.create(user_id="ada")
    problem(await stranger.get(f"/chat/sessions/{session['id']}", headers=of("ada")), 404, "not_found")
    assert (await stranger.get("/chat/sessions", headers=of("ada"))).json()["sessions"] == []


@pytest.mark.parametrize(
    "user", ["a", "u" * 255, "é" * 255, "\U0001f378" * 255, "\u00a0ada\u2003", "a b", "a,b", '"ada"', "%41"]
)
async def test_the_header_holds_any_user_id_as_utf_8(chat: Chat, user: str) -> None:
    session = await chat.create(user_id=user)
    assert (await chat.get("/chat/sessions", headers=of(user))).json()["sessions"] == [session]
    assert (await chat.post("/chat/sessions", headers=of(user))).json()["user_id"] == user


@settings(max_examples=60)
@given(PRINTED.filter(lambda user: user == user.strip(" ")))  # HTTP has no blanks around a header's value
async def test_any_printable_user_id_is_a_guard(service: Service, user: str) -> None:
    async with await service.new_tenant() as chat:
        created = await chat.post("/chat/sessions", headers=of(user))
        assert created.json()["user_id"] == user
        assert (await chat.get("/chat/sessions", headers=of(user))).json()["sessions"] == [created.json()]


@pytest.mark.parametrize("raw", [b"", b"u" * 256, "é".encode() * 256, b"\xff", b"\xc3", b"\xed\xa0\x80"], ids=repr)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_header_that_is_no_user_id_is_refused(chat: Chat, raw: bytes, method: str) -> None:
    response = await chat.request(method, "/chat/sessions", headers={b"X-User-Id": raw})
    problem(response, 400, "invalid_header", "X-User-Id")
    assert (await chat.sessions())["sessions"] == []


async def test_two_users_at_once_are_refused(chat: Chat) -> None:
    twice = [("X-User-Id", "ada"), ("X-User-Id", "ada")]
    problem(await chat.get("/chat/sessions", headers=twice), 400, "invalid_header", "X-User-Id")


async def test_health_belongs_to_no_user(chat: Chat) -> None:
    for headers in ({"X-User-Id": ""}, {"X-User-Id": "ada"}):
        assert (await chat.get("/health", headers=headers)).status_code == 200
