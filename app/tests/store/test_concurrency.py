"""Many writers at once: nothing is lost, nothing is doubled, and a reader between them sees one moment."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from app.db import dsn
from app.tests.harness import DEADLINE, Chat, settings

WRITERS = 16
HOLD = "SELECT FROM chat_sessions WHERE id = $1 FOR UPDATE"
HOLD_MARKS = "SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE"
HOLD_NEW = "INSERT INTO chat_sessions (id, tenant_id, is_favorite, metadata) VALUES ($1, 1, false, '{}')"


def path(session: dict[str, Any]) -> str:
    return f"/chat/sessions/{session['id']}/messages"


@pytest.fixture
async def gate(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of our own: what is locked on it, writers wait for."""
    connection = await asyncpg.connect(**dsn.parse(database_url).arguments)
    yield connection
    await connection.close()


async def race(
    gate: asyncpg.Connection, id_: str | int, call: Callable[[int], Awaitable[httpx.Response]], hold: str = HOLD
) -> list[httpx.Response]:
    """The answers of one call by each writer, let go when as many as can have reached the session with this id."""
    transaction = gate.transaction()
    await transaction.start()
    await gate.execute(hold, id_)
    tasks = [asyncio.ensure_future(call(writer)) for writer in range(WRITERS)]
    async with asyncio.timeout(DEADLINE):
        while await waiting(gate) < settings().pool_size:
            pass
    await transaction.rollback()
    return await asyncio.gather(*tasks)


async def waiting(gate: asyncpg.Connection) -> int:
    await gate.execute("SELECT pg_stat_clear_snapshot()")
    activity = "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return int(await gate.fetchval(f"SELECT count(*) FROM {activity}"))


async def write(chat: Chat, session: dict[str, Any], bodies: Iterable[dict[str, Any]]) -> Counter[int]:
    """Append `bodies`, each by whichever of the writers is free, and count the statuses."""
    left, statuses = iter(bodies), Counter[int]()

    async def writer() -> None:
        for body in left:
            statuses[(await chat.post(path(session), json={"sender": "user", **body})).status_code] += 1

    async with asyncio.TaskGroup() as group:  # who fails ends the others: their sockets would outlive the test
        for _ in range(WRITERS):
            group.create_task(writer())
    return statuses


async def history(chat: Chat, session: dict[str, Any]) -> list[dict[str, Any]]:
    """Every message; its pages must agree with the session on how many there are."""
    found: list[dict[str, Any]] = []
    count = (await chat.get(f"/chat/sessions/{session['id']}")).json()["message_count"]
    while len(found) < count:
        page = await chat.messages(session, after=len(found), limit=100)
        assert page["total"] == count
        assert page["messages"]
        found += page["messages"]
    assert [message["seq"] for message in found] == list(range(1, count + 1))
    return found


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


async def test_sixteen_writers_fill_one_session_without_a_gap(chat: Chat) -> None:
    session = await chat.create()
    assert await write(chat, session, ({"content": str(number)} for number in range(320))) == {201: 320}
    stored = await history(chat, session)
    assert sorted(int(message["content"]) for message in stored) == list(range(320))
    after = (await chat.get(f"/chat/sessions/{session['id']}")).json()
    assert (after["message_count"], after["revision"]) == (320, 321)


async def test_what_one_writer_was_told_first_stands_first(chat: Chat) -> None:
    session = await chat.create()

    async def writer(number: int) -> list[int]:
        return [(await chat.append(session, f"{number}"))["seq"] for _ in range(10)]

    told = await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    stored = await history(chat, session)
    for number, seqs in enumerate(told):
        assert seqs == sorted(seqs)
        assert [message["seq"] for message in stored if message["content"] == str(number)] == seqs


async def test_40_ids_sent_8_times_by_16_writers_leave_40_rows(chat: Chat, caplog: pytest.LogCaptureFixture) -> None:
    session = await chat.create()
    ids = [str(uuid4()) for _ in range(40)]
    with caplog.at_level(logging.WARNING):
        found = await write(chat, session, ({"id": id_, "content": id_} for id_ in ids for _ in range(8)))
    assert found == {201: 40, 200: 280}
    assert sorted(message["content"] for message in await history(chat, session)) == sorted(ids)
    assert [record.getMessage() for record in caplog.records] == []
    assert (await chat.get(f"/chat/sessions/{session['id']}")).json()["revision"] == 41


async def test_one_key_is_stored_once_and_everybody_gets_the_same_message(chat: Chat, gate: asyncpg.Connection) -> None:
    session = await chat.create()
    key = {"Idempotency-Key": str(uuid4())}
    body = {"sender": "user", "content": "hello"}
    answers = await race(gate, session["id"], lambda _: chat.post(path(session), json=body, headers=key))
    assert statuses(answers) == {201: 1, 200: WRITERS - 1}
    assert len({answer.text for answer in answers}) == 1
    assert len(await history(chat, session)) == 1


