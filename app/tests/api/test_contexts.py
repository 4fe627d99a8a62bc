"""Contexts: stored in parts, each text once, and put together again equal on every route that returns them."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.db.pool import Database
from app.tests.api.test_round_trip import BIG, OBJECTS, exact, nested
from app.tests.harness import Chat, Service

# Few texts and ids, so that most documents were seen before, with other fields.
TEXTS = st.sampled_from(["Leave is 25 days.", "Leave is 26 days.", "\u2028\U0001f378 e\u0301", ""])
IDS = st.sampled_from(["hr/leave.md", "hr/sick.md", "R\u00e9sum\u00e9", "Re\u0301sume\u0301"])
NUMBERS = st.sampled_from([0, 1, 1.0, True, False, 0.0, -0.0, 1e23, 5e-324, 2**63, 2**64 - 1, None, "1", 0.83])
ANY = NUMBERS | st.sampled_from(["", [], {}, [1.0], {"b": 1, "a": -0.0}, {"a": -0.0, "b": 1}]) | OBJECTS
KNOWN = {
    **dict.fromkeys(("document_id", "chunk_id", "version", "id", "title", "url"), IDS | ANY),
    **dict.fromkeys(("score", "rerank_score", "rank", "in_prompt", "cited"), NUMBERS),
    **dict.fromkeys(("text", "page_content"), TEXTS | ANY),
    "metadata": st.dictionaries(st.sampled_from(["source", "request", ""]), IDS | ANY, max_size=2) | ANY,
    "note": ANY,
}
OWN = st.fixed_dictionaries(
    {"document_id": IDS, "text": TEXTS},
    optional={name: values for name, values in KNOWN.items() if name not in ("document_id", "text")},
)
LANGCHAIN = st.fixed_dictionaries(
    {"page_content": TEXTS, "metadata": st.fixed_dictionaries({"source": IDS}, optional={"page": NUMBERS})},
    optional={"id": IDS, "type": st.just("Document"), "score": NUMBERS},
)
DOCUMENTS = st.lists(OWN | LANGCHAIN | st.fixed_dictionaries({}, optional=KNOWN) | ANY, max_size=5)
OBJECT = st.fixed_dictionaries({"documents": DOCUMENTS}, optional={"query": ANY, "retriever": ANY, "k": OBJECTS})
CONTEXTS = OBJECT | OBJECT | DOCUMENTS | st.builds(lambda documents: {"documents": documents}, ANY) | OBJECTS
SPLIT = {"text": "seen", "document_id": "a", "title": "T", "metadata": {"request": 1}}
DEEP = [{"text": "deep", "metadata": nested(98, "o")}, {"text": "deep", "metadata": nested(98, "ol")}]
READS = ("?page_size=2", "?order=desc", "?after=0", "?before=3")


@pytest.fixture(scope="module")
async def tenant(service: Service) -> AsyncIterator[Chat]:
    """One client for all examples: what they store is stored already for the next."""
    async with await service.new_tenant() as client:
        yield client


def shown_as(context: Any, shown: str) -> str:
    """What `context` looks like, as strict text; told of the contract alone."""
    if shown == "none":
        return "null"
    listed = context.get("documents") if isinstance(context, dict) else context
    if shown == "full" or not isinstance(listed, list):
        return exact(context)
    texts = ("text", "page_content")
    items = [
        {k: v for k, v in item.items() if k not in texts or not isinstance(v, str)} if isinstance(item, dict) else item
        for item in listed
    ]
    return exact(items if isinstance(context, list) else {**context, "documents": items})


def anchored(context: Any, document_id: str) -> Any:
    """The context with one more document, by which the message is found."""
    anchor = {"document_id": document_id, "text": "anchor", "score": -0.0}
    if isinstance(context, list):
        return [*context, anchor]
    if isinstance(context, dict) and isinstance(context.get("documents", []), list):
        return {**context, "documents": [anchor, *context.get("documents", [])]}
    return {"documents": [anchor], "other": context}


def documents_in(anchored: Any) -> list[Any]:
    return list(anchored if isinstance(anchored, list) else anchored["documents"])


async def everywhere(chat: Chat, contexts: list[Any], document_id: str, shown: str) -> list[list[Any]]:
    """The contexts of these messages, in order, as each route returns them."""
    path = f"/chat/sessions/{(await chat.create())['id']}/messages"
    other = f"/chat/sessions/{(await chat.create())['id']}/messages"
    query = {"context": shown}
    sent = [{"id": str(uuid4()), "sender": "bot", "content": "", "context": context} for context in contexts]
    writes = [await chat.post(path, json=one, params=query) for one in sent + sent]
    batches = [await chat.post(f"{other}/batch", json={"messages": sent}, params=query) for _ in range(2)]
    assert [write.status_code for write in (*writes, *batches)] == [201, 201, 200, 200, 201, 200]
    lists = [await chat.get(f"{place}{read}&context={shown}") for place in (path, other) for read in READS]
    lists.append(await chat.get("/chat/documents/messages", params={**query, "document_id": document_id}))
    gets = [await chat.get(f"{path}/{one['id']}", params=query) for one in sent]
    places = {one["id"]: place for place, one in enumerate(sent)}
    found = [[write.json() for write in writes[:2]], [write.json() for write in writes[2:]], [g.json() for g in gets]]
    found += [sorted(one.json()["messages"], key=lambda message: places[message["id"]]) for one in (*batches, *lists)]
    return [[message["context"] for message in messages] for messages in found]


@settings(max_examples=8)
@given(CONTEXTS, CONTEXTS, st.sampled_from(["full", "full", "refs", "none"]))
@example([SPLIT], {"documents": [{"text": "seen", "document_id": "a", "score": 1}]}, "full")  # fields that are gone
@example([SPLIT], [SPLIT | {"metadata": {"request": number}} for number in (1.0, True, 0, -0.0, 1e23)], "full")
@example([SPLIT | {"metadata": {"request": 1.0}}, SPLIT, SPLIT | {"rank": BIG}], [SPLIT, "odd", [1], SPLIT], "full")
@example([SPLIT] * 201, [SPLIT] * 199, "full")
@example([SPLIT] * 201, [SPLIT | {"score": number} for number in (1, 1.0, True)], "refs")
@example(DEEP, {"documents": []}, "full")
@example(0, "documents", "refs")
async def test_contexts_come_back_equal_on_every_route(tenant: Chat, one: Any, two: Any, shown: str) -> None:
    document_id = f"anchor {uuid4()}"
    contexts = [anchored(one, document_id), anchored(two, document_id)]
    expected = [shown_as(context, shown) for context in contexts]
    found = await everywhere(tenant, contexts, document_id, shown)
    assert len(found) == 14
    for messages in found[:-1]:
        assert [exact(context) for context in messages] == expected
    understood = [text for text, context in zip(expected, contexts, strict=True) if len(documents_in(context)) <= 200]
    assert sorted(map(exact, found[-1])) == sorted(understood * 2)


async def test_a_text_is_stored_once_and_in_no_message(chat: Chat, db: Database) -> None:
    session = await chat.create()
    for number in range(3):
        await chat.answer(
            session, {"document_id": "d", "text": "only once", "score": number, "metadata": {"n": number}}
        )
    await chat.append(session, context=[{"page_content": "only once", "metadata": {"source": "d"}}])
    async with db.driver() as conn:
        bodies = await conn.fetch("SELECT body::text FROM evidence WHERE tenant_id = $1", chat.tenant_id)
        rows = await conn.fetch("SELECT * FROM chat_messages WHERE session_id = $1", session["id"])
    assert [body["body"].count("only once") for body in bodies] == [1, 1]  # as text, and as page_content
    assert not [row for row in rows if "only once" in str(row) or row["context"] or not row["context_form"]]


async def test_what_comes_later_changes_no_context(chat: Chat) -> None:
    session = await chat.create()
    first = {"document_id": "d", "chunk_id": "c", "version": "1", "title": "Old", "text": "t", "metadata": {"a": 1}}
    before = await chat.answer(session, first)
    for later in ({**first, "title": "New", "metadata": {}}, {**first, "version": "2", "text": "u"}, {"text": "t"}):
        await chat.answer(session, later)
    await chat.mark("d", "superseded", version="1")
    [message, *_] = (await chat.messages(session))["messages"]
    assert message == before
    assert message["context"] == {"documents": [first]}


async def test_what_refs_leave_out_is_the_same_on_the_write_and_on_reads(chat: Chat) -> None:
    session = await chat.create()
    both = {"documents": [{"document_id": "d", "text": "t", "page_content": "p"}, {"text": 1, "page_content": "p"}]}
    path = f"/chat/sessions/{session['id']}/messages"
    body = {"sender": "assistant", "content": "", "context": both}
    appended = (await chat.post(f"{path}?context=refs", json=body)).json()
    assert appended["context"] == {"documents": [{"document_id": "d"}, {"text": 1}]}
    assert (await chat.messages(session, context="refs"))["messages"][0]["context"] == appended["context"]


@pytest.mark.parametrize("shown", ["", "FULL", "all", "true"])
async def test_another_way_to_show_contexts_is_refused(chat: Chat, shown: str) -> None:
    path = f"/chat/sessions/{(await chat.create())['id']}/messages"
    for target in (path, f"{path}/{uuid4()}", "/chat/documents/messages?document_id=d"):
        response = await chat.get(f"{target}{'&' if '?' in target else '?'}context={shown}")
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "context")


async def test_two_tenants_share_no_text_and_see_no_difference(chat: Chat, stranger: Chat, db: Database) -> None:
    document = {"document_id": "d", "text": "known to both", "title": "T"}
    answers = []
    for tenant in (chat, stranger):
        session = await tenant.create()
        answers.append([await tenant.answer(session, document) for _ in range(2)])
        answers[-1] += (await tenant.answers_on("d"))["messages"]
        answers[-1] += (await tenant.documents())["documents"]
    told = [{**one, **dict.fromkeys(LOCAL & one.keys())} for one in answers[0] + answers[1]]
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    async with db.driver() as conn:
        stored = await conn.fetch("SELECT tenant_id, document_ref FROM evidence WHERE body->>'text' = 'known to both'")
    assert sorted(row["tenant_id"] for row in stored) == sorted([chat.tenant_id, stranger.tenant_id])
    assert len({row["document_ref"] for row in stored}) == 2


LOCAL = {"id", "session_id", "created_at", "first_used_at", "last_used_at"}
