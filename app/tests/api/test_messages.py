"""Messages: appended, read one by one, by page, and next to a seq."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from app.tests.harness import Chat, problem


def path(session: dict[str, Any]) -> str:
    return f"/chat/sessions/{session['id']}/messages"


async def filled(chat: Chat, count: int) -> dict[str, Any]:
    """A session with `count` messages, each with a context."""
    session = await chat.create()
    for seq in range(1, count + 1):
        await chat.append(session, str(seq), context={"seq": seq})
    return session


def seqs(page: dict[str, Any]) -> list[int]:
    return [message["seq"] for message in page["messages"]]


async def test_a_new_message_tells_its_place_and_the_revision_of_its_session(chat: Chat) -> None:
    session = await chat.create()
    response = await chat.post(path(session), json={"sender": "user", "content": "hello"})
    assert response.status_code == 201
    message = response.json()
    stored = {"id": message["id"], "session_id": session["id"], "seq": 1, "sender": "user", "content": "hello"}
    unsaid = {"context": None, "metadata": {}, "created_at": message["created_at"], "redacted_at": None}
    assert message == stored | unsaid | {"evidence_status": None, "evidence_documents": []}
    assert UUID(message["id"]).version == 7
    assert response.headers["location"] == f"{path(session)}/{message['id']}"
    assert response.headers["etag"] == '"2"'
    assert (await chat.get(response.headers["location"])).json() == message


async def test_nulls_are_absent_and_content_may_be_empty(chat: Chat) -> None:
    nothing = {"id": None, "role": None, "context": None, "metadata": None, "created_at": None}
    message = await chat.append(await chat.create(), "", **nothing)
    assert (message["content"], message["context"], message["metadata"]) == ("", None, {})


@pytest.mark.parametrize("sent", [{"role": "bot"}, {"role": "bot", "sender": None}, {"role": "bot", "sender": "bot"}])
async def test_role_is_another_name_of_sender(chat: Chat, sent: dict[str, str]) -> None:
    response = await chat.post(path(await chat.create()), json={"content": "hello", **sent})
    assert response.status_code == 201
    assert response.json()["sender"] == "bot"
    assert "role" not in response.json()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sender": None}, "/sender"),
        ({"sender": ""}, "/sender"),
        ({"sender": "s" * 65}, "/sender"),
        ({"sender": 1}, "/sender"),
        ({"role": "assistant"}, "/role"),
        ({"role": ["user"]}, "/role"),
        ({"content": None}, "/content"),
        ({"content": 5}, "/content"),
        ({"content": [{"type": "text", "text": "hello"}]}, "/content"),
        ({"metadata": []}, "/metadata"),
        ({"id": "1"}, "/id"),
        ({"seq": 1}, "/seq"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
    ids=repr,
)
async def test_a_field_that_cannot_be_is_refused_by_name(chat: Chat, fields: dict[str, Any], field: str) -> None:
    session = await chat.create()
    response = await chat.post(path(session), json={"sender": "user", "content": "hello", **fields})
    problem(response, 422, "validation_error", field)
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json() == session


async def test_every_fault_is_told_at_once(chat: Chat) -> None:
    response = await chat.post(path(await chat.create()), json={"contnt": "hello"})
    found = problem(response, 422, "validation_error")
    assert {fault["field"] for fault in found["errors"]} == {"/sender", "/content", "/contnt"}
    assert {fault["in"] for fault in found["errors"]} == {"body"}


async def test_a_message_needs_a_body_and_a_session(chat: Chat) -> None:
    problem(await chat.post(path(await chat.create())), 400, "malformed_json")
    body = {"sender": "user", "content": "hello"}
    problem(await chat.post(path({"id": uuid4()}), json=body), 404, "not_found")
    problem(await chat.get(path({"id": uuid4()})), 404, "not_found")


@pytest.mark.parametrize(
    ("field", "frame", "limit"),
    [("content", "", 256 * 1024), ("context", '{"k":""}', 1024 * 1024), ("metadata", '{"k":""}', 64 * 1024)],
)
@pytest.mark.parametrize("letter", ["n", "é"])
async def test_a_field_may_be_as_large_as_its_limit_in_bytes(
    chat: Chat, field: str, frame: str, limit: int, letter: str
) -> None:
    session = await chat.create()
    text = letter * ((limit - len(frame)) // len(letter.encode()))
    for more, status in (("", 201), ("n", 422)):
        value = {"k": text + more} if frame else text + more
        response = await chat.post(path(session), json={"sender": "user", "content": "", field: value})
        assert response.status_code == status
    problem(response, 422, "too_large", f"/{field}")
    assert (await chat.messages(session))["total"] == 1


async def test_the_order_is_that_of_arrival_whatever_the_times_say(chat: Chat) -> None:
    session = await chat.create()
    for year in (2026, 1999, 2030):
        await chat.append(session, str(year), created_at=f"{year}-01-01T00:00:00Z")
    history = await chat.messages(session)
    assert [(message["seq"], message["content"]) for message in history["messages"]] == [
        *((1, "2026"), (2, "1999"), (3, "2030")),
    ]


async def test_a_message_is_found_in_its_own_session_only(chat: Chat) -> None:
    session, other = await chat.create(), await chat.create()
    message = await chat.append(session)
    assert (await chat.get(f"{path(session)}/{message['id'].upper()}")).json() == message
    problem(await chat.get(f"{path(other)}/{message['id']}"), 404, "not_found")
    problem(await chat.get(f"{path(session)}/{uuid4()}"), 404, "not_found")
    problem(await chat.get(f"{path(session)}/1"), 422, "validation_error", "message_id")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"page_size": 3}, [1, 2, 3]),
        ({"page": 3, "page_size": 3}, [7]),
        ({"page": 4, "page_size": 3}, []),
        ({"page": 10**9, "page_size": 100}, []),
        ({"order": "desc", "page_size": 3}, [7, 6, 5]),
        ({"order": "desc", "page": 3, "page_size": 3}, [1]),
        ({"order": "desc", "page": 4, "page_size": 3}, []),
        ({"order": "desc", "page": 2, "page_size": 6}, [1]),
    ],
    ids=repr,
)
async def test_a_page_has_the_messages_of_its_place(chat: Chat, query: dict[str, Any], expected: list[int]) -> None:
    session = await filled(chat, 7)
    found = await chat.messages(session, **query)
    assert list(found) == ["messages", "total", "page", "page_size"]
    assert (seqs(found), found["total"]) == (expected, 7)
    assert (found["page"], found["page_size"]) == (query.get("page", 1), query.get("page_size", 20))


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_too_far_for_any_number_is_beyond_the_end(chat: Chat, order: str) -> None:
    found = await chat.messages(await filled(chat, 1), page=10**30, order=order)
    assert (found["messages"], found["total"]) == ([], 1)


@pytest.mark.parametrize(
    ("query", "expected", "has_more"),
    [
        ({"after": 0}, [1, 2, 3, 4, 5, 6, 7], False),
        ({"after": 2, "limit": 3}, [3, 4, 5], True),
        ({"after": 4, "limit": 3}, [5, 6, 7], False),
        ({"after": 2, "limit": 3, "order": "desc"}, [5, 4, 3], True),
        ({"after": 7}, [], False),
        ({"after": 10**30}, [], False),
        ({"before": 5, "limit": 3}, [2, 3, 4], True),
        ({"before": 4, "limit": 3}, [1, 2, 3], False),
        ({"before": 5, "limit": 3, "order": "desc"}, [4, 3, 2], True),
        ({"before": 8, "limit": 2}, [6, 7], True),
        ({"before": 10**30, "limit": 2}, [6, 7], True),
        ({"before": 99, "limit": 2, "order": "desc"}, [7, 6], True),
        ({"before": 1}, [], False),
        ({"before": 0}, [], False),
        ({"limit": 2}, [1, 2], True),
        ({"limit": 2, "order": "desc"}, [7, 6], True),
        ({"limit": 7, "order": "desc"}, [7, 6, 5, 4, 3, 2, 1], False),
    ],
    ids=repr,
)
async def test_a_slice_is_adjacent_to_its_bound(
    chat: Chat, query: dict[str, Any], expected: list[int], has_more: bool
) -> None:
    session = await filled(chat, 7)
    found = await chat.messages(session, **query)
    assert list(found) == ["messages", "total", "page", "page_size", "has_more"]
    assert (seqs(found), found["has_more"], found["total"]) == (expected, has_more, 7)
    assert (found["page"], found["page_size"]) == (None, query.get("limit", 20))


async def test_an_empty_session_has_an_empty_page_and_a_deleted_one_has_none(chat: Chat) -> None:
    session = await chat.create()
    assert await chat.messages(session) == {"messages": [], "total": 0, "page": 1, "page_size": 20}
    assert await chat.messages(session, before=9) == await chat.messages(session, after=0)
    await chat.delete(f"/chat/sessions/{session['id']}")
    for query in ("", "?after=1", "?before=9&order=desc"):
        problem(await chat.get(path(session) + query), 404, "not_found")


@pytest.mark.parametrize(
    "query",
    [
        *("page=0", "page=-1", "page=1.0", "page=%D9%A1", "page=", "page_size=0", "page_size=101"),
        *("limit=0", "limit=101", "after=-1", "after=1&after=1", "before=last"),
        *("order=DESC", "context=some", "pagesize=1"),
    ],
)
async def test_a_parameter_that_cannot_be_is_refused_by_name(chat: Chat, query: str) -> None:
    response = await chat.get(f"{path(await chat.create())}?{query}")
    problem(response, 422, "validation_error", query.partition("=")[0])


@pytest.mark.parametrize(
    "query",
    [
        *("after=1&before=3", "after=1&page=1", "after=1&page_size=20", "before=3&page=1", "before=3&page_size=2"),
        *("limit=1&page=1", "limit=20&page_size=20"),
    ],
)
async def test_the_two_ways_of_asking_do_not_mix(chat: Chat, query: str) -> None:
    problem(await chat.get(f"{path(await chat.create())}?{query}"), 422, "conflicting_parameters")


async def test_context_can_be_left_out_of_every_answer(chat: Chat) -> None:
    session = await chat.create()
    body = {"sender": "bot", "content": "hello", "context": {"k": 1}}
    appended = (await chat.post(f"{path(session)}?context=none", json=body)).json()
    one = f"{path(session)}/{appended['id']}"
    assert appended["context"] is None
    assert (await chat.get(f"{one}?context=none")).json() == appended
    for query in ({}, {"after": 0}, {"before": 2}, {"order": "desc"}):
        assert (await chat.messages(session, context="none", **query))["messages"] == [appended]
        assert (await chat.messages(session, context="full", **query))["messages"] == [appended | {"context": {"k": 1}}]
    assert (await chat.get(one)).json() == appended | {"context": {"k": 1}}


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_query_parameter_that_is_not_known_is_refused(chat: Chat, method: str) -> None:
    session = await filled(chat, 1)
    one = (await chat.messages(session))["messages"][0]["id"]
    target = path(session) if method == "POST" else f"{path(session)}/{one}"
    body = {"sender": "user", "content": "hello"} if method == "POST" else None
    problem(await chat.request(method, f"{target}?user=ada", json=body), 422, "validation_error", "user")
    assert (await chat.messages(session))["total"] == 1
