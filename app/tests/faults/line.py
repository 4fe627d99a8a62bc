"""One client's connection: it knows whether a request is in flight, and leaves the machine to the server."""

import asyncio
import json
import select
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.tests.harness import KEY

Body = Mapping[str, Any] | None
PATIENCE = 60  # seconds; longer than every timeout of the service


class Answer(NamedTuple):
    status: int
    may_be_repeated: bool
    """Whether it says when, by Retry-After."""
    body: dict[str, Any]


class Line:
    def __init__(self) -> None:
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._url = ""
        self._waiting = False

    def in_flight(self) -> bool:
        """Whether a request has been sent of whose answer nothing has arrived, read or not."""
        if not self._waiting or self._streams is None:
            return False
        readable, _, _ = select.select([self._streams[1].get_extra_info("socket")], [], [], 0)
        return not readable

    async def request(self, url: str, method: str, path: str, body: Body, headers: Mapping[str, str]) -> Answer:
        """Ask the server at `url`. Raises OSError or EOFError where no answer comes; in PATIENCE: TimeoutError."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._request(url, method, path, body, headers)
        except (OSError, EOFError, TimeoutError):
            self.close()
            raise
        finally:
            self._waiting = False

    async def _request(self, url: str, method: str, path: str, body: Body, headers: Mapping[str, str]) -> Answer:
        if self._streams is None or url != self._url:
            self.close()
            address = urlsplit(url)
            self._streams, self._url = await asyncio.open_connection(address.hostname, address.port), url
        reader, writer = self._streams
        payload = b"" if body is None else json.dumps(body).encode()
        fields = {"Host": "test", "X-API-Key": KEY, "Content-Type": "application/json", "Content-Length": len(payload)}
        head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **headers}.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + payload)
        await writer.drain()
        self._waiting = True
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        self._waiting = False
        names = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        answered = await reader.readexactly(int(names.get("content-length", 0)))
        if names.get("connection") == "close":
            self.close()
        return Answer(int(status.split()[1]), "retry-after" in names, json.loads(answered or b"{}"))

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
