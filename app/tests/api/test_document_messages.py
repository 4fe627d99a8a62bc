"""The answers that stood on a document: which are found, in which order, and what a filter keeps."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from app.db.pool import Database
from app.evidence import document_ref
from app.tests.harness import Chat, Service, problem

ON_D = {"document_id": "d", "text": "t"}
NOON = "2026-03-01T12:00:00.000000Z"
Message = dict[str, Any]


async def contents(chat: Chat, user: str | None = None, **query: Any) -> list[str]:
    return [message["content"] for message in (await chat.answers_on("d", user, **query))["messages"]]


async def walk(chat: Chat, user: str | None = None, **query: Any) -> list[list[str]]:
    """The contents page by page."""
    pages: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await chat.answers_on("d", user, **query, **({"cursor": cursor} if cursor else {}))
        pages.append([message["content"] for message in page["messages"]])
        cursor = page["next_cursor"]
    return pages


def newest_first(messages: list[Message]) -> list[str]:
    order = sorted(messages, key=lambda one: (one["created_at"], one["session_id"], one["seq"]), reverse=True)
    return [message["content"] for message in order]


async def batch(chat: Chat, session: dict[str, Any], *contents: str, **fields: Any) -> list[Message]:
    """Answers on d that are of one moment."""
    one = {"sender": "bot", "context": {"documents": [ON_D]}, **fields}
    path = f"/chat/sessions/{session['id']}/messages/batch"
    response = await chat.post(path, json={"messages": [{**one, "content": content} for content in contents]})
    assert response.status_code == 201, response.text
    return list(response.json()["messages"])


async def test_an_answer_comes_whole_with_each_of_its_uses(chat: Chat) -> None:
    first = {**ON_D, "chunk_id": "c1", "version": "2", "rank": 1, "score": 8.1, "cited": True, "in_prompt": False}
    second = {"page_content": "u", "id": "c2", "metadata": {"source": "d"}, "rank": 2.5}
    documents = [first, {"document_id": "other", "text": "t"}, second, {"document_id": "d"}]
    message = await chat.answer(await chat.create(), *documents, metadata={"model": "m"})
    found = await chat.answers_on("d")
    none = dict.fromkeys(("chunk_id", "version", "rank", "score", "cited", "in_prompt"))
    uses = [
        {"chunk_id": "c1", "version": "2", "rank": 1, "score": 8.1, "cited": True, "in_prompt": False},
        none | {"chunk_id": "c2", "rank": 2.5},
        none,
    ]
    assert found["messages"] == [{**message, "uses": uses}]
    assert (found["document"]["document_id"], found["next_cursor"]) == ("d", None)


async def test_the_context_is_shown_as_asked(chat: Chat) -> None:
    await chat.answer(await chat.create(), {**ON_D, "score": 1})
    shown = {"full": {"documents": [{**ON_D, "score": 1}]}, "refs": {"documents": [{"document_id": "d", "score": 1}]}}
    for asked in ("full", "refs", "none"):
        [message] = (await chat.answers_on("d", context=asked))["messages"]
        assert message["context"] == shown.get(asked)
        assert (message["uses"][0]["score"], message["evidence_status"]) == (1, "current")


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_a_walk_meets_each_answer_once_while_others_are_added(chat: Chat, limit: int) -> None:
    sessions = [await chat.create(id=str(uuid4())) for _ in range(3)]
    messages = [
        one for place, session in enumerate(sessions) for one in await batch(chat, session, f"{place}a", f"{place}b")
    ]
    same = [
        await batch(chat, session, f"{place}x", f"{place}y", created_at=NOON) for place, session in enumerate(sessions)
    ]
    messages += [one for two in same for one in two]
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await chat.answers_on("d", limit=limit, **({"cursor": cursor} if cursor else {}))
        found += [message["content"] for message in page["messages"]]
        cursor = page["next_cursor"]
        await batch(chat, sessions[0], "added")
    assert found == newest_first(messages)


@pytest.fixture(scope="module")
async def filtered(service: Service) -> AsyncIterator[Chat]:
    """A tenant with five answers on d, named for their hour, user and chunks."""
    async with await service.new_tenant() as chat:
        ada, bob, nobody = [await chat.create(**({"user_id": user} if user else {})) for user in ("ada", "bob", None)]
        a, b = {**ON_D, "chunk_id": "a", "version": "1"}, {**ON_D, "chunk_id": "b", "version": "2"}
        for hour, session, documents in (
            (1, ada, [{**a, "cited": True}]),
            (2, ada, [{**a, "cited": False}, {**b, "cited": True}]),
            (3, bob, [b]),
            (4, nobody, [{"document_id": "d"}]),
            (5, bob, [{**a, "version": "2"}, {"document_id": "e", "chunk_id": "b", "cited": True}]),
        ):
            await chat.answer(session, *documents, content=f"{hour}", created_at=f"2026-03-01T0{hour}:00:00Z")
        yield chat


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "54321"),
        ({"chunk_id": "a"}, "521"),
        ({"chunk_id": "b"}, "32"),
        ({"chunk_id": "A"}, ""),
        ({"version": "2"}, "532"),
        ({"chunk_id": "a", "version": "2"}, "5"),
        ({"chunk_id": "b", "version": "1"}, ""),
        ({"cited": "true"}, "21"),
        ({"cited": "false"}, "543"),
        ({"chunk_id": "a", "cited": "true"}, "1"),
        ({"chunk_id": "a", "cited": "false"}, "52"),
        ({"version": "2", "cited": "true"}, "2"),
        ({"user_id": "ada"}, "21"),
        ({"user_id": "nobody"}, ""),
        ({"user_id": "bob", "chunk_id": "b"}, "3"),
        ({"user_id": "ada", "cited": "true", "version": "1"}, "1"),
        ({"since": "2026-03-01T02:00:00Z"}, "5432"),
        ({"since": "2026-03-01T02:00:00.000001Z"}, "543"),
        ({"until": "2026-03-01T02:00:00Z"}, "1"),
        ({"until": "2026-03-01T02:00:00.000001Z"}, "21"),
        ({"since": "2026-03-01T07:00:00+05:00", "until": "2026-03-01T04:00:00Z"}, "32"),
        ({"since": "2026-03-01T04:00:00Z", "until": "2026-03-01T04:00:00Z"}, ""),
        ({"since": "2026-03-01T02:00:00Z", "cited": "true", "user_id": "ada", "chunk_id": "b"}, "2"),
    ],
    ids=repr,
)
async def test_filters_narrow_and_combine(filtered: Chat, query: dict[str, str], found: str) -> None:
    assert await contents(filtered, **query) == list(found)
    assert [one for page in await walk(filtered, limit=1, **query) for one in page] == list(found)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *(({"cited": cited}, "cited") for cited in ("", "1", "True")),
        *(({name: ""}, name) for name in ("chunk_id", "version", "user_id", "since", "until", "context")),
        *(({name: "2026-03-01T12:00:00"}, name) for name in ("since", "until")),
        *(({"limit": limit}, "limit") for limit in ("0", "101", "x")),
        *(({name: "1"}, name) for name in ("page", "status", "session_id")),
        ({"document_id": "x" * 2_049}, "document_id"),
    ],
    ids=repr,
)
async def test_a_parameter_that_cannot_be_is_refused_by_name(chat: Chat, query: dict[str, str], field: str) -> None:
    response = await chat.get("/chat/documents/messages", params={"document_id": "d", **query})
    problem(response, 422, "validation_error", field)


async def test_without_a_document_nothing_is_asked(chat: Chat) -> None:
    problem(await chat.get("/chat/documents/messages"), 422, "validation_error", "document_id")


async def test_a_cursor_goes_on_with_its_own_filters_only(chat: Chat, stranger: Chat) -> None:
    for client in (chat, stranger):
        await batch(client, await client.create(user_id="ada"), *"abc")
    cursor = (await chat.answers_on("d", limit=1, cited="false"))["next_cursor"]
    assert await contents(chat, cited="false", cursor=cursor, context="none", limit=9) == ["b", "a"]
    refused = [{}, {"cited": "true"}, {"cited": "false", "user_id": "ada"}, {"cited": "false", "document_id": "e"}]
    refused += [{"cited": "false", "cursor": broken} for broken in ("", cursor[:-1], cursor + "A", cursor[::-1])]
    await chat.mark("e")
    for query in refused:
        asked = {"document_id": "d", "cursor": cursor, **query}
        problem(await chat.get("/chat/documents/messages", params=asked), 422, "invalid_cursor", "cursor")
    asked = {"document_id": "d", "cursor": cursor, "cited": "false"}
    problem(await stranger.get("/chat/documents/messages", params=asked), 422, "invalid_cursor", "cursor")
    guarded = await chat.get("/chat/documents/messages", params=asked, headers={"X-User-Id": "ada"})
    problem(guarded, 422, "invalid_cursor", "cursor")


async def missing(chat: Chat, user: str | None = None) -> None:
    headers = {} if user is None else {"X-User-Id": user}
    response = await chat.get("/chat/documents/messages", params={"document_id": "d"}, headers=headers)
    problem(response, 404, "not_found")


async def test_a_user_sees_their_answers_and_their_counts_only(chat: Chat) -> None:
    ada, bob, nobody = await chat.create(user_id="ada"), await chat.create(user_id="bob"), await chat.create()
    for minute, (session, cited) in enumerate([(ada, True), (bob, True), (ada, False), (nobody, True)]):
        at = f"2026-03-01T12:0{minute}:00.000000Z"
        await chat.answer(session, {**ON_D, "cited": cited}, content=f"{minute}", created_at=at)
    await chat.mark("d", reason="wrong")
    found = await chat.answers_on("d", "ada")
    assert [message["content"] for message in found["messages"]] == ["2", "0"]
    document = found["document"]
    assert (document["answers"], document["cited"], document["status"], document["reason"]) == (
        2,
        1,
        "withdrawn",
        "wrong",
    )
    assert (document["first_used_at"], document["last_used_at"]) == (NOON, NOON.replace("12:00", "12:02"))
    assert await walk(chat, "ada", limit=1) == [["2"], ["0"]]
    assert await contents(chat, "ada", user_id="bob") == []
    assert await contents(chat, "bob", cited="true") == ["1"]
    for other in ("eve", "Ada"):
        await missing(chat, other)


async def test_what_is_neither_marked_nor_used_is_not_there(chat: Chat, stranger: Chat) -> None:
    await missing(chat)
    await batch(stranger, await stranger.create(user_id="ada"), "theirs")
    await missing(chat)
    await chat.mark("d")
    assert (await chat.answers_on("d"))["messages"] == []
    await missing(chat, "ada")  # a mark is nobody's use
    await chat.mark("d", "current")
    assert (await chat.answers_on("d"))["document"]["status"] == "current"


async def test_with_its_answers_a_document_goes(chat: Chat) -> None:
    kept, gone = await chat.create(user_id="ada"), await chat.create(user_id="bob")
    first, second, third = await batch(chat, kept, "first", "second", "third")
    await batch(chat, gone, "of another session")
    path = f"/chat/sessions/{kept['id']}/messages"
    assert (await chat.delete(f"{path}/{second['id']}")).status_code == 204
    assert sorted(await contents(chat)) == ["first", "of another session", "third"]
    assert (await chat.answers_on("d", "ada"))["document"]["answers"] == 2
    assert (await chat.delete(f"{path}?after=2")).status_code == 200
    assert sorted(await contents(chat)) == ["first", "of another session"]
    assert (await chat.delete(f"/chat/sessions/{gone['id']}")).status_code == 204
    assert await contents(chat) == ["first"]
    await missing(chat, "bob")
    assert (await chat.delete(f"{path}?after=0")).status_code == 200
    await missing(chat)
    assert (first["seq"], third["seq"]) == (1, 3)
    await chat.answer(kept, ON_D, content="in its place", created_at=first["created_at"])
    assert await contents(chat) == ["in its place"]


async def test_answers_of_long_ago_and_of_times_to_come_stand_in_their_place(chat: Chat) -> None:
    session = await chat.create()
    times = ["9999-12-31T23:59:59.999999Z", "2026-03-01T12:00:00.000000Z", "0001-01-01T00:00:00.000000Z"]
    for time in times[1:] + times[:1]:
        await chat.answer(session, ON_D, content=time, created_at=time)
    assert await contents(chat) == times
    assert await walk(chat, limit=1) == [[time] for time in times]
    assert await contents(chat, since=times[2], until=times[0]) == times[1:]
    assert await contents(chat, since=times[0]) == times[:1]


async def test_pages_that_find_nothing_lead_on_to_what_lies_deep(chat: Chat, db: Database) -> None:
    """A page looks at 1,000 uses, or into 100 contexts; here they are of sessions that are gone."""
    await chat.answer(await chat.create(user_id="ada"), {**ON_D, "chunk_id": "c"}, content="needle", created_at=NOON)
    async with db.driver() as conn:
        await conn.execute(
            "INSERT INTO evidence_uses (document_ref, at, session_id, seq, cited)"
            " SELECT $1, now() + n % 7 * interval '1 s', gen_random_uuid(), 1, true FROM generate_series(1, 2500) n",
            document_ref(chat.tenant_id, "d"),
        )
    assert await walk(chat, "ada") == [[], [], ["needle"]]
    assert await walk(chat, user_id="ada") == [[], [], ["needle"]]
    pages = await walk(chat, chunk_id="c")
    assert pages == [[]] * 25 + [["needle"]]
    assert [one for page in await walk(chat, limit=100) for one in page] == ["needle"]


async def test_a_number_of_any_length_is_a_score_and_a_rank(chat: Chat) -> None:
    await chat.answer(await chat.create(), {"document_id": "d", "text": "t", "rank": 10**30, "score": -(2**70)})
    [message] = (await chat.answers_on("d"))["messages"]
    [use] = message["uses"]
    assert (use["rank"], use["score"]) == (10**30, -(2**70))
