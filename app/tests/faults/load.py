"""Many clients at once, in a process of their own so that neither they nor the test starve each other.

`python -m app.tests.faults.load URL KEY CONNECTIONS SECONDS PAUSE SESSION…` appends on every connection, one
request after the other, PAUSE seconds after a refusal; a JSON list of [status, seconds, id] is its output.
`retry-after` is missing from a 503: its status is told as -503.
"""

import asyncio
import json
import sys
import time
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop

_LEAST = 503


class Client(asyncio.Protocol):
    """One connection that always has a request in flight, until `stop`."""

    def __init__(self, head: str, pause: float, told: list[tuple[int, float, str]]) -> None:
        self.idle = asyncio.get_running_loop().create_future()
        self._head = head
        self._pause = pause
        self._told = told
        self._stopped = False
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self) -> None:
        self._id = str(uuid4())
        body = f'{{"id":"{self._id}","sender":"user","content":"hello"}}'
        self._sent_at = time.perf_counter()
        self._transport.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self._received = b""
        status = int(head[9:12])
        refused = status >= _LEAST
        if refused and b"retry-after: " not in head.lower():
            status = -status
        self._told.append((status, time.perf_counter() - self._sent_at, self._id))
        if self._stopped:
            self.stop()
        elif refused and self._pause:
            self._sent_at = 0
            asyncio.get_running_loop().call_later(self._pause, self._go_on)
        else:
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        if not self.idle.done():
            self._told.append((0, time.perf_counter() - self._sent_at, self._id))
            self.idle.set_result(None)

    def finish(self) -> None:
        """Ends after the answer that it waits for."""
        self._stopped = True
        if not self._sent_at:
            self.stop()

    def stop(self) -> None:
        if not self.idle.done():
            self.idle.set_result(None)
        self._transport.close()

    def _go_on(self) -> None:
        if not self._stopped:
            self.ask()


async def load(
    url: str, key: str, connections: int, seconds: float, pause: float, sessions: list[str]
) -> list[tuple[int, float, str]]:
    told: list[tuple[int, float, str]] = []
    where = urlsplit(url)
    clients: list[Client] = []
    ids = cycle(sessions)
    for _ in range(connections):
        head = (
            f"POST /chat/sessions/{next(ids)}/messages HTTP/1.1\r\nHost: {where.netloc}\r\n"
            f"X-API-Key: {key}\r\nContent-Type: application/json\r\n"
        )
        _, client = await asyncio.get_running_loop().create_connection(
            partial(Client, head, pause, told), str(where.hostname), where.port or 80
        )
        clients.append(client)
    for client in clients:
        client.ask()
    await asyncio.sleep(seconds)
    for client in clients:
        client.finish()
    await asyncio.gather(*(client.idle for client in clients))
    return told


if __name__ == "__main__":
    _, output, url, key, connections, seconds, pause, *sessions = sys.argv
    answers = uvloop.run(load(url, key, int(connections), float(seconds), float(pause), sessions))
    Path(output).write_text(json.dumps(answers))
