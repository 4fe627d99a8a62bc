"""Clients that send everything several times, each in an order of its own: what is stored is stored once."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.tests.faults import evidence
from app.tests.harness import Chat
from app.tests.process import SERVE, run

BATCH = 10


async def send(chat: Chat, session: dict[str, Any], messages: int, times: int, seed: int) -> Counter[int]:
    """Send every message `times` times, by its key or, now and then, ten in one batch; the statuses."""
    chance = random.Random(seed)  # noqa: S311 - chance, no secret
    path = f"/chat/sessions/{session['id']}/messages"
    statuses = Counter[int]()
    for _ in range(times):
        for place in chance.sample(range(0, messages, BATCH), messages // BATCH):
            numbers = range(place, place + BATCH)
            if place % 3 == 0:
                bodies = [_body(number) for number in numbers]
                key = {"Idempotency-Key": f"batch-{place}"}
                answers = [await chat.post(f"{path}/batch", json={"messages": bodies}, headers=key)]
            else:
                answers = []
                for number in numbers:
                    key = {"Idempotency-Key": str(number)}
                    answers.append(await chat.post(path, json=_body(number), headers=key))
            statuses.update(answer.status_code for answer in answers)
    return statuses


def _body(number: int) -> dict[str, Any]:
    context = evidence.context(random.Random(number), str(number))  # noqa: S311 - the same each time
    return {"sender": "user", "content": str(number), "context": context}


async def verify(chat: Chat, session: dict[str, Any], messages: int) -> None:
    """Raises AssertionError unless each message and each of its uses is there once, and seq has no gap."""
    found: list[dict[str, Any]] = []
    for page in range(1, messages // 100 + 2):
        found += (await chat.messages(session, page=page, page_size=100))["messages"]
    assert [message["seq"] for message in found] == list(range(1, messages + 1))
    assert sorted(int(message["content"]) for message in found) == list(range(messages))
    assert all(message["context"] == _body(int(message["content"]))["context"] for message in found)
    assert await evidence.unlisted(chat, evidence.SHARED, found) == []


def errors(place: Path) -> list[str]:
    """The ERROR lines of the embedded database of a server that runs in `place`."""
    return [line for line in (place / "data/postgres.log").read_text().splitlines() if "ERROR" in line]


async def torture(place: Path, say: Callable[[str], None]) -> bool:
    """16 clients send the same 600 messages four times each to two workers."""
    async with run(*SERVE, "--workers=2", cwd=place, DATA_DIR="data") as server, server.client() as chat:
        await server.ready()
        session = await chat.create()
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(send(chat, session, 600, 4, seed)) for seed in range(16)]
        statuses = sum((client.result() for client in clients), Counter[int]())
        seconds = time.monotonic() - began
        await verify(chat, session, 600)
        say(f"16 clients, 600 messages four times each: {dict(statuses)} in {seconds:.0f} s, 600 rows, seq 1..600")
        say(f"{len(errors(place))} ERROR lines in PostgreSQL's log, where two of them met")
    return set(statuses) == {200, 201}
