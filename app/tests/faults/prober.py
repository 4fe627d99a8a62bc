"""Clients that write, repeat what was not acknowledged, read it back, and remember every answer with its time."""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from app.tests.harness import KEY, Chat
from app.tests.process import DEADLINE

OK = 200, 201


@dataclass(frozen=True)
class Answer:
    sent: float
    """Seconds since the start."""

    took: float
    status: int
    code: str
    retry_after: str

    @property
    def good(self) -> bool:
        return self.status in OK


class Prober:
    """`writers` clients append to one session and two read it, each as fast as it is answered."""

    def __init__(self, url: str, writers: int = 4) -> None:
        self.url = url
        self.answers: list[Answer] = []
        self.acknowledged: dict[str, int] = {}
        """The seq of each message, by its id."""

        self.replayed = 0
        """Appends that had been stored although their first answer was no success."""

        self.forgotten: list[str] = []
        """Reads that lacked what had been acknowledged before they were sent."""

        self._writers = writers
        self._started = time.monotonic()
        self._over = asyncio.Event()
        self._answered = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Prober"]:
        async with Chat(self.url, KEY) as client, asyncio.TaskGroup() as clients:
            client.timeout = DEADLINE
            self._path = f"/chat/sessions/{(await client.create())['id']}"
            for _ in range(self._writers):
                clients.create_task(self._write(client))
            for _ in range(2):
                clients.create_task(self._read(client))
            try:
                yield self
            finally:
                self._over.set()

    def now(self) -> float:
        return time.monotonic() - self._started

    async def until(self, enough: Callable[[Answer], bool], count: int) -> float:
        """Seconds until so many answers to requests sent from now on were of that kind."""
        now = self.now()
        async with asyncio.timeout(DEADLINE):
            async with self._answered:
                await self._answered.wait_for(lambda: sum(map(enough, self.since(now))) >= count)
        return self.now() - now

    def since(self, moment: float) -> Iterable[Answer]:
        return (answer for answer in self.answers if answer.sent >= moment)

    async def good(self, count: int = 24) -> float:
        return await self.until(lambda answer: answer.good, count)

    async def bad(self, count: int = 10) -> float:
        return await self.until(lambda answer: not answer.good, count)

    async def _write(self, client: Chat) -> None:
        while not self._over.is_set():
            body = {"id": str(uuid.uuid4()), "sender": "user", "content": "kept"}
            for attempt in range(1_000):
                status, answer = await self._ask(client, "POST", f"{self._path}/messages", body)
                if status in OK:
                    self.acknowledged[body["id"]] = answer["seq"]
                    self.replayed += attempt > 0 and status == OK[0]
                    break
                await asyncio.sleep(0.05)

    async def _read(self, client: Chat) -> None:
        while not self._over.is_set():
            known = len(self.acknowledged)
            status, answer = await self._ask(client, "GET", f"{self._path}/messages?order=desc&page_size=1", None)
            if status not in OK:
                await asyncio.sleep(0.05)
            elif answer["total"] < known:
                self.forgotten.append(f"{answer['total']} of {known} after {self.now():.2f} s")

    async def _ask(self, client: Chat, method: str, path: str, body: object) -> tuple[int, dict[str, int]]:
        sent = self.now()
        response = await client.request(method, path, json=body)
        answer = response.json()
        self.answers.append(
            Answer(
                sent,
                self.now() - sent,
                response.status_code,
                answer.get("code", ""),
                response.headers.get("retry-after", ""),
            )
        )
        async with self._answered:
            self._answered.notify_all()
        return response.status_code, answer

    def timeline(self) -> str:
        """The statuses over time, each run of successes or failures with its longest answer."""
        answers = sorted(self.answers, key=lambda answer: answer.sent + answer.took)
        return " · ".join(_told(list(run)) for _, run in groupby(answers, lambda answer: answer.good))

    async def faults(self) -> list[str]:
        """What of the promise was broken, with everything that was answered; call it when the clients have ended."""
        found = list(self.forgotten)
        for answer in self.answers:
            if not answer.good and (answer.status, bool(answer.retry_after)) != (503, True):
                found.append(f"{answer.status} {answer.code} after {answer.sent:.2f} s")
            if not answer.good and answer.code not in ("database_unavailable", "timeout", "overloaded"):
                found.append(answer.code)
        stored: dict[str, int] = {}
        async with Chat(self.url, KEY) as client:
            after = 0
            while page := (await client.messages({"id": self._path.rpartition("/")[2]}, after=after, limit=100)):
                if not page["messages"]:
                    break
                stored |= {message["id"]: message["seq"] for message in page["messages"]}
                after = page["messages"][-1]["seq"]
            total = page["total"]
        if sorted(stored.values()) != list(range(1, total + 1)):
            found.append("seq is not dense")
        wrong = [name for name, seq in self.acknowledged.items() if stored.get(name) != seq]
        if wrong or len(stored) != len(self.acknowledged):
            found.append(f"{len(wrong)} lost or moved, {len(stored) - len(self.acknowledged)} too many")
        return found


def _told(run: list[Answer]) -> str:
    counts = Counter(answer.status for answer in run)
    first, last = run[0].sent + run[0].took, run[-1].sent + run[-1].took
    statuses = " ".join(f"{status}\u00d7{count}" for status, count in sorted(counts.items()))
    return f"{first:.1f}\u2013{last:.1f} s {statuses} (max {max(answer.took for answer in run):.1f} s)"
