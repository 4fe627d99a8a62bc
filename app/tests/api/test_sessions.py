"""Sessions, one by one: created, read, changed, deleted."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid1, uuid4

import pytest

from app import ids, times
from app.tests.harness import Chat, problem

NIL = "00000000-0000-0000-0000-000000000000"
NOT_OURS = ["{%s}", "urn:uuid:%s", "%%20%s", "%s%%20", "%s0"]
EVERYTHING = {"user_id": "ada", "name": "Leave", "is_favorite": True, "metadata": {"channel": "web"}}


def path(session: dict[str, Any]) -> str:
    return f"/chat/sessions/{session['id']}"


async def test_a_session_needs_nothing_not_even_a_body(chat: Chat) -> None:
    response = await chat.post("/chat/sessions")
    assert response.status_code == 201
    session = response.json()
    assert list(session) == [
        *("id", "user_id", "name", "is_favorite", "metadata"),
        *("message_count", "revision", "created_at", "updated_at"),
    ]
    assert (session["user_id"], session["name"], session["is_favorite"], session["metadata"]) == (None, None, False, {})
    assert (session["message_count"], session["revision"]) == (0, 1)
    assert session["created_at"] == session["updated_at"]


async def test_a_new_session_tells_its_place_and_its_revision(chat: Chat) -> None:
    response = await chat.post("/chat/sessions", json=EVERYTHING)
    assert response.headers["location"] == path(response.json())
    assert response.headers["etag"] == '"1"'
    assert response.headers["cache-control"] == "no-store"


async def test_ids_are_of_version_7_and_times_are_utc_with_six_decimals(chat: Chat) -> None:
    session = await chat.create()
    assert UUID(session["id"]).version == 7
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", session["created_at"])
    assert abs(times.parse(session["created_at"]) - datetime.now(UTC)) < timedelta(days=1)


@pytest.mark.parametrize("field", EVERYTHING)
async def test_each_field_is_stored_alone_and_with_the_others(chat: Chat, field: str) -> None:
    everything = await chat.create(**EVERYTHING)
    alone = await chat.create(**{field: EVERYTHING[field]})
    assert everything[field] == alone[field] == EVERYTHING[field]
    assert (await chat.get(path(alone))).json() == alone


async def test_null_means_absent(chat: Chat) -> None:
    session = await chat.create(id=None, user_id=None, name=None, metadata=None)
    assert (session["user_id"], session["name"], session["metadata"]) == (None, None, {})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "/name"),
        ({"name": "n" * 256}, "/name"),
        ({"name": 7}, "/name"),
        ({"name": "two\nlines"}, "/name"),
        ({"name": "\x7f"}, "/name"),
        ({"name": "\x85"}, "/name"),
        ({"user_id": ""}, "/user_id"),
        ({"user_id": "u" * 256}, "/user_id"),
        ({"user_id": ["ada"]}, "/user_id"),
        ({"is_favorite": None}, "/is_favorite"),
        ({"is_favorite": 1}, "/is_favorite"),
        ({"is_favorite": "true"}, "/is_favorite"),
        ({"metadata": []}, "/metadata"),
        ({"metadata": "text"}, "/metadata"),
        ({"id": 7}, "/id"),
        ({"id": ""}, "/id"),
        ({"nmae": "Leave"}, "/nmae"),
        ({"revision": 1}, "/revision"),
        ([], ""),
        ("text", ""),
        (None, ""),
    ],
    ids=repr,
)
async def test_a_field_that_cannot_be_is_refused_by_name(chat: Chat, body: Any, field: str) -> None:
    content = b"null" if body is None else None
    response = await chat.post(
        "/chat/sessions", json=body, content=content, headers={"Content-Type": "application/json"}
    )
    problem(response, 422, "validation_error", field)
    assert (await chat.sessions())["sessions"] == []


@pytest.mark.parametrize("character", ["n", "é", "\U0001f378"])
async def test_limits_of_names_count_characters_and_not_bytes(chat: Chat, character: str) -> None:
    session = await chat.create(name=character * 255, user_id=character * 255)
    assert (session["name"], session["user_id"]) == (character * 255, character * 255)


@pytest.mark.parametrize("character", ["n", "é"])
async def test_metadata_may_hold_64_kib_and_no_byte_more(chat: Chat, character: str) -> None:
    letters = (64 * 1024 - len('{"k":""}')) // len(character.encode())
    session = await chat.create(metadata={"k": character * letters})
    for response in (
        await chat.post("/chat/sessions", json={"metadata": {"k": character * letters + "n"}}),
        await chat.put(path(session), json={"metadata": {"k": character * letters + "n"}}),
    ):
        problem(response, 422, "too_large", "/metadata")


@pytest.mark.parametrize("id_", [str(uuid4()), str(uuid4()).upper(), str(uuid1()), str(ids.new()).upper(), NIL])
async def test_an_id_of_any_version_and_case_is_taken_and_answered_in_lower_case(chat: Chat, id_: str) -> None:
    session = await chat.create(id=id_)
    assert session["id"] == id_.lower()
    for spelling in (id_.lower(), id_.upper()):
        assert (await chat.get(f"/chat/sessions/{spelling}")).json() == session
        assert (await chat.append({"id": spelling}))["session_id"] == id_.lower()
        session = (await chat.get(path(session))).json()


@pytest.mark.parametrize("spelling", NOT_OURS)
async def test_every_other_spelling_of_an_id_is_refused_in_body_and_path(chat: Chat, spelling: str) -> None:
    session = await chat.create()
    other = spelling % session["id"]
    problem(await chat.post("/chat/sessions", json={"id": other.replace("%20", " ")}), 422, "validation_error", "/id")
    for method, body in (("GET", None), ("PUT", {"name": "x"}), ("DELETE", None)):
        response = await chat.request(method, f"/chat/sessions/{other}", json=body)
        problem(response, 422, "validation_error", "session_id")
    problem(await chat.get(f"/chat/sessions/{other}/messages"), 422, "validation_error", "session_id")


async def test_32_digits_without_hyphens_are_no_id(chat: Chat) -> None:
    digits = uuid4().hex
    problem(await chat.post("/chat/sessions", json={"id": digits}), 422, "validation_error", "/id")
    problem(await chat.get(f"/chat/sessions/{digits}"), 422, "validation_error", "session_id")


@pytest.mark.parametrize(
    ("field", "value"), [("name", "Other"), ("is_favorite", False), ("metadata", {"replaced": [1, None]})]
)
async def test_a_put_changes_what_it_names_and_nothing_else(chat: Chat, field: str, value: Any) -> None:
    session = await chat.create(**EVERYTHING)
    response = await chat.put(path(session), json={field: value})
    assert response.status_code == 200
    changed = response.json()
    assert changed["updated_at"] > session["updated_at"]
    assert changed == session | {field: value, "revision": 2, "updated_at": changed["updated_at"]}
    assert response.headers["etag"] == '"2"'
    assert (await chat.get(path(session))).json() == changed


@pytest.mark.parametrize(("field", "cleared"), [("name", None), ("metadata", {})])
async def test_null_in_a_put_clears(chat: Chat, field: str, cleared: Any) -> None:
    session = await chat.create(**EVERYTHING)
    changed = (await chat.put(path(session), json={field: None})).json()
    assert changed == session | {field: cleared, "revision": 2, "updated_at": changed["updated_at"]}


@pytest.mark.parametrize("body", [{}, {"name": "Leave"}, {"is_favorite": True, "metadata": {"b": 2, "a": 1}}], ids=repr)
async def test_a_put_of_what_is_there_already_changes_nothing(chat: Chat, body: dict[str, Any]) -> None:
    session = await chat.create(name="Leave", is_favorite=True, metadata={"a": 1, "b": 2})
    response = await chat.put(path(session), json=body)
    assert (response.status_code, response.json(), response.headers["etag"]) == (200, session, '"1"')


async def test_1_and_1_0_are_different_metadata(chat: Chat) -> None:
    session = await chat.create(metadata={"n": 1})
    response = await chat.put(path(session), json={"metadata": {"n": 1.0}})
    assert response.json()["revision"] == 2
    assert '"metadata":{"n":1.0}' in response.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"is_favorite": None}, "/is_favorite"),
        ({"name": ""}, "/name"),
        ({"name": "n" * 256}, "/name"),
        ({"name": "tab\there"}, "/name"),
        ({"metadata": [1]}, "/metadata"),
        ({"user_id": "eve"}, "/user_id"),
        ({"id": NIL}, "/id"),
        ({"favorite": True}, "/favorite"),
        ([], ""),
    ],
    ids=repr,
)
async def test_a_put_of_what_cannot_be_is_refused_whole(chat: Chat, body: Any, field: str) -> None:
    session = await chat.create(**EVERYTHING)
    mixed = {"name": "changed", **body} if body else body
    problem(await chat.put(path(session), json=mixed), 422, "validation_error", field)
    assert (await chat.get(path(session))).json() == session


async def test_a_put_needs_a_body(chat: Chat) -> None:
    problem(await chat.put(path(await chat.create())), 400, "malformed_json", "")


async def test_every_change_of_a_session_or_its_messages_moves_revision_and_updated_at(chat: Chat) -> None:
    states = [await chat.create()]
    for change in (chat.append(states[0]), chat.put(path(states[0]), json={"name": "x"}), chat.append(states[0])):
        await change
        states.append((await chat.get(path(states[0]))).json())
    assert [state["revision"] for state in states] == [1, 2, 3, 4]
    assert [state["message_count"] for state in states] == [0, 1, 1, 2]
    assert len({state["created_at"] for state in states}) == 1
    assert [state["updated_at"] for state in states] == sorted({state["updated_at"] for state in states})


async def test_a_delete_answers_nothing_and_then_there_is_nothing(chat: Chat) -> None:
    session = await chat.create()
    response = await chat.delete(path(session))
    assert (response.status_code, response.content) == (204, b"")
    for gone in (
        await chat.delete(path(session)),
        await chat.get(path(session)),
        await chat.put(path(session), json={"name": "x"}),
    ):
        problem(gone, 404, "not_found")


async def test_bad_input_is_told_before_the_session_is_looked_for(chat: Chat) -> None:
    problem(await chat.put(f"/chat/sessions/{uuid4()}", json={"name": ""}), 422, "validation_error", "/name")


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
async def test_a_query_parameter_that_is_not_known_is_refused(chat: Chat, method: str) -> None:
    session = await chat.create()
    target = "/chat/sessions" if method == "POST" else path(session)
    response = await chat.request(method, f"{target}?force=1", json={} if method in ("POST", "PUT") else None)
    problem(response, 422, "validation_error", "force")
    assert [found["id"] for found in (await chat.sessions())["sessions"]] == [session["id"]]


async def test_head_is_get_without_the_body_and_if_none_match_is_ignored(chat: Chat) -> None:
    session = await chat.create()
    head = await chat.head(path(session))
    assert (head.status_code, head.headers["etag"], head.content) == (200, '"1"', b"")
    again = await chat.get(path(session), headers={"If-None-Match": '"1"'})
    assert (again.status_code, again.json()) == (200, session)
