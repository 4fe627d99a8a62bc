"""What hostile clients send to a real server, byte for byte, and how the server and a bystander fare meanwhile."""

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from app.tests.api.test_raw_socket import head as raw_head
from app.tests.faults.bystander import Bystander, client_of
from app.tests.faults.shapes import OVER_THE_LIMIT, SHAPES, STUCK, Shape
from app.tests.process import DEADLINE, SERVE, Running, run

if sys.platform != "win32":
    import resource

HEAD_TIMEOUT, TRANSFER_TIMEOUT = 2, 3
"""Seconds; shorter than the defaults only so that nobody waits for them."""

MOST_GROWTH = 64 * 1024 * 1024
"""Bytes that the server may take on top, a bound that only what grows without one exceeds."""

HELD = 128 * 1024 * 1024
"""MAX_HELD_BODY_BYTES: fifty bodies of 2 MiB at once are within what is promised."""

MOST_ACCEPTED = 16 * 1024 * 1024
"""Bytes of a body that nobody wants: what the sockets' buffers take, and no more."""

GRANTED = 100
"""Requests for each address; whoever sends more takes several."""

IDLE = 5_000
NEEDED_BY_OTHERS = 500  # open files


class Outcome(NamedTuple):
    """What a client got for its shape: status 0 and no answers where the connection ended without one."""

    status: int
    code: str
    answers: int
    accepted: int

    def is_right(self, shape: Shape) -> bool:
        """Whether `shape` got its one answer, before more of it was taken than buffers hold."""
        expected = (shape.status, shape.code, 1)
        return (self.status, self.code, self.answers) == expected and self.accepted < MOST_ACCEPTED


@asynccontextmanager
async def attacked(place: Path, **settings: str) -> AsyncIterator["Attacked"]:
    """A server that the shapes can be sent to, warm, and watched."""
    chosen = {
        "HEAD_TIMEOUT": str(HEAD_TIMEOUT),
        "TRANSFER_TIMEOUT": str(TRANSFER_TIMEOUT),
        "RATE_LIMIT": f"{GRANTED}/hour",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        **settings,
    }
    async with run(*SERVE, cwd=place, **chosen) as server:
        await server.ready()
        async with server.client() as client:
            await asyncio.gather(*(client.create() for _ in range(50)))  # the pool is as large as it gets
        async with client_of(server, OVER_THE_LIMIT) as client:
            for _ in range(GRANTED):
                await client.get("/health")
        yield Attacked(server)


class Attacked:
    def __init__(self, server: Running) -> None:
        self.server = server
        self.port = int(server.url.rpartition(":")[2])
        self._process = psutil.Process(server.process.pid)
        self._before = self._process.memory_info().rss
        self._files_before = self._files()

    @property
    def growth(self) -> int:
        """Bytes of memory that the server has, or had at its peak, more than before."""
        status = Path(f"/proc/{self._process.pid}/status")
        if status.exists():
            peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
            return peak - self._before
        return self._process.memory_info().rss - self._before

    @property
    def new_files(self) -> int:
        """Open files that the server has more than before."""
        return self._files() - self._files_before

    def _files(self) -> int:
        return 0 if sys.platform == "win32" else self._process.num_fds()

    @property
    def connections(self) -> int:
        """Clients' connections that the server holds."""
        found = self._process.net_connections("tcp")
        return sum(one.laddr.port == self.port and one.status != psutil.CONN_LISTEN for one in found)

    async def until(self, enough: Callable[[int], bool]) -> None:
        """Returns once the server holds `enough` of its clients' connections."""
        async with asyncio.timeout(DEADLINE):
            while not enough(self.connections):  # noqa: ASYNC110 - only the kernel knows
                await asyncio.sleep(0.05)

    async def besieged(self, shapes: Sequence[Shape], copies: int) -> tuple[dict[str, list[Outcome]], list[int]]:
        """Send all `shapes` at once, each so many times: what each got, and what a bystander was answered."""
        bystander = Bystander()
        async with bystander.beside(self.server):
            striking = {shape.name: [self.strike(shape) for _ in range(copies)] for shape in shapes}
            outcomes = await asyncio.gather(*(asyncio.gather(*strikes) for strikes in striking.values()))
        return dict(zip(striking, outcomes, strict=True)), bystander.statuses

    async def strike(self, shape: Shape) -> Outcome:
        """Send `shape` on a connection of its own until it is sent or the server hangs up; what was answered."""
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", self.port))
            sent = _Sent()
            sending = asyncio.create_task(_send(sock, shape, sent))
            try:
                async with asyncio.timeout(DEADLINE):
                    raw = await _answer(sock)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        text = raw.decode("latin-1")
        status = int(text.split()[1]) if raw else 0
        code = text.partition('"code":"')[2].partition('"')[0]
        return Outcome(status, code, len(re.findall(r"HTTP/1\.1 \d{3} ", text)), sent.bytes)

    @asynccontextmanager
    async def idle(self, number: int) -> AsyncIterator[None]:
        """So many connections on which nothing is sent; they end with the block."""
        with ExitStack() as stack:

            def connect() -> None:
                for _ in range(number):
                    stack.enter_context(socket.create_connection(("127.0.0.1", self.port), DEADLINE))

            await asyncio.to_thread(connect)
            yield

    @asynccontextmanager
    async def not_reading(self, number: int) -> AsyncIterator[None]:
        """So many connections that ask for 2 MB again and again, and take nothing of it."""
        async with client_of(self.server, "10.99.0.1") as client:
            session = await client.create()
            for _ in range(10):
                await client.append(session, "x" * 200_000)
        path = f"/chat/sessions/{session['id']}/messages"
        request = raw_head(method="GET", path=path, X_Forwarded_For="10.99.0.2")
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            for _ in range(number):
                sock = stack.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", self.port))
                await loop.sock_sendall(sock, request * 20)
            await self.until(lambda held: held >= number)
            yield


