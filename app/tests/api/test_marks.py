"""Marks of sources: what every answer says that stood on them, before and after, in every process."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from app.db.pool import Database
from app.tests.api.test_round_trip import BIG
from app.tests.harness import Chat, Service, problem, settings

Message = dict[str, Any]


def verdict(message: Message) -> tuple[str | None, list[str]]:
    return message["evidence_status"], message["evidence_documents"]


def verdicts(messages: list[Message]) -> set[str]:
    return {repr(verdict(message)) for message in messages}


def versions(document_id: str = "d") -> list[dict[str, Any]]:
    """A document's uses: without a version, and of two."""
    return [{"document_id": document_id, "text": "t", **({"version": one} if one else {})} for one in (None, "1", "2")]


async def everywhere(chat: Chat, session: dict[str, Any], message: Message) -> list[Message]:
    """The message as each route returns it, whatever it shows of the context."""
    path = f"/chat/sessions/{session['id']}/messages"
    sent = {name: message[name] for name in ("id", "sender", "content", "context")}
    found = []
    for shown in ("full", "refs", "none"):
        query = {"context": shown}
        responses = [
            await chat.get(f"{path}/{message['id']}", params=query),
            await chat.get(path, params=query),
            await chat.get(path, params={**query, "after": 0}),
            await chat.get("/chat/documents/messages", params={**query, "document_id": "d"}),
            await chat.post(path, json=sent, params=query),
            await chat.post(f"{path}/batch", json={"messages": [sent]}, params=query),
        ]
        assert [response.status_code for response in responses] == [200] * len(responses)
        for body in (response.json() for response in responses):
            found += [one for one in body.get("messages", [body]) if one["id"] == message["id"]]
    assert len(found) == 18
    return found


@pytest.mark.parametrize(
    ("mark", "of_none", "of_1", "of_2"),
    [
        ({"status": "withdrawn"}, "withdrawn", "withdrawn", "withdrawn"),
        ({"status": "withdrawn", "version": "1"}, "current", "withdrawn", "current"),
        ({"status": "superseded"}, "stale", "stale", "stale"),
        ({"status": "superseded", "version": "2"}, "stale", "stale", "current"),
        ({"status": "superseded", "version": "3"}, "stale", "stale", "stale"),
        ({"status": "current", "reason": "all is well"}, "current", "current", "current"),
    ],
    ids=repr,
)
async def test_a_mark_says_what_became_of_each_version(
    chat: Chat, mark: dict[str, str], of_none: str, of_1: str, of_2: str
) -> None:
    before, after = await chat.create(), await chat.create()
    for use in versions():
        await chat.answer(before, use)
    await chat.mark("d", "withdrawn", version="2", reason="replaced by the next mark")
    marked = await chat.mark("d", **mark)
    assert {name: marked[name] for name in mark} == mark
    assert [marked[name] for name in ("version", "reason") if name not in mark] == [None] * (3 - len(mark))
    added = [await chat.answer(after, use) for use in versions()]
    expected = [(status, [] if status == "current" else ["d"]) for status in (of_none, of_1, of_2)]
    for messages in ((await chat.messages(before))["messages"], (await chat.messages(after))["messages"], added):
        assert [verdict(message) for message in messages] == expected


async def test_the_worst_of_an_answers_sources_tells_and_names_its_causes(chat: Chat) -> None:
    for document_id, mark in (("old", "superseded"), ("gone", "withdrawn"), ("void", "withdrawn"), ("fine", "current")):
        await chat.mark(document_id, mark)
    await chat.mark("versioned", "superseded", version="2")
    chunks = versions("versioned")
    session = await chat.create()
    for documents, expected in (
        ([], (None, [])),
        ([{"text": "of no document"}, {"page_content": "t"}, "gone"], (None, [])),
        ([{"document_id": "fine"}, {"document_id": "unmarked", "text": "t"}], ("current", [])),
        ([{"document_id": "fine"}, {"document_id": "old"}], ("stale", ["old"])),
        ([{"document_id": "old"}, {"document_id": "gone", "text": "t"}], ("withdrawn", ["gone"])),
        ([{"document_id": "void"}, {"text": "t", "document_id": "gone"}], ("withdrawn", ["gone", "void"])),
        ([chunks[2]], ("current", [])),
        ([chunks[2], chunks[1], chunks[0], {"document_id": "old"}], ("stale", ["old", "versioned"])),
        ([{"page_content": "t", "metadata": {"source": "gone"}}], ("withdrawn", ["gone"])),
    ):
        appended = await chat.answer(session, *documents)
        assert verdict(appended) == expected
        appended.pop("context_warnings", None)
        assert (await chat.messages(session, order="desc", page_size=1))["messages"] == [appended]
    assert verdict(await chat.append(session)) == (None, [])


