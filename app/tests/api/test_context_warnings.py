"""What of a context is kept and not understood: told by the write, and never a reason to refuse an answer."""

from typing import Any
from uuid import uuid4

import pytest

from app.tests.api.test_round_trip import exact
from app.tests.harness import Chat, problem

UNDERSTOOD: list[Any] = [None, 0, 1, -0.25, 1.7, 0.8300000429153442, 12]
NOT_UNDERSTOOD: list[Any] = ["0.83", "", True, [], {}]
MEBIBYTE = 1_048_576


def path(session: dict[str, Any]) -> str:
    return f"/chat/sessions/{session['id']}/messages"


def answer(*documents: Any, **fields: Any) -> dict[str, Any]:
    return {"sender": "bot", "content": "", "context": {"documents": documents}, **fields}


async def test_scores_that_are_none_are_kept_and_told_of_by_field(chat: Chat) -> None:
    scores = UNDERSTOOD + NOT_UNDERSTOOD
    documents = [{"document_id": "d", "text": "t", "score": score} for score in scores]
    message = await chat.append(await chat.create(), context={"documents": documents})
    places = range(len(UNDERSTOOD), len(scores))
    assert message["context_warnings"] == [
        {"field": f"/context/documents/{place}/score", "message": "is not a number"} for place in places
    ]
    [found] = (await chat.answers_on("d"))["messages"]
    assert exact([document["score"] for document in found["context"]["documents"]]) == exact(scores)
    assert exact([use["score"] for use in found["uses"]]) == exact(UNDERSTOOD + [None] * len(NOT_UNDERSTOOD))


async def test_a_batch_tells_of_each_message_by_its_place(chat: Chat) -> None:
    odd = {"score": "1", "retriever": {"name": 1}}
    bodies = [answer({"score": 1}), answer(odd, "text"), {**answer(), "context": {"query": 7}}]
    response = await chat.post(f"{path(await chat.create())}/batch", json={"messages": bodies})
    told = [[one["field"] for one in message.get("context_warnings", [])] for message in response.json()["messages"]]
    at = "/messages/1/context/documents"
    assert told == [[], [f"{at}/0/score", f"{at}/1"], ["/messages/2/context/query"]]


async def test_warnings_are_told_by_writes_and_their_repeats_and_by_no_read(chat: Chat) -> None:
    session = await chat.create()
    body = answer("text", {"document_id": "d"}, id=str(uuid4()))
    first, again = [await chat.post(path(session), json=body) for _ in range(2)]
    batch = await chat.post(f"{path(session)}/batch", json={"messages": [body]})
    assert [write.status_code for write in (first, again, batch)] == [201, 200, 200]
    for message in (first.json(), again.json()):
        assert message["context_warnings"] == [{"field": "/context/documents/0", "message": "is not an object"}]
    assert batch.json()["messages"][0]["context_warnings"][0]["field"] == "/messages/0/context/documents/0"
    reads = [(await chat.get(f"{path(session)}/{body['id']}")).json(), *(await chat.messages(session))["messages"]]
    for message in [*reads, *(await chat.answers_on("d"))["messages"]]:
        assert "context_warnings" not in message
    assert "context_warnings" not in await chat.append(session, context={"documents": [{"score": 1}]})


@pytest.mark.parametrize(
    "context",
    [
        {"documents": ["text", 7, None, True, [{"document_id": "d"}]]},
        {"documents": [{"document_id": "d", "text": "t"}] * 201},
        {"documents": {"document_id": "d"}},
        {"documents": [{"document_id": "d" * 2_049, "text": "t"}, {"document_id": ""}, {"document_id": 7}]},
        {"documents": [{"text": "t"}, {"page_content": "t"}], "document_id": "d"},
        [["d"], "d", 7],
        "d",
        7,
    ],
    ids=lambda context: repr(context)[:40],
)
async def test_what_identifies_no_document_is_kept_and_stands_on_none(chat: Chat, context: Any) -> None:
    session = await chat.create()
    await chat.mark("d")
    message = await chat.append(session, context=context)
    assert (message["evidence_status"], message["evidence_documents"]) == (None, [])
    message.pop("context_warnings", None)
    assert (await chat.messages(session))["messages"] == [message]
    assert exact(message["context"]) == exact(context)
    assert (await chat.documents())["documents"] == []
    assert (await chat.answers_on("d"))["messages"] == []


async def test_a_document_with_an_odd_field_is_used_all_the_same(chat: Chat) -> None:
    odd = {"document_id": "d", "text": 5, "score": "high", "rank": True, "metadata": "none", "cited": True}
    await chat.append(await chat.create(), context=["odd", odd, {"text": "t"}])
    [message] = (await chat.answers_on("d", cited="true"))["messages"]
    assert message["uses"] == [
        {"chunk_id": None, "version": None, "rank": None, "score": None, "cited": True, "in_prompt": None}
    ]


async def test_a_context_may_be_as_large_as_its_limit_and_no_larger(chat: Chat) -> None:
    session = await chat.create()
    largest = {"documents": [{"document_id": "d", "text": ""}]}
    room = MEBIBYTE - len(exact(largest).replace(" ", ""))
    for too_much in (0, 1):
        largest["documents"][0]["text"] = "x" * (room + too_much)
        body = {"sender": "bot", "content": "", "context": largest}
        responses = [
            await chat.post(path(session), json=body),
            await chat.post(f"{path(session)}/batch", json={"messages": [body, body]}),
        ]
        assert [response.status_code for response in responses] == [422, 422] if too_much else [201, 201]
    for response, field in zip(responses, ("/context", "/messages/0/context"), strict=True):
        fault = problem(response, 422, "too_large", field)["errors"][0]
        assert str(MEBIBYTE) in fault["message"]
    assert (await chat.messages(session))["total"] == 3
    body["content"] = "x" * MEBIBYTE
    assert str(2 * MEBIBYTE) in problem(await chat.post(path(session), json=body), 413, "body_too_large")["detail"]
