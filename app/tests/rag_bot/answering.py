"""A real HTTP server that stands for whatever answers at the other end."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple


class Received(NamedTuple):
    method: str
    path: str
    headers: Message  # looked up in any case
    body: Any


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b"{}"


LOST = Reply(0)  # the connection ends without an answer


@contextlib.contextmanager
def answering(*replies: Reply) -> Iterator[tuple[str, list[Received]]]:
    """A server that gives these replies in turn, the last one for ever. Yields its address and what it received."""
    received: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            received.append(Received(self.command, self.path, self.headers, json.loads(body or b"null")))
            reply = replies[min(len(received), len(replies)) - 1]
            if reply is LOST:
                return
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the names the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def completion(text: str | None) -> Reply:
    """The answer of a chat model."""
    return Reply(200, body=json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())
