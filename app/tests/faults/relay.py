"""A way to PostgreSQL that can be cut, replaced, and that can freeze: open sockets, and nothing passes."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit, urlunsplit


class Relay:
    """Between a service and the server that `url` names."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._upstream = (parts.hostname or query.get("host", ["localhost"])[0], parts.port or 5432)
        self._user = parts.netloc.rpartition("@")[0]
        self._path = parts.path
        self._open: set[asyncio.StreamWriter] = set()
        self._made: list[_Way] = []
        self._way = self._new_way()

    def _new_way(self) -> "_Way":
        self._made.append(_Way())
        return self._made[-1]

    async def start(self, port: int = 0) -> str:
        """Listens, and answers the URL of the database behind it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(("postgresql", f"{self._user}@127.0.0.1:{self.port}", self._path, "", ""))

    def cut(self) -> None:
        """As a server that was stopped: nobody listens, and open connections end."""
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        for way in self._made:
            way.thaw()

    def freeze(self, *, answers_only: bool = False) -> None:
        """Pass nothing on, or no answers: then what was sent is still done."""
        self._way.answers.clear()
        if not answers_only:
            self._way.requests.clear()

    def thaw(self) -> None:
        self._way.thaw()

    def replace(self) -> None:
        """Lead new connections well, and leave the old ones as frozen as they are."""
        self._way = self._new_way()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._upstream
        way = self._way
        self._open.add(writer)
        there = (
            asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            if host[:1] == "/"
            else asyncio.open_connection(host, port)
        )
        try:
            upstream_reader, upstream = await there
        except OSError:
            writer.transport.abort()
            return
        self._open.add(upstream)
        await asyncio.gather(
            self._pass(reader, upstream, way.requests), self._pass(upstream_reader, writer, way.answers)
        )

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                await gate.wait()
                writer.write(piece)
        await gate.wait()  # not even an end passes
        writer.close()


class _Way:
    """What the connections made at one time go through."""

    def __init__(self) -> None:
        self.requests, self.answers = asyncio.Event(), asyncio.Event()
        self.thaw()

    def thaw(self) -> None:
        self.requests.set()
        self.answers.set()


@contextlib.asynccontextmanager
async def black_hole(port: int) -> AsyncIterator[None]:
    """As a host that is gone: whoever connects to `port` gets no answer at all."""
    with socket.socket() as listening, contextlib.ExitStack() as waiting:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        for _ in range(4):  # nobody accepts them, so that Linux drops what comes next
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield
