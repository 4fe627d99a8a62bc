"""One client's connection: uvicorn's HTTP/1.1 protocol, with bounds on what a client may send, and how slowly.

uvicorn's httptools protocol has none: one unfinished head held 115 MB, a body that never came held its request for
ever, and so did a client that took no answer. What a connection answers itself is a problem like every other error,
with its line in the log.
"""

import asyncio
from collections.abc import Sized
from functools import partial
from typing import Any

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import refusal
from app.corked import Corked
from app.errors import BodyTimeout, HeadTimeout, HeadTooLarge, MalformedRequest, Problem
from app.pace import Pace
from app.settings import Settings
from app.telemetry.asgi import HUNG_UP

HEAD_BYTES = 64 * 1024
"""Request line and headers together; common proxies take 8 to 32 KiB."""

HEADERS = 256
"""Headers of one request: 64 KiB of the shortest would be 13,000, and 2 MB for each connection. Apache takes 100."""

PIPELINED = 100
"""Requests that may be sent before the first of them is answered; what is sent after them is not looked at."""

LINGER = 2.0
"""Seconds in which a client that was refused may go on sending: closing on what it sent would lose it the answer."""

_LATE = "body_is_late"


class Connection(HttpToolsProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._settings: Settings = self.app_state["settings"]
        self.app = _InTime(self.app, self._settings)
        self._unparsed = 0  # bytes since the parser last finished something: a head, trailers or a chunk's extensions
        self._head_size = 0
        self._body_size = 0
        self._in_head = self._in_body = False
        self._again = False  # a head is parsed once more, for the sake of its body
        self._deaf = False  # nothing more that comes is looked at
        self._ended = False  # the client sends no more, and waits for answers
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        pace = partial(Pace, self._settings.transfer_timeout, self._settings.transfer_rate)
        self._body_pace = pace(lambda: self._body_size, self._body_timed_out)
        self._unsent_at_first = 0
        self._answer_pace = pace(lambda: self._unsent_at_first - self._unsent(), self._abort)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._corked = Corked(transport, self.loop)
        self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_busy():
            self.cycle.scope["state"][HUNG_UP] = True
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self._body_pace.stop()
        self._answer_pace.stop()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn hangs up on who only ends its own side
        """Whether the connection stays open: `nc -N` ends its side after its request, and waits for the answer."""
        self._ended = self._is_busy() and not self._in_body and self.scheme == "http"  # TLS has no half to keep open
        return self._ended

    def data_received(self, data: bytes) -> None:
        if not self._deaf:
            self._unset_keepalive_if_required()
            for start in range(0, len(data), HEAD_BYTES):  # so that of what follows a refusal nothing is parsed
                self._parse(data[start : start + HEAD_BYTES])
        if self._deaf:
            return
        if self._in_head and self._head_timer is None:  # not at its beginning: most heads come as a whole
            self._start_head_timer()
        if self._in_body:
            self._body_pace.start()
        elif not (self._in_head or self._is_busy() or self.timeout_keep_alive_task or self.transport.is_closing()):
            self._wait_for_a_request()  # blank lines before a request begin none

    def _parse(self, data: bytes) -> None:
        self._unparsed += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(MalformedRequest())
        if self._unparsed > HEAD_BYTES:
            self._refuse(HeadTooLarge(HEAD_BYTES, HEADERS))

    def _feed(self, data: bytes) -> None:
        while not self._deaf:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()
            else:
                return

    def _ignore_upgrade(self) -> None:
        """Have a new parser read on behind a head that asks for another protocol, as Java's client does by default.

        The old one takes the body for that protocol's bytes: uvicorn creates a session without its name.
        """
        framing = [line for line in self.headers if line[0] in (b"content-length", b"transfer-encoding")]
        self.parser = httptools.HttpRequestParser(self)
        self._again = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % line for line in framing))

    def on_message_begin(self) -> None:
        if not (self._deaf or self._again):
            super().on_message_begin()
            self._in_head, self._head_size = True, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer must not become a header of a request that was let in without it
        self._head_size += len(name) + len(value) + len(": \r\n")
        if len(self.headers) < HEADERS:
            super().on_header(name, value)
        else:
            self._refuse(HeadTooLarge(HEAD_BYTES, HEADERS))

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._in_head, self._unparsed = False, 0
        if self._deaf or self._again:
            self._again = False
        elif self._head_size > HEAD_BYTES:
            self._refuse(HeadTooLarge(HEAD_BYTES, HEADERS))
        elif len(self.pipeline) >= PIPELINED:
            self.cycle.keep_alive = False  # the last of them says that it is the last
            self._deaf = True
        else:
            self._in_body, self._body_size = True, 0
            super().on_headers_complete()
            self.cycle.scope["state"][HUNG_UP] = False
            self.cycle.transport = self._corked  # type: ignore[assignment] # as much of one as an answer uses

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._body_size += len(body)
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        if not (self._deaf or self.parser.should_upgrade()):  # behind such a head there is more, see _ignore_upgrade
            self._in_body = False
            self._body_pace.stop()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._corked.flush()
        super().on_response_complete()
        if self._ended and not self._is_busy():
            self.transport.close()
        if self.transport.is_closing():
            self._watch_what_is_unsent()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_what_is_unsent()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._answer_pace.stop()

    def timeout_keep_alive_handler(self) -> None:
        if self._unsent():
            self._abort()  # close() would wait until it is sent
        else:
            super().timeout_keep_alive_handler()

    def _should_upgrade(self) -> bool:
        return False

    def _is_busy(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _wait_for_a_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._settings.head_timeout, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        if self._is_busy():  # reading pauses while an earlier request is served
            self._start_head_timer()
        else:
            self._refuse(HeadTimeout(self._settings.head_timeout))

    def _body_timed_out(self) -> None:
        if self.flow.read_paused:  # by us: the client may not go on
            self._body_size = 0
            self._body_pace.start()
        elif self._is_busy():
            self._deaf, self.cycle.keep_alive = True, False
            self.cycle.scope["state"][_LATE] = True
            self.cycle.message_event.set()  # whoever waits for the body learns of it, see _InTime
        else:
            self.transport.close()  # its request was answered without it

    def _unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def _watch_what_is_unsent(self) -> None:
        if not self._answer_pace.is_running:
            self._unsent_at_first = self._unsent()
            self._answer_pace.start()

    def _abort(self) -> None:
        self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Answer `problem` unless an answer has begun, and close: what follows cannot be told apart from garbage."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        answer = refusal.answer(problem, self.client[0] if self.client else "-", self.server_state.default_headers)
        if not (self._is_busy() and self.cycle.response_started):
            self.transport.write(answer)
        if self._is_busy() or not self.transport.can_write_eof():
            self._close()
        else:
            self.transport.write_eof()
            self._linger_timer = self.loop.call_later(LINGER, self._close)

    def _close(self) -> None:
        self.transport.close()
        self._watch_what_is_unsent()


class _Flow(FlowControl):
    """Reads on only when no request waits for the answer to another one: uvicorn reads more with each answer."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class _InTime:
    """The application, whose `receive` raises BodyTimeout once the connection has given the body up."""

    def __init__(self, app: Any, chosen: Settings) -> None:  # uvicorn and Starlette type one thing in two ways
        self._app: ASGIApp = app
        self._settings = chosen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_in_time() -> Message:
            message = await receive()
            if _LATE in scope["state"]:
                raise BodyTimeout(self._settings.transfer_timeout, self._settings.transfer_rate)
            return message

        await self._app(scope, receive_in_time, send)
