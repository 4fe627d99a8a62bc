"""More clients than can be served: what they are told, how long it takes, and whether probes are answered meanwhile."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.tests.harness import KEY, Chat
from app.tests.process import DEADLINE, SERVE, run

PROBES = ("/livez", "/readyz", "/metrics")
PAGE = 100

LOADS = ((8, 0.0), (264, 0.0), (1_000, 1.0), (2_000, 1.0), (1_000, 0.0))
"""Clients, and the seconds they wait when they are refused: 1 is what Retry-After says, 0 is rude.

Of 264, all that the default settings serve and let wait, none is refused.
"""

SECONDS = 10
ROUNDS = 3


@dataclass(frozen=True)
class Answer:
    """`what` is the id of the message that was sent, or the probe's path."""

    status: int
    seconds: float
    what: str


@dataclass(frozen=True)
class Pressed:
    """Every answer that the clients of one load got, and that of the probes meanwhile, each on a new connection."""

    clients: list[Answer]
    probes: list[Answer]

    def with_status(self, status: int) -> list[Answer]:
        return [answer for answer in self.clients if answer.status == status]

    def complaints(self) -> list[str]:
        """What no client and no probe should have met."""
        found = Counter(answer.status for answer in self.clients if answer.status not in (201, 503))
        silent = [answer for answer in self.probes if answer.what == "/livez" and answer.status != 200]
        return [
            *(f"{count} answers were {status}" for status, count in found.items()),
            *(f"{len(silent)} times no answer from /livez" for _ in silent[:1]),
        ]


async def press(url: str, place: Path, sessions: list[str], connections: int, seconds: float, pause: float) -> Pressed:
    """Append over so many connections at once; each asks again once it is answered, or `pause` after a refusal."""
    output = place / "answers.json"
    arguments = (str(output), url, KEY, str(connections), str(seconds), str(pause), *sessions)
    load = await asyncio.create_subprocess_exec(sys.executable, "-m", "app.tests.faults.load", *arguments)
    try:
        probes: list[Answer] = []
        while load.returncode is None:
            probes += [await _probe(url, path) for path in PROBES]
            await asyncio.sleep(0.05)
    finally:
        if load.returncode is None:
            load.kill()
        await load.wait()
    assert load.returncode == 0
    return Pressed([Answer(*told) for told in json.loads(output.read_text())], probes)


async def _probe(url: str, path: str) -> Answer:
    began = time.perf_counter()
    where = urlsplit(url)
    try:
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            status = int((await reader.read())[9:12])
            writer.close()
    except (OSError, TimeoutError, ValueError):
        status = 0
    return Answer(status, time.perf_counter() - began, path)


async def afterwards(client: Chat, sessions: Iterable[str], acknowledged: Iterable[str]) -> list[str]:
    """What is wrong once the load has gone: with the messages that were acknowledged, or with the service."""
    found = []
    stored = Counter([id_ for session in sessions for id_ in await _ids(client, session)])
    lost = [id_ for id_ in acknowledged if not stored[id_]]
    doubled = [id_ for id_, times in stored.items() if times > 1]
    if lost or doubled:
        found.append(f"{len(lost)} acknowledged messages are lost, {len(doubled)} doubled")
    if (status := (await client.get("/health")).status_code) != 200:
        found.append(f"/health answers {status}")
    try:
        async with asyncio.timeout(DEADLINE):
            while busy := await _busy(client):  # noqa: ASYNC110 - it is counted in another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        found.append(f"still counted: {busy}")
    return found


async def _ids(client: Chat, session: str) -> list[str]:
    ids: list[str] = []
    while True:
        page = await client.messages({"id": session}, after=len(ids), limit=PAGE, context="none")
        ids += [message["id"] for message in page["messages"]]
        if not page["has_more"]:
            assert page["total"] == len(ids)
            return ids


async def _busy(client: Chat) -> dict[str, float]:
    lines = (line.split(" ") for line in (await client.get("/metrics")).text.splitlines() if line[:1] != "#")
    values = {words[0]: float(words[-1]) for words in lines}
    return {name: values[name] for name in ("db_pool_connections_in_use", "db_pool_waiting") if values[name]}


async def torture(place: Path, say: Callable[[str], None]) -> bool:
    """Loads of several sizes in turn, so that a slow moment of the machine meets each of them."""
    complaints: list[str] = []
    async with run(*SERVE, cwd=place) as running, running.client() as client:
        await running.ready()
        sessions = [(await client.create())["id"] for _ in range(50)]
        acknowledged: list[str] = []
        for _ in range(ROUNDS):
            for connections, pause in LOADS:
                pressed = await press(running.url, place, sessions, connections, SECONDS, pause)
                acknowledged += [answer.what for answer in pressed.with_status(201)]
                complaints += pressed.complaints()
                say(_figures(connections, pause, pressed))
        complaints += await afterwards(client, sessions, acknowledged)
    say("; ".join(complaints) or f"{len(acknowledged)} acknowledged, each stored once")
    return not complaints


def _figures(connections: int, pause: float, pressed: Pressed) -> str:
    accepted, refused = ([answer.seconds for answer in pressed.with_status(status)] for status in (201, 503))
    probes = "  ".join(
        f"{path} {max(answer.seconds for answer in pressed.probes if answer.what == path) * 1000:.0f}"
        for path in PROBES
    )
    return (
        f"{connections:>5} clients, {pause:g} s patient: {len(accepted) / SECONDS:>5.0f} accepted a second,"
        f" {_quantiles(accepted)}; {len(refused) / SECONDS:>5.0f} refused, {_quantiles(refused)};"
        f" probes at most, in ms: {probes}"
    )


def _quantiles(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    p50, p99, most = (ordered[int((len(ordered) - 1) * part)] * 1000 for part in (0.5, 0.99, 1))
    return f"p50 {p50:.0f} p99 {p99:.0f} max {most:.0f} ms"
