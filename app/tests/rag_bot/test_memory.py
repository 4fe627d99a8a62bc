"""Waiting for a service that is busy, without storing anything twice."""

import email.utils
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from memory import Memory, StorageError

from app.tests.rag_bot.answering import LOST, Reply, answering

PROBLEM = {"status": 429, "code": "rate_limited", "detail": "over 10 per 1 minute (RATE_LIMIT)"}
STORED = Reply(201, body=b'{"id": "m1"}')


def page(**content: object) -> Reply:
    return Reply(200, body=json.dumps(content).encode())


def busy(status: int, retry_after: str | None) -> Reply:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Reply(status, headers, json.dumps({**PROBLEM, "status": status}).encode())


def in_two_seconds() -> str:
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize(
    ("first", "shortest_wait"),
    [
        (lambda: busy(429, "1"), 1.0),
        (lambda: busy(503, in_two_seconds()), 0.9),  # a date has whole seconds
        (lambda: busy(503, "soon"), 1.0),
        (lambda: LOST, 1.0),
    ],
    ids=["seconds", "date", "neither", "no answer"],
)
def test_a_message_is_sent_again_as_it_was_after_the_time_asked_for(
    first: Callable[[], Reply], shortest_wait: float
) -> None:
    said: list[str] = []
    with answering(first(), STORED) as (url, received), Memory(url, "key", said.append) as memory:
        started = time.monotonic()
        assert memory.append("s1", "user", "Hello?") == {"id": "m1"}
        waited = time.monotonic() - started
    assert shortest_wait <= waited < shortest_wait + 2
    assert [request.path for request in received] == ["/chat/sessions/s1/messages"] * 2
    assert received[0].body == received[1].body
    assert received[0].body["content"] == "Hello?"
    assert str(UUID(received[0].body["id"])) == received[0].body["id"]
    assert len(said) == 1
    assert "trying again in" in said[0]
    assert "the same id" in said[0]


def test_every_message_has_an_id_of_its_own() -> None:
    with answering(STORED) as (url, received), Memory(url, "key", print) as memory:
        memory.append("s1", "user", "Hello?")
        memory.append("s1", "user", "Hello?")
    assert received[0].body["id"] != received[1].body["id"]


@pytest.mark.parametrize(
    ("reply", "attempts"), [(busy(429, "0"), 6), (busy(503, "3600"), 1)], ids=["stays busy", "asks for an hour"]
)
def test_a_service_that_cannot_be_waited_for_is_given_up(reply: Reply, attempts: int) -> None:
    with (
        answering(reply) as (url, received),
        Memory(url, "key", print) as memory,
        pytest.raises(StorageError, match=rf"{reply.status} rate_limited: over 10 per 1 minute \(RATE_LIMIT\)"),
    ):
        memory.append("s1", "user", "Hello?")
    assert len(received) == attempts
    assert len({request.body["id"] for request in received}) == 1


def test_what_was_retrieved_for_old_answers_is_not_asked_for_with_them() -> None:
    with answering(page(messages=[])) as (url, received), Memory(url, "key", print) as memory:
        memory.latest("s1", 10)
    assert received[0].path == "/chat/sessions/s1/messages?order=desc&page_size=10&context=none"


def test_the_answers_from_a_document_are_read_to_the_last_page_without_their_texts() -> None:
    one, two, three = ({"seq": seq} for seq in (1, 2, 3))
    pages = [([one, two], "c1"), ([], "c2"), ([three], None)]
    replies = [page(messages=messages, next_cursor=cursor) for messages, cursor in pages]
    with answering(*replies) as (url, received), Memory(url, "key", print) as memory:
        assert list(memory.answers_from("wiki/ä%2F?.md")) == [one, two, three]
    asked = [parse_qs(request.path.partition("?")[2]) for request in received]
    named = {"document_id": ["wiki/ä%2F?.md"], "context": ["refs"], "limit": ["100"]}
    assert asked == [named, {**named, "cursor": ["c1"]}, {**named, "cursor": ["c2"]}]
