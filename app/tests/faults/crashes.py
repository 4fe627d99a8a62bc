"""The crash ledger: writers append while processes are killed, and whatever was acknowledged must be there, once.

A round starts writers, kills its victim at a random moment while requests are in flight, restarts what a user has
to restart and nothing else, and goes on until every writer has been served again.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.tests.faults import evidence
from app.tests.faults.ledger import Account, Message, Verdict, judge, strangers
from app.tests.faults.stand import VICTIMS, Stand, over_http, over_sql
from app.tests.faults.writers import WAYS, Crowd, Writer
from app.tests.process import DEADLINE

Say = Callable[[str], None]

SESSIONS = 2
EVERYWHERE = "everywhere"
"""A document that most messages of all rounds stand on; each round has one of its own, too."""
CALM = (0.05, 0.5)  # seconds between the search for the victims, during which nobody sends, and the kill
ENDS_THE_SERVER = ("server", "everything")


@dataclass
class Kill:
    victim: str
    in_flight: int
    unanswered: int
    """Requests that got no answer, or a 503, until all was well again."""
    outage: float
    """Seconds from the kill until every writer had been served again."""


@dataclass
class Report:
    seed: int
    kills: list[Kill] = field(default_factory=list)
    repeated: int = 0
    uses: int = 0
    """Of shared documents, each looked up at the end, and told for the answer that made it."""
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def held(self) -> bool:
        return not self.verdict.broken

    def figures(self) -> Iterator[str]:
        """A line for each kind of victim, and one for all."""
        for victim in VICTIMS:
            kills = [kill for kill in self.kills if kill.victim == victim]
            if kills:
                yield f"{victim:10} {len(kills):4} rounds, {_in_flight(kills)}, {_outage(kills)}"
        verdict = self.verdict
        yield (
            f"{len(self.kills)} rounds ({self.repeated} repeated), {_in_flight(self.kills)}, "
            f"{verdict.acknowledged} acknowledged, {verdict.lost} lost, {verdict.doubled} doubled, "
            f"{verdict.found} of {verdict.unacknowledged} unacknowledged there, {self.uses} uses of shared documents, "
            f"{len(verdict.broken)} promises broken"
        )


def _in_flight(kills: list[Kill]) -> str:
    counts = [kill.in_flight for kill in kills]
    return f"in flight at the kill {sum(counts)} (at least {min(counts, default=0)})"


def _outage(kills: list[Kill]) -> str:
    outages = sorted(kill.outage for kill in kills)
    unanswered = sum(kill.unanswered for kill in kills)
    median = outages[len(outages) // 2]
    return f"{unanswered} not served, all served again after {median:.1f} s (at most {outages[-1]:.1f})"


class Crashes:
    def __init__(self, directory: Path, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._crowd = Crowd()
        self.stand = Stand(directory)
        self.report = Report(seed)
        self._starts = 0
        self._begun = 0

    async def run(self, rounds: int, say: Say) -> Report:
        """So many rounds that count, and a look at everything at the end."""
        try:
            await self.start()
            deck = list(reversed(VICTIMS))  # in this order at first: after the server's there are two workers
            while len(self.report.kills) < rounds and self.report.held:
                deck = deck or self._rng.sample(VICTIMS, len(VICTIMS))
                await self.round(deck.pop())
                say(f"round {len(self.report.kills)}/{rounds}: {self._latest()}")
            self.report.verdict = await self.audit()
        except TimeoutError:
            self.report.verdict.broken += [*self._crowd.broken, f"round {self._begun}: not all were served again"]
        finally:
            await self.stand.stop()
        return self.report

    async def start(self) -> None:
        self._starts += 1
        await self.stand.start(workers=2 - self._starts % 2)
        self._crowd.url = self.stand.url
        self._crowd.up.set()

    async def round(self, victim: str) -> None:
        """One kill that counts, with what was written checked afterwards."""
        if victim == "worker" and self.stand.workers == 1:
            victim = "backend"
        while not await self._round(victim):
            self.report.repeated += 1

    async def _round(self, victim: str) -> bool:
        self._begun += 1
        self._crowd.may_hang_up = False
        self._crowd.shared = (EVERYWHERE, f"round/{self._begun}")
        known = set(self._crowd.accounts)
        sessions = [await self._new_session() for _ in range(SESSIONS)]
        over = asyncio.Event()
        writers = [
            Writer(self._crowd, f"r{self._begun}-w{number}", way, self._child(), sessions)
            for number, way in enumerate(WAYS)
        ]
        async with asyncio.timeout(2 * DEADLINE), asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.run(over))
            for writer in writers:
                await writer.served.wait()
            victims = self.stand.victims(victim, self._rng)
            doomed = self.stand.doomed(victim, victims)
            await asyncio.sleep(self._rng.uniform(*CALM))
            before, began = self._not_served(), time.monotonic()
            in_flight = self._kill(victim, victims)
            await self._recover(victim, doomed)
            over.set()
        kill = Kill(victim, in_flight, self._not_served() - before, time.monotonic() - began)
        self.report.verdict = await self.audit(list(self._crowd.accounts.keys() - known))
        if in_flight:
            self.report.kills.append(kill)
        return in_flight > 0

    def _kill(self, victim: str, victims: list[psutil.Process]) -> int:
        """How many requests were in flight at the kill."""
        self._crowd.may_hang_up = victim in (*ENDS_THE_SERVER, "worker")
        in_flight = sum(line.in_flight() for line in self._crowd.lines)
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):  # everything: some go with others
                process.kill()
        return in_flight

    async def _recover(self, victim: str, doomed: list[psutil.Process]) -> None:
        """Restart what a user would have to; the rest comes back by itself."""
        if victim in ENDS_THE_SERVER:
            self._crowd.up.clear()
        await self.stand.replaced(victim, doomed)
        if victim in ENDS_THE_SERVER:
            await self.start()

    async def _new_session(self) -> Account:
        session = await self.stand.client.create(name=f"r{self._begun}")
        self._crowd.accounts[session["id"]] = account = Account(session)
        return account

    async def audit(self, session_ids: list[str] | None = None) -> Verdict:
        """Compare these, or all, sessions with the ledger, over HTTP and in SQL, and their names with all there are.

        And what they stand on with its uses: these are of the last round, which has a document of its own.
        """
        verdict, by_sql = Verdict(), Verdict()
        messages: list[Message] = []
        async with self.stand.sql() as connection:
            for session_id in self._crowd.accounts if session_ids is None else session_ids:
                account, stored = self._crowd.accounts[session_id], await over_http(self.stand.client, session_id)
                messages += stored.messages
                verdict += judge(account, stored)
                by_sql += judge(account, await over_sql(connection, session_id))
            rows = await connection.fetch("SELECT id::text FROM chat_sessions")
            verdict.broken += strangers(self._crowd.accounts, [row["id"] for row in rows])
            verdict.broken += await evidence.faults(connection, session_ids)
        rounds = [f"round/{number}" for number in range(1, self._begun + 1)]
        documents = [EVERYWHERE, *rounds] if session_ids is None else rounds[-1:]
        verdict.broken += await evidence.unlisted(self.stand.client, documents, messages)
        self.report.uses = sum(bool(evidence.uses(message, name)) for message in messages for name in documents)
        verdict.lost, verdict.doubled = max(verdict.lost, by_sql.lost), max(verdict.doubled, by_sql.doubled)
        verdict.broken += by_sql.broken + self._crowd.broken
        return verdict

    def _not_served(self) -> int:
        return self._crowd.outcomes["no answer"] + self._crowd.outcomes["503"]

    def _child(self) -> random.Random:
        return random.Random(self._rng.getrandbits(64))  # noqa: S311 - repeatable, not secret

    def _latest(self) -> str:
        kill = self.report.kills[-1]
        return f"{kill.victim} killed, {_in_flight([kill])}, {_outage([kill])}"


async def torture(place: Path, say: Say, *, rounds: int = 200, seed: int | None = None) -> bool:
    """Kill at random, `rounds` times. True if nothing acknowledged was lost, nothing doubled, nothing else broken."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    say(f"seed {seed}")
    report = await Crashes(place, seed).run(rounds, say)
    for sentence in report.verdict.broken[:20]:
        say(f"BROKEN: {sentence}")
    for line in report.figures():
        say(line)
    return report.held
