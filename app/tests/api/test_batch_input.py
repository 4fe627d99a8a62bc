"""What a batch may hold: each fault is named by its message, and then nothing of the batch is stored."""

import json
from typing import Any
from uuid import uuid4

import pytest

from app.api.drafts import NewMessages
from app.tests.api.test_batch import HELLO, batch, nothing_was_stored, path, some, with_ids
from app.tests.harness import Chat, problem


@pytest.mark.parametrize("spell", [str.lower, str.upper])
async def test_two_equal_ids_in_a_batch_are_refused(chat: Chat, spell: Any) -> None:
    session = await chat.create()
    messages = with_ids(3)
    messages[2]["id"] = spell(messages[0]["id"])
    problem(await batch(chat, session, messages), 422, "duplicate_id", "/messages/2/id")
    await nothing_was_stored(chat, session)


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        ({"messages": []}, "validation_error", "/messages"),
        ({"messages": some(501)}, "validation_error", "/messages"),
        ({"messages": {"0": HELLO}}, "validation_error", "/messages"),
        ({"messages": None}, "validation_error", "/messages"),
        ({}, "validation_error", "/messages"),
        ([HELLO], "validation_error", ""),
        ({"messages": [HELLO, 1]}, "validation_error", "/messages/1"),
        ({"messages": [HELLO, {"content": "x"}]}, "validation_error", "/messages/1/sender"),
        ({"messages": [HELLO, {**HELLO, "contnet": "x"}]}, "validation_error", "/messages/1/contnet"),
        ({"messages": [HELLO, {**HELLO, "role": "assistant"}]}, "validation_error", "/messages/1/role"),
        ({"messages": [HELLO, {**HELLO, "id": "x"}]}, "validation_error", "/messages/1/id"),
        ({"messages": [HELLO, {**HELLO, "created_at": "2026-01-01"}]}, "validation_error", "/messages/1/created_at"),
        ({"messages": [HELLO, {**HELLO, "content": "x" * 262_145}]}, "too_large", "/messages/1/content"),
        ({"messages": [HELLO], "id": str(uuid4())}, "validation_error", "/id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_wrong_is_named_and_nothing_is_stored(chat: Chat, bad: Any, code: str, field: str) -> None:
    session = await chat.create()
    problem(await chat.post(f"{path(session)}/batch", json=bad), 422, code, field)
    await nothing_was_stored(chat, session)


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        ('{"k\\u0000":1}', "unstorable_text", "/messages/1/metadata"),  # C01
        ('{"a":["\\ud800"]}', "unstorable_text", "/messages/1/metadata/a/0"),
        ('{"a":1e999}', "number_out_of_range", "/messages/1/metadata/a"),
        ('{"a":' + "[" * 100 + "]" * 100 + "}", "too_deep", "/messages/1/metadata"),
        ('{"a":' + "[" * 10_000, "too_deep", "/messages/1/metadata"),
    ],
)
async def test_what_cannot_be_kept_is_named_by_its_message(chat: Chat, value: str, code: str, field: str) -> None:
    session = await chat.create()
    good = json.dumps({**HELLO, "metadata": {"deep": [[[]]]}})
    raw = f'{{"messages":[{good},{{"sender":"a","content":"[{{","metadata":{value}}},{good}]}}'
    response = await chat.post(
        f"{path(session)}/batch", content=raw.encode(), headers={"Content-Type": "application/json"}
    )
    problem(response, 422, code, field)
    await nothing_was_stored(chat, session)


async def test_a_hundred_levels_are_kept_in_a_batch_too(chat: Chat) -> None:
    session = await chat.create()
    deep = json.loads("[" * 100 + "]" * 100)
    response = await batch(chat, session, some(2, context=deep))
    assert response.status_code == 201
    assert (await chat.messages(session))["messages"][1]["context"] == deep


async def test_twenty_faults_are_told_however_many_messages_have_more(chat: Chat) -> None:
    many = [{**HELLO, **{f"unknown{number}": 0 for number in range(1000)}} for _ in range(100)]
    response = await batch(chat, await chat.create(), many)
    assert len(problem(response, 422, "validation_error")["errors"]) == 20
    sent = {"messages": many, "other": 0}
    assert NewMessages.forget_unknown(sent, 20) == 0  # else pydantic would name all 100,000
    assert sum(len(message.keys() - HELLO.keys()) for message in many) == 19


ONE_INSTANT = [
    *("2026-03-01T12:00:00Z", "2026-03-01T12:00:00.000000+00:00", "2026-03-01T17:30:00+05:30"),
    *("2026-03-01T12:00:00-00:00", "2026-03-01 12:00:00Z", "2026-03-01T12:00:00.0000009Z"),
]
EDGES = {
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00.000000Z",
    "1969-12-31T23:59:59.999999Z": "1969-12-31T23:59:59.999999Z",
    "2026-10-25T02:30:00+01:00": "2026-10-25T01:30:00.000000Z",
    "2026-10-25T02:30:00+02:00": "2026-10-25T00:30:00.000000Z",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59.999999Z",
}
NO_TIMES = [
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-03-01T12:00:00", "2026-03-01"),
    *(1772366400, 1772366400123, 1772366400.285031, "2016-12-31T23:59:60Z", "2026-02-30T00:00:00Z"),
    *("2026-03-01T24:00:00Z", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z", "infinity", "now", ""),
    *("2026-03-01T12:00:00 +05:30", "1772366400", 1e20, -1e20, True),
]


async def test_an_import_keeps_its_times_and_its_order(chat: Chat) -> None:
    session = await chat.create()  # C21
    times = [*ONE_INSTANT, *EDGES]
    messages = [{**HELLO, "content": time, "created_at": time} for time in times]
    stored = (await batch(chat, session, messages)).json()["messages"]
    assert (await chat.messages(session))["messages"] == stored
    assert [message["content"] for message in stored] == times
    expected = ["2026-03-01T12:00:00.000000Z"] * len(ONE_INSTANT) + list(EDGES.values())
    assert [message["created_at"] for message in stored] == expected


@pytest.mark.parametrize("time", NO_TIMES, ids=repr)
async def test_an_import_with_a_time_that_is_none_is_refused_whole(chat: Chat, time: Any) -> None:
    session = await chat.create()
    messages = [{**HELLO, "created_at": "2026-03-01T12:00:00Z"}, {**HELLO, "created_at": time}]
    problem(await batch(chat, session, messages), 422, "validation_error", "/messages/1/created_at")
    await nothing_was_stored(chat, session)
