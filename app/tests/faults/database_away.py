"""The database stopped, restarted, out of reach or frozen, under load, and what the clients were answered meanwhile."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.tests.faults.prober import Prober
from app.tests.faults.relay import Relay, black_hole
from app.tests.faults.servers import Server, server
from app.tests.harness import KEY, Chat
from app.tests.process import DEADLINE, SERVE, run

Say = Callable[[str], None]

CHOSEN = {
    "COMMAND_TIMEOUT": str(10 * DEADLINE),  # which nothing here may use up: the prober gives up before
    "LOG_LEVEL": "CRITICAL",  # nobody reads the log
}
PATIENT = {**CHOSEN, "POOL_TIMEOUT": str(DEADLINE), "CONNECT_TIMEOUT": str(DEADLINE)}
"""Where no wait is for nothing, because who is away says so: on a slow machine a connection takes what it takes."""
IMPATIENT = {**CHOSEN, "POOL_TIMEOUT": "2", "CONNECT_TIMEOUT": "2"}


async def _probes(url: str) -> dict[str, int]:
    async with Chat(url, KEY) as client:
        answers = await asyncio.gather(*(client.get(path) for path in ("/livez", "/readyz", "/health")))
    return {answer.url.path: answer.status_code for answer in answers}


AWAY = {"/livez": 200, "/readyz": 503, "/health": 503}
BACK = dict.fromkeys(AWAY, 200)


class Story:
    """What a scenario found wrong, beside what the prober knows."""

    def __init__(self, prober: Prober, say: Say) -> None:
        self.prober = prober
        self.wrong: list[str] = []
        self._say = say

    async def away(self, what: str, *, timeouts: int = 1) -> None:
        await self.prober.bad(12 * timeouts)
        if (found := await _probes(self.prober.url)) != AWAY:
            self.wrong.append(f"{what}: {found}")

    async def back(self, what: str, *, at_once: bool = True) -> None:
        """Normal service: with `at_once` whatever is sent from now on is served."""
        now = self.prober.now()
        seconds = await self.prober.good()
        if at_once and (late := [answer for answer in self.prober.since(now) if not answer.good]):
            self.wrong.append(f"{what}: {len(late)} answers of {late[0].code} after its return")
        async with asyncio.timeout(DEADLINE):
            while await _probes(self.prober.url) != BACK:  # beside a crowd one may take longer than it may
                pass
        self._say(f"{what}: served again after {seconds:.1f} s")

    async def told(self) -> list[str]:
        """What was wrong; empty where the promise held. Says the statuses over time."""
        self._say(self.prober.timeline())
        known = self.prober
        self._say(f"{len(known.acknowledged)} acknowledged, {known.replayed} of them stored before")
        return [*self.wrong, *await self.prober.faults()]


@dataclass(frozen=True)
class Stage:
    """A service that reaches its database through a relay, and is never restarted."""

    database: Server
    relay: Relay
    url: str


@contextlib.asynccontextmanager
async def staged(place: Path, chosen: Mapping[str, str] = IMPATIENT) -> AsyncIterator[Stage]:
    async with server() as database:
        await database.make()
        await database.start()
        relay = Relay(url_of(database))
        try:
            async with run(*SERVE, cwd=place, DATABASE_URL=await relay.start(), **chosen) as service:
                await service.ready()
                yield Stage(database, relay, service.url)
        finally:
            relay.cut()


async def stopped(stage: Stage, say: Say) -> list[str]:
    """Stopped, nobody listens; killed, its proxy still listens; restarted."""
    async with Prober(stage.url).running() as prober:
        story = Story(prober, say)
        await prober.good()
        await stage.database.end()
        stage.relay.cut()
        await story.away("stopped")
        await stage.database.start()
        await stage.relay.start(stage.relay.port)
        await story.back("stopped")
        await stage.database.end(signal.SIGKILL)
        await story.away("killed")
        await stage.database.start()
        await story.back("killed")
        await stage.database.end()
        await stage.database.start()
        await story.back("restarted")
    return await story.told()


async def out_of_reach(stage: Stage, say: Say) -> list[str]:
    """A host that swallows every packet: nobody refuses, and nobody answers."""
    async with Prober(stage.url, writers=12).running() as prober:
        story = Story(prober, say)
        await prober.good()
        stage.relay.cut()
        async with black_hole(stage.relay.port):
            await story.away("out of reach")
        await stage.relay.start(stage.relay.port)
        await story.back("out of reach", at_once=False)
    return await story.told()


async def frozen(stage: Stage, say: Say) -> list[str]:
    """Sockets that stay open and pass nothing on, with more clients than connections; then a good path, or a thaw."""
    async with Prober(stage.url, writers=12).running() as prober:
        story = Story(prober, say)
        await prober.good()
        stage.relay.freeze()
        await story.away("frozen")
        stage.relay.replace()
        await story.back("frozen, then replaced", at_once=False)
        stage.relay.freeze(answers_only=True)
        await story.away("no answers")
        stage.relay.thaw()
        await story.back("no answers, then thawed", at_once=False)
    found = await story.told()
    return found if prober.replayed else [*found, "no append was stored without its answer: nothing was tried"]


def url_of(*databases: Server) -> str:
    return f"postgresql://postgres@{','.join(database.host for database in databases)}/postgres"


async def torture(place: Path, say: Say) -> bool:
    held = True
    async with staged(place) as stage:
        for scenario in (stopped, out_of_reach, frozen) * 5:
            if found := await scenario(stage, say):
                held = False
                say(f"BROKEN: {found}")
    return held