@contextmanager
def open_files(wanted: int) -> Iterator[int]:
    """As many more open files for this process as the system allows, `wanted` at the most."""
    if sys.platform == "win32":
        yield min(wanted, 500)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + NEEDED_BY_OTHERS
    limit = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, soft), hard))
    try:
        yield max(limit, soft) - NEEDED_BY_OTHERS if max(limit, soft) < enough else wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class _Sent:
    bytes: int = 0


async def _send(sock: socket.socket, shape: Shape, sent: _Sent) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        for piece in shape.pieces():
            await loop.sock_sendall(sock, piece)
            sent.bytes += len(piece)
            await asyncio.sleep(shape.pause)
        if shape.ends_its_side:
            sock.shutdown(socket.SHUT_WR)


async def _answer(sock: socket.socket) -> bytes:
    """One answer, or all that comes until the end where it says that the connection ends."""
    loop = asyncio.get_running_loop()
    raw = b""
    with suppress(ConnectionError):
        while more := await loop.sock_recv(sock, 65_536):
            raw += more
            head, ended, body = raw.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if ended and len(body) >= int(length or 0) and b"connection: close" not in head.lower():
                break
    return raw


async def beside_idle(target: Attacked, number: int) -> list[int]:
    """What a bystander is answered while so many connections are open on which nothing is sent."""
    bystander = Bystander()
    async with target.idle(number), bystander.beside(target.server):
        await target.until(lambda held: held >= number)
    return bystander.statuses


async def beside_unread(target: Attacked) -> list[int]:
    """What a bystander is answered until the server has let go of clients that take no answer and stay connected."""
    bystander = Bystander()
    async with target.not_reading(3), bystander.beside(target.server):
        await target.until(lambda held: held <= 1)  # the bystander's
    return bystander.statuses


async def torture(place: Path, say: Callable[[str], None]) -> bool:
    """Every shape fifty times at once, one after another; 200 stuck bodies, idle connections, unread answers."""
    held = True
    async with attacked(place) as target:
        for shape, copies in [*((shape, 50) for shape in SHAPES), (STUCK, 200)]:
            outcomes, statuses = await target.besieged([shape], copies)
            right = sum(outcome.is_right(shape) for outcome in outcomes[shape.name])
            held &= await _untouched(target, statuses, f"{shape.name}: {right} of {copies} right", say)
            held &= right == copies
        with open_files(IDLE) as number:
            statuses = await beside_idle(target, number)
            held &= await _untouched(target, statuses, f"{number} idle connections", say)
        held &= await _untouched(target, await beside_unread(target), "answers that nobody takes", say)
    return held


async def _untouched(target: Attacked, statuses: list[int], what: str, say: Callable[[str], None]) -> bool:
    await target.until(lambda held: held == 0)
    served = sum(status in (200, 201) for status in statuses)
    say(f"{what}; bystander: {served} of {len(statuses)} served; memory at its peak {target.growth / 2**20:+.0f} MiB")
    return served == len(statuses) and target.growth < MOST_GROWTH + HELD and target.new_files <= 0
