"""Requests that no honest client sends, byte for byte, and the answer that each must get."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

from app.tests.api.test_raw_socket import FAR_TOO_MUCH, HIDDEN, chunk
from app.tests.api.test_raw_socket import head as raw_head

OVER_THE_LIMIT = "10.66.0.1"
"""The address of a client that has used up what the rate limit grants."""

_addresses = (f"10.67.{high}.{low}" for high in range(256) for low in range(256))

MiB = 1024 * 1024
BLANKS = b" " * 65_536
FLOOD = FAR_TOO_MUCH // len(BLANKS)


@dataclass(frozen=True)
class Shape:
    """Pieces that are sent one after another, `pause` seconds apart; the answer ends them, so they may be endless."""

    name: str
    status: int
    code: str
    pieces: Callable[[], Iterable[bytes]]
    pause: float = 0
    ends_its_side: bool = False


def head(address: str = "", key: str | None = None, **headers: Any) -> bytes:
    """The head of a request for a new session, from an address of its own unless it is given."""
    keys = {} if key is None else {"key": key}
    return raw_head(**keys, X_Forwarded_For=address or next(_addresses), Content_Type="application/json", **headers)


def _body(content: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([head(Content_Length=len(content)) + content])


def _metadata(value: bytes) -> Callable[[], Iterator[bytes]]:
    return _body(b'{"metadata":{"a":%b}}' % value)


def _lines(*lines: str, end: bytes = b"\r\n\r\n") -> Callable[[], Iterator[bytes]]:
    """A head with `lines` before its end, and a hidden request behind it."""
    return lambda: iter([head().removesuffix(b"\r\n") + "\r\n".join(lines).encode() + end + HIDDEN])


def _flood(**sent: Any) -> Callable[[], Iterator[bytes]]:
    return lambda: chain([head(Content_Length=FAR_TOO_MUCH, **sent)], repeat(BLANKS, FLOOD))


def _chunked_flood(**sent: Any) -> Callable[[], Iterator[bytes]]:
    return lambda: chain([head(Transfer_Encoding="chunked", **sent)], repeat(chunk(BLANKS), FLOOD), [chunk(b"{}")])


def _asks_first(**sent: Any) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([head(Expect="100-continue", **{"Content_Length": 2, **sent})])


def _after(start: bytes, **sent: Any) -> Callable[[], Iterator[bytes]]:
    """`start` behind a head, and then bytes without end."""
    return lambda: chain([head(**sent).removesuffix(b"" if sent else b"\r\n") + start], repeat(b"a" * 8192))


CHUNKED = {"Transfer_Encoding": "chunked"}

STUCK = Shape("a body that never comes", 408, "body_timeout", lambda: iter([head(Content_Length=MiB)]))

TIME = [
    Shape("a slow head", 408, "head_timeout", lambda: chain([b"GET / HTTP/1.1\r\nA: "], repeat(b"a")), pause=0.1),
    Shape("half a head", 408, "head_timeout", lambda: iter([b"GET / HTTP/1.1\r\nHost:"])),
    Shape("a slow body", 408, "body_timeout", lambda: chain([head(Content_Length=MiB)], repeat(b" ")), pause=0.1),
    Shape(
        "a slow body in chunks", 408, "body_timeout", lambda: chain([head(**CHUNKED)], repeat(chunk(b" "))), pause=0.1
    ),
    STUCK,
    Shape("chunks that never come", 408, "body_timeout", lambda: iter([head(**CHUNKED)])),
    Shape("trailers that never come", 408, "body_timeout", lambda: iter([head(**CHUNKED) + chunk(b"{}") + b"0\r\n"])),
]

SIZE = [
    Shape("a header without end", 431, "head_too_large", _after(b"X-Endless: ")),
    Shape("headers without end", 431, "head_too_large", lambda: chain([head()[:-2]], repeat(b"A: b\r\n" * 100))),
    Shape("a path without end", 431, "head_too_large", lambda: chain([b"GET /"], repeat(b"a" * 8192))),
    Shape("a chunk's extension without end", 431, "head_too_large", _after(b"1;a=", **CHUNKED)),
    Shape("trailers without end", 431, "head_too_large", _after(chunk(b"{}") + b"0\r\nA: ", **CHUNKED)),
    Shape("blanks without end", 413, "body_too_large", _chunked_flood()),
    Shape("64 MiB", 413, "body_too_large", _flood()),
    Shape("64 MiB without a valid key", 401, "unauthorized", _flood(key="wrong")),
    Shape("64 MiB with an empty key", 401, "unauthorized", _flood(key="")),
    Shape("64 MiB of chunks with a wrong key", 401, "unauthorized", _chunked_flood(key="wrong")),
    Shape("64 MiB over the rate limit", 429, "rate_limited", _flood(address=OVER_THE_LIMIT)),
    Shape("64 MiB of chunks over the rate limit", 429, "rate_limited", _chunked_flood(address=OVER_THE_LIMIT)),
    Shape("asking first with a wrong key", 401, "unauthorized", _asks_first(key="wrong")),
    Shape("asking first over the rate limit", 429, "rate_limited", _asks_first(address=OVER_THE_LIMIT)),
    Shape("asking first with too much", 413, "body_too_large", _asks_first(Content_Length=FAR_TOO_MUCH)),
    Shape(
        "256 KiB in chunks of one byte",
        201,
        "",
        lambda: chain([head(**CHUNKED)], repeat(chunk(b" ") * 4096, 64 - 1), [chunk(b"{}") + b"0\r\n\r\n"]),
    ),
]

JSON = [
    Shape("10,000 deep", 422, "too_deep", _metadata(b"[" * 10_000 + b"]" * 10_000)),
    Shape("10,000 objects deep", 422, "too_deep", _metadata(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)),
    Shape("1 MiB of [", 422, "too_deep", _body(b"[" * MiB)),
    Shape("1 MiB of [ in metadata", 422, "too_deep", _metadata(b"[" * MiB)),
    Shape("numbers that expand", 422, "number_out_of_range", _metadata(b"[%b]" % b",".join([b"1e131071"] * 1_000))),
    Shape("an integer of 5,000 digits", 422, "number_out_of_range", _metadata(b"9" * 5_000)),
    Shape("an integer of 1,900,000 digits", 422, "number_out_of_range", _metadata(b"9" * 1_900_000)),
]

SMUGGLING = [
    Shape(name, 400, "malformed_request", pieces)
    for name, pieces in {
        "Content-Length twice": _lines(f"Content-Length: {len(HIDDEN)}", f"Content-Length: {len(HIDDEN)}"),
        "two lengths": _lines("Content-Length: 0", f"Content-Length: {len(HIDDEN)}"),
        "a length and chunks": _lines(f"Content-Length: {len(HIDDEN)}", "Transfer-Encoding: chunked"),
        "chunks and a length": _lines("Transfer-Encoding: chunked", f"Content-Length: {len(HIDDEN)}"),
        "chunks twice": _lines("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        "an unknown encoding": _lines("Transfer-Encoding: xchunked"),
        "chunks inside": _lines("Transfer-Encoding: chunked, identity"),
        "a blank before the colon": _lines("Content-Length : 2"),
        "a sign": _lines("Content-Length: +2"),
        "a length beyond 64 bits": _lines("Content-Length: 99999999999999999999"),
        "a folded line": _lines("A: b", " c", "Content-Length: 0"),
        "a bare line feed": _lines("A: b\nContent-Length: 0"),
        "bare line feeds": _lines("Content-Length: 0", end=b"\n\n"),
        "a bare carriage return": _lines("A: b\rContent-Length: 0"),
        "a zero byte": _lines("A: \0"),
        "a chunk's line feed": lambda: iter([head(**CHUNKED) + b"2\n{}\r\n0\r\n\r\n"]),
        "a chunk's length beyond 64 bits": lambda: iter([head(**CHUNKED) + b"f" * 17 + b"\r\n"]),
    }.items()
]

HALF_CLOSED = Shape("half-closed", 201, "", _body(b"{}"), ends_its_side=True)

SHAPES = [*TIME, *SIZE, *JSON, *SMUGGLING, HALF_CLOSED]
