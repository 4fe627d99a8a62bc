"""Sending requests from Python: where wrk is not installed, and wherever they come at a fixed rate.

    python benchmarks/speed/client.py PORT FILE --connections 32 --seconds 3 [--rate 250]

Flat out, every connection has its next request as soon as the last one is answered. At a rate, requests are due evenly
spaced, whatever became of those before them, each on a connection that is idle or, up to the bound, a new one. Latency
counts from when a request was due: a server that stalls is charged for all that came meanwhile.

FILE holds requests as they go over the wire, each behind a line with its length. Prints one line of JSON: `requests`
answered, in `seconds`, `p50` and `p99` in ms, `cpu` as a share of the time, and `errors`, which count as no answers.
"""

import argparse
import asyncio
import gc
import itertools
import json
import re
import selectors
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import uvloop

HOST = "127.0.0.1"
OPEN = 8  # connections, before the first request of a rate is due: a client has some
PATIENCE = 30.0  # seconds that an answer may take once nothing more is asked

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Load(ABC):
    """Requests that are sent and answered. `latencies` are in seconds."""

    def __init__(self, port: int, requests: Iterable[bytes]) -> None:
        self._port = port
        self._requests = itertools.cycle(requests)
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.is_over = False

    async def connect(self) -> "Connection":
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: Connection(self), HOST, self._port))[1]

    def ask(self, connection: "Connection", since: float) -> None:
        connection.ask(next(self._requests), since)

    def answered(self, connection: "Connection", since: float, answer: bytes) -> None:
        """A whole answer to a request of `since`, a moment of time.monotonic()."""
        now = time.monotonic()
        if answer.startswith(b"HTTP/1.1 2"):
            self.latencies.append(now - since)
        else:
            self.errors.append(answer[:500].decode("latin-1"))
        self.is_idle(connection, now)

    @abstractmethod
    async def run(self, connections: int, seconds: float) -> None: ...

    @abstractmethod
    def is_idle(self, connection: "Connection", now: float) -> None: ...


class FlatOut(Load):
    async def run(self, connections: int, seconds: float) -> None:
        for connection in [await self.connect() for _ in range(connections)]:
            self.ask(connection, time.monotonic())
        await asyncio.sleep(seconds)
        self.is_over = True

    def is_idle(self, connection: "Connection", now: float) -> None:
        if not self.is_over:
            self.ask(connection, now)


class AtRate(Load):
    def __init__(self, port: int, requests: Iterable[bytes], rate: float) -> None:
        super().__init__(port, requests)
        self._rate = rate
        self._idle: list[Connection] = []
        self._waiting: deque[float] = deque()  # when those were due that have no connection yet
        self._opening: set[asyncio.Task[None]] = set()
        self._number = 0  # of connections

    async def run(self, connections: int, seconds: float) -> None:
        self._number = min(OPEN, connections)
        self._idle = [await self.connect() for _ in range(self._number)]
        start = time.monotonic()
        due = [start + number / self._rate for number in range(max(1, round(self._rate * seconds)))]
        for moment in due:
            await asyncio.sleep(moment - time.monotonic())
            self._send(moment, connections)
        deadline = time.monotonic() + PATIENCE
        while (done := len(self.latencies) + len(self.errors)) < len(due):
            if time.monotonic() > deadline:
                self.errors.append(f"{len(due) - done} requests have no answer")
                break
            await asyncio.sleep(0.001)
        self.is_over = True

    def _send(self, due: float, most: int) -> None:
        if self._idle:
            self.ask(self._idle.pop(), due)
            return
        self._waiting.append(due)
        if self._number < most:
            self._number += 1
            task = asyncio.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        self.is_idle(await self.connect(), time.monotonic())

    def is_idle(self, connection: "Connection", now: float) -> None:  # noqa: ARG002 - latency counts from when it was due
        if self._waiting:
            self.ask(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)


class Connection(asyncio.Protocol):
    """One request at a time. Of its answer it reads the status and the length: no server here sends chunks."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.WriteTransport
        self._since = 0.0
        self._received = bytearray()
        self._length = 0  # of the whole answer; 0 until its head is there

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override] # of TCP it is one
        self._transport = transport

    def ask(self, request: bytes, since: float) -> None:
        self._since = since
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._length and (end := self._received.find(_HEAD_END)) >= 0:
            found = _LENGTH.search(self._received, 0, end + len(_HEAD_END))
            if found is None:
                self._load.errors.append("an answer does not tell its length")
                self._transport.abort()
                return
            self._length = end + len(_HEAD_END) + int(found[1])
        if self._length and len(self._received) >= self._length:
            answer, self._received, self._length = bytes(self._received), bytearray(), 0
            self._load.answered(self, self._since, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.is_over:
            self._load.errors.append(f"a connection broke: {exc or 'the server closed it'}")


def new_event_loop(*, precise: bool) -> asyncio.AbstractEventLoop:
    """uvloop's, which is fastest; for a rate one that wakes to the microsecond: uvloop and epoll count milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector()) if precise else uvloop.new_event_loop()


def read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline():
            yield file.read(int(line))


def summary(load: Load, seconds: float, cpu: float) -> dict[str, float | list[str]]:
    """`cpu` in seconds."""
    ordered = sorted(load.latencies) or [0.0]
    p50, p99 = (ordered[len(ordered) * percent // 100] * 1e3 for percent in (50, 99))
    found = {"requests": len(load.latencies), "seconds": seconds, "p50": p50, "p99": p99, "cpu": cpu / seconds}
    return {**found, "errors": load.errors[:3]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--connections", type=int, required=True, help="at a rate: at most")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0, help="requests a second; default: as many as are answered")
    chosen = parser.parse_args()
    requests = list(read(chosen.file))
    gc.disable()  # nothing here is a cycle, and a pause would be taken for the server's
    with asyncio.Runner(loop_factory=lambda: new_event_loop(precise=chosen.rate > 0)) as runner:
        started, used = time.monotonic(), time.process_time()
        load = AtRate(chosen.port, requests, chosen.rate) if chosen.rate else FlatOut(chosen.port, requests)
        runner.run(load.run(chosen.connections, chosen.seconds))
        print(json.dumps(summary(load, time.monotonic() - started, time.process_time() - used)))


if __name__ == "__main__":
    main()