async def test_one_id_with_other_content_is_stored_once_and_conflicts_for_the_rest(
    chat: Chat, gate: asyncpg.Connection
) -> None:
    session = await chat.create()
    id_ = str(uuid4())
    answers = await race(
        gate,
        session["id"],
        lambda writer: chat.post(path(session), json={"id": id_, "sender": "user", "content": str(writer)}),
    )
    assert statuses(answers) == {201: 1, 409: WRITERS - 1}
    first = next(answer.json() for answer in answers if answer.status_code == 201)
    assert await history(chat, session) == [first]


async def test_of_sixteen_conditional_appends_one_happens(chat: Chat, gate: asyncpg.Connection) -> None:
    session = await chat.create()
    answers = await race(
        gate,
        session["id"],
        lambda writer: chat.post(
            path(session), json={"sender": "user", "content": str(writer)}, headers={"If-Match": '"1"'}
        ),
    )
    assert statuses(answers) == {201: 1, 412: WRITERS - 1}
    assert {answer.json().get("revision", 2) for answer in answers} == {2}
    assert len(await history(chat, session)) == 1


async def test_of_sixteen_conditional_puts_one_happens(chat: Chat, gate: asyncpg.Connection) -> None:
    session = await chat.create()
    at = f"/chat/sessions/{session['id']}"
    answers = await race(
        gate, session["id"], lambda writer: chat.put(at, json={"name": str(writer)}, headers={"If-Match": '"1"'})
    )
    assert statuses(answers) == {200: 1, 412: WRITERS - 1}
    winner = next(answer.json() for answer in answers if answer.status_code == 200)
    assert (await chat.get(at)).json() == winner


async def test_of_sixteen_creates_of_one_id_one_happens(chat: Chat, gate: asyncpg.Connection) -> None:
    body = {"id": str(uuid4()), "name": "Leave"}
    answers = await race(gate, body["id"], lambda _: chat.post("/chat/sessions", json=body), HOLD_NEW)
    assert statuses(answers) == {201: 1, 200: WRITERS - 1}
    assert len({answer.text for answer in answers}) == 1
    assert len((await chat.sessions())["sessions"]) == 1


async def test_of_sixteen_deletes_one_happens(chat: Chat, gate: asyncpg.Connection) -> None:
    session = await chat.create()
    await chat.append(session)
    answers = await race(gate, session["id"], lambda _: chat.delete(f"/chat/sessions/{session['id']}"))
    assert statuses(answers) == {204: 1, 404: WRITERS - 1}


async def test_sixteen_that_withdraw_one_document_withdraw_it_once(chat: Chat, gate: asyncpg.Connection) -> None:
    body = {"document_id": "hr/leave.md", "status": "withdrawn"}
    answers = await race(gate, chat.tenant_id, lambda _: chat.put("/chat/documents", json=body), HOLD_MARKS)
    assert statuses(answers) == {200: WRITERS}
    assert len({answer.text for answer in answers}) == 1
    assert await gate.fetchval("SELECT marks FROM tenants WHERE id = $1", chat.tenant_id) == 1


async def test_puts_and_appends_do_not_lose_each_other(chat: Chat, gate: asyncpg.Connection) -> None:
    session = await chat.create()
    at = f"/chat/sessions/{session['id']}"
    bodies = [{"name": "Leave"}, {"is_favorite": True}, {"metadata": {"a": 1}}]

    async def change(writer: int) -> httpx.Response:
        if writer < len(bodies):
            return await chat.put(at, json=bodies[writer])
        return await chat.post(path(session), json={"sender": "user", "content": str(writer)})

    assert all(answer.is_success for answer in await race(gate, session["id"], change))
    after = (await chat.get(at)).json()
    assert (after["name"], after["is_favorite"], after["metadata"]) == ("Leave", True, {"a": 1})
    assert (after["message_count"], after["revision"]) == (WRITERS - 3, 1 + WRITERS)
    assert len(await history(chat, session)) == WRITERS - 3


@asynccontextmanager
async def appending(chat: Chat, session: dict[str, Any], count: int) -> AsyncIterator[asyncio.Task[Counter[int]]]:
    """The writers at work, until they are done."""
    task = asyncio.create_task(write(chat, session, ({"content": str(number)} for number in range(count))))
    try:
        yield task
    finally:
        assert await task == {201: count}


@pytest.mark.parametrize("query", ["page_size=100", "page_size=5&order=desc", "before=999&limit=7", "after=20"])
async def test_a_page_read_between_appends_is_of_one_moment(chat: Chat, query: str) -> None:
    session = await chat.create()
    totals = set()
    async with appending(chat, session, 200) as writing:
        while not writing.done():
            answer = await chat.get(f"{path(session)}?{query}")
            page = answer.json()
            totals.add(page["total"])
            assert answer.headers["etag"] == f'"{page["total"] + 1}"'
            seqs = sorted(message["seq"] for message in page["messages"])
            assert seqs == expected(query, page["total"])
    assert len(totals) > 1  # else nothing was read between


def expected(query: str, total: int) -> list[int]:
    """The seqs of the page in a session with `total` messages and no gap."""
    first, last = {
        "page_size=100": (1, min(100, total)),
        "page_size=5&order=desc": (max(1, total - 4), total),
        "before=999&limit=7": (max(1, total - 6), total),
        "after=20": (21, min(40, total)),
    }[query]
    return list(range(first, last + 1))
