"""One write for an answer's head and its body: uvicorn writes them one after the other, each at once.

Two are two system calls here, two packets on the way and two reads at the client: a twentieth of a short request.
"""

import asyncio

_ANSWER = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 100"


class Corked:
    """A transport as an answer uses it: a head waits for what is written next, or until this round of the loop ends.

    What is held is told by its first bytes: a part of a body that begins alike is a round late, and no more.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(_ANSWER) and not data.startswith(_INTERIM):
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write what is held."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