@pytest.mark.parametrize(
    "context",
    [
        {"documents": [{"document_id": "d", "text": "split"}]},
        {"documents": [{"document_id": "d"}]},
        {"documents": [{"document_id": "d", "text": ""}, {"text": "split"}, "odd"]},
        {"documents": [{"document_id": "d", "text": "whole", "metadata": {"big": BIG}}]},
        [{"page_content": "split", "metadata": {"source": "d"}}, 7],
        {"documents": [{"document_id": "d", "version": 7, "text": 7}], "query": BIG},
    ],
    ids=["split", "no text", "no text among others", "whole", "langchain's", "odd and whole"],
)
async def test_a_mark_shows_on_every_route_however_the_context_is_stored(chat: Chat, context: Any) -> None:
    session = await chat.create()
    message = await chat.append(session, context=context)
    assert verdicts(await everywhere(chat, session, message)) == {"('current', [])"}
    await chat.mark("d")
    assert verdicts(await everywhere(chat, session, message)) == {"('withdrawn', ['d'])"}


async def test_contexts_from_before_evidence_was_split_are_judged_too(chat: Chat, db: Database) -> None:
    session = await chat.create()
    message = await chat.answer(session, {"document_id": "d", "text": "t"}, "odd")
    async with db.driver() as conn:
        await conn.execute(
            "UPDATE chat_messages SET context = $2::json, context_form = NULL, context_refs = NULL WHERE id = $1",
            message["id"],
            '{"documents": [{"document_id": "d", "text": "t"}, "odd"]}',
        )
    await chat.mark("d", "superseded")
    for shown, context in (("full", message["context"]), ("refs", {"documents": [{"document_id": "d"}, "odd"]})):
        [found] = (await chat.messages(session, context=shown))["messages"]
        assert (verdict(found), found["context"]) == (("stale", ["d"]), context)
    [found] = (await chat.messages(session, context="none"))["messages"]
    assert (verdict(found), found["context"]) == (("stale", ["d"]), None)


async def test_a_mark_touches_no_message_and_no_session(chat: Chat, db: Database) -> None:
    session = await chat.create()
    await chat.answer(session, {"document_id": "d", "text": "t"})
    rows = "SELECT m.xmin::text, m.ctid::text, s.xmin::text, s.ctid::text FROM chat_messages m JOIN chat_sessions s"
    path = f"/chat/sessions/{session['id']}"
    async with db.driver() as conn:
        before = await conn.fetch(f"{rows} ON s.id = m.session_id WHERE s.id = $1", session["id"])
        answers = [(await chat.get(path)), (await chat.get(f"{path}/messages"))]
        await chat.mark("d")
        assert await conn.fetch(f"{rows} ON s.id = m.session_id WHERE s.id = $1", session["id"]) == before
    again = [(await chat.get(path)), (await chat.get(f"{path}/messages"))]
    assert [one.headers["etag"] for one in again] == [one.headers["etag"] for one in answers] == ['"2"', '"2"']
    assert again[0].json() == answers[0].json()
    conditional = {"sender": "user", "content": "", "context": [{"document_id": "d"}]}
    response = await chat.post(f"{path}/messages", json=conditional, headers={"If-Match": '"2"'})
    assert (response.status_code, response.json()["evidence_status"]) == (201, "withdrawn")


async def test_the_same_mark_again_changes_nothing(chat: Chat) -> None:
    first = await chat.mark("d", "withdrawn", version="1", reason="wrong")
    assert first["marked_at"]
    for _ in range(2):
        assert await chat.mark("d", "withdrawn", version="1", reason="wrong") == first
    others: list[dict[str, Any]] = [{"version": "1"}, {"reason": "wrong"}, {"version": "2", "reason": "wrong"}]
    for other in others:
        assert (await chat.mark("d", "withdrawn", **other))["marked_at"] > first["marked_at"]
    assert (await chat.documents(document_id="d"))["documents"] == [await chat.mark("d", "withdrawn", **other)]


async def test_a_mark_before_the_first_use_holds_and_keeps_what_is_learned_later(chat: Chat) -> None:
    marked = await chat.mark("d", "superseded", version="2")
    assert (marked["answers"], marked["first_used_at"], marked["title"]) == (0, None, None)
    message = await chat.answer(await chat.create(), {"document_id": "d", "text": "t", "title": "T", "version": "1"})
    assert verdict(message) == ("stale", ["d"])
    [document] = (await chat.documents())["documents"]
    assert (document["title"], document["status"], document["marked_at"]) == ("T", "superseded", marked["marked_at"])
    assert document["first_used_at"] == document["last_used_at"] == message["created_at"]
    assert (await chat.mark("d"))["title"] == "T"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        *(({"status": status}, "/status") for status in ("stale", "Withdrawn", "", None, 1, ["withdrawn"])),
        *(({"document_id": id_}, "/document_id") for id_ in ("", None, 7, "x" * 2_049)),
        ({"status": "current", "version": "1"}, "/version"),
        *(({"version": version}, "/version") for version in ("", 2, ["1"])),
        *(({"reason": reason}, "/reason") for reason in [7, True, "x" * 2_001]),
        ({"version": "x" * 2_049}, "/version"),
        ({"title": "T"}, "/title"),
    ],
    ids=repr,
)
async def test_a_mark_that_cannot_be_is_refused_by_field(chat: Chat, body: dict[str, Any], field: str) -> None:
    response = await chat.put("/chat/documents", json={"document_id": "d", "status": "withdrawn", **body})
    problem(response, 422, "validation_error", field)
    assert (await chat.documents(document_id="d"))["documents"] == []


async def test_a_mark_needs_a_document_and_a_status(chat: Chat) -> None:
    for body, field in (({"document_id": "d"}, "/status"), ({"status": "withdrawn"}, "/document_id")):
        problem(await chat.put("/chat/documents", json=body), 422, "validation_error", field)
    problem(await chat.put("/chat/documents"), 400, "malformed_json")
    raw = '{"document_id":"d","status":"withdrawn","reason":"\\u0000"}'
    response = await chat.put("/chat/documents", content=raw, headers={"Content-Type": "application/json"})
    problem(response, 422, "unstorable_text", "/reason")


@pytest.fixture
async def elsewhere(chat: Chat, database_url: str) -> AsyncIterator[Chat]:
    """The same tenant's client of another instance of the service."""
    async with Service.running(settings(database_url=database_url)) as other:
        other.state.keyring.add(chat.key, chat.tenant_id)
        async with Chat(other.url, chat.key, chat.tenant_id) as client:
            yield client


async def test_a_mark_made_in_one_process_shows_in_the_next_answer_of_the_other(chat: Chat, elsewhere: Chat) -> None:
    session = await chat.create()
    message = await chat.answer(session, {"document_id": "d", "text": "t"}, id=str(uuid4()))
    both = (chat, elsewhere)
    for client in both:
        assert verdict(await client.answer(session, {"document_id": "d", "text": "t"})) == ("current", [])
    for number, status in enumerate(("withdrawn", "current", "superseded")):
        one, other = both[:: 1 if number % 2 else -1]
        await one.mark("d", status)
        expected = {"superseded": "stale"}.get(status, status)
        assert {message["evidence_status"] for message in await everywhere(other, session, message)} == {expected}
        await one.mark("d", "withdrawn", reason="once more")
        assert (await other.answer(session, {"document_id": "d"}))["evidence_status"] == "withdrawn"
