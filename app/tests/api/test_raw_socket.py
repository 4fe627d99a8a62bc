"""Bytes on a socket: bodies that are too large, unread or cut off, and what comes next on the same connection."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any, NamedTuple

import httpx
import pytest

from app.tests.harness import DEADLINE, KEY, Chat, Service, problem, settings

NOBODY = "00000000-0000-0000-0000-000000000000"
JSON = {"Content-Type": "application/json"}
MESSAGE = {"sender": "user", "content": "hello"}
LIMIT = 1_000
FAR_TOO_MUCH = 64 * 1024 * 1024


class Answer(NamedTuple):
    """One answer as it came, `sent` bytes after the head of its request."""

    status: int
    head: str
    sent: int = 0


@pytest.fixture(scope="module")
async def small(database_url: str) -> AsyncIterator[Service]:
    """A service with small limits."""
    chosen = settings(
        database_url=database_url,
        rate_limit="10000/minute",
        max_body_bytes=LIMIT,
        max_content_bytes=10,
        max_context_bytes=20,
        max_metadata_bytes=12,
    )
    async with Service.running(chosen) as service:
        yield service


@pytest.fixture
async def client(small: Service) -> AsyncIterator[Chat]:
    async with Chat(small.url, KEY) as client:
        yield client


def head(key: str = KEY, method: str = "POST", path: str = "/chat/sessions", **headers: Any) -> bytes:
    """The head of a request; `_` in a header's name stands for `-`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", f"X-API-Key: {key}", *lines, "\r\n"]).encode()


def connect(service: Service) -> socket.socket:
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE)


def read_answer(connection: socket.socket) -> Answer:
    """The next answer, its body read; status 0 where the connection ends instead."""
    raw = b""
    while not raw.endswith(b"\r\n\r\n"):
        try:
            byte = connection.recv(1)
        except ConnectionResetError:
            byte = b""
        if not byte:
            return Answer(0, raw.decode())
        raw += byte
    text = raw.decode().lower()
    length = int(text.partition("content-length: ")[2].partition("\r\n")[0] or 0)
    while length > 0:
        length -= len(connection.recv(length))
    return Answer(int(text.split()[1]), text)


def exchange(service: Service, *pieces: bytes, answers: int = 1) -> list[Answer]:
    """Send `pieces` on one connection, then read so many answers."""
    with closing(connect(service)) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return [read_answer(connection) for _ in range(answers)]


def flood(service: Service, start: bytes, piece: bytes) -> Answer:
    """Send `piece` again and again behind `start` until the service hangs up; the answer it gave."""
    with closing(connect(service)) as connection:
        connection.sendall(start)
        sent = 0
        try:
            while sent < FAR_TOO_MUCH:
                sent += connection.send(piece)
        except ConnectionError:
            pass
        return read_answer(connection)._replace(sent=sent)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


@pytest.mark.parametrize("length", [LIMIT + 1, 10**9, 10**18])
async def test_a_length_over_the_limit_is_refused_before_a_byte_is_sent_and_the_connection_closes(
    small: Service, length: int
) -> None:
    start = head(Content_Type="application/json", Content_Length=length)
    refused, end = await asyncio.to_thread(exchange, small, start, answers=2)
    assert (refused.status, end.status) == (413, 0)
    assert "connection: close" in refused.head
    assert "application/problem+json" in refused.head


@pytest.mark.parametrize(("key", "status"), [(KEY, 413), ("wrong", 401)])
@pytest.mark.parametrize("framing", [{"Content_Length": FAR_TOO_MUCH}, {"Transfer_Encoding": "chunked"}], ids=repr)
async def test_a_flood_is_answered_and_cut_off(small: Service, key: str, framing: dict[str, Any], status: int) -> None:
    spaces = b" " * (64 * 1024)  # white space before a JSON value: a body that never becomes wrong by itself
    piece = chunk(spaces) if "Transfer_Encoding" in framing else spaces
    start = head(key, Content_Type="application/json", **framing)
    answer = await asyncio.to_thread(flood, small, start, piece)
    assert answer.status in (status, 0)  # a reset may overtake the answer
    assert answer.sent < FAR_TOO_MUCH / 4  # what the sockets' buffers take, and no more


async def test_a_flood_over_the_rate_limit_is_cut_off(database_url: str) -> None:
    async with Service.running(settings(database_url=database_url, rate_limit="1/hour")) as service:
        start = head(Content_Type="application/json", Content_Length=FAR_TOO_MUCH)
        assert [answer.status for answer in await asyncio.to_thread(exchange, service, head(method="GET"))] == [200]
        refused, end = await asyncio.to_thread(exchange, service, start, answers=2)
        assert (refused.status, end.status) == (429, 0)
        assert (await asyncio.to_thread(flood, service, start, b" " * 65_536)).sent < FAR_TOO_MUCH / 4


HIDDEN = b"GET /no/such/path HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (head("wrong", Content_Type="application/json", Content_Length=len(HIDDEN)), 401),
        (head(Content_Type="text/plain", Content_Length=len(HIDDEN)), 415),
        (head(Content_Type="application/json", Content_Length=len(HIDDEN)), 400),
        (head(method="PATCH", Content_Length=len(HIDDEN)), 405),
        (head(path="/no/such/path", Content_Length=len(HIDDEN)), 404),
        (head(method="GET", Content_Length=len(HIDDEN)), 200),
    ],
)
async def test_a_body_that_nobody_read_is_not_taken_for_the_next_request(
    small: Service, start: bytes, status: int
) -> None:
    after = head(method="GET", path="/health", X_Request_ID="the-real-one")
    first, second = await asyncio.to_thread(exchange, small, start + HIDDEN + after, answers=2)
    assert (first.status, second.status) == (status, 200)
    assert "x-request-id: the-real-one" in second.head


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (head("wrong", Content_Type="application/json", Content_Length=2, Expect="100-continue"), 401),
        (head(Content_Type="application/json", Content_Length=LIMIT + 1, Expect="100-continue"), 413),
        (head(Content_Type="text/plain", Content_Length=LIMIT + 1, Expect="100-continue"), 415),
        (head(path="/no/such/path", Content_Length=2, Expect="100-continue"), 404),
    ],
)
async def test_who_asks_first_is_not_told_to_send_what_is_refused(small: Service, start: bytes, status: int) -> None:
    assert (await asyncio.to_thread(exchange, small, start))[0].status == status


async def test_who_asks_first_is_told_to_go_on(small: Service) -> None:
    start = head(Content_Type="application/json", Content_Length=2, Expect="100-continue")
    answers = await asyncio.to_thread(exchange, small, start, b"{}", answers=2)
    assert [answer.status for answer in answers] == [100, 201]


async def test_requests_sent_in_one_go_are_answered_in_order(small: Service) -> None:
    create = head(Content_Type="application/json", Transfer_Encoding="chunked") + chunk(b"{}") + b"0\r\n\r\n"
    requests = [head(method="GET", path="/livez"), create, head("wrong", method="GET"), head(method="GET")]
    answers = await asyncio.to_thread(exchange, small, b"".join(requests), answers=4)
    assert [answer.status for answer in answers] == [200, 201, 401, 200]


@pytest.mark.parametrize(
    ("field", "fits", "over"),
    [
        ("content", '"0123456789"', '"0123456789a"'),
        ("content", '"\\u00e9éé\\u00e9é"', '"éééééa"'),
        ("content", '"\\u0061\\n\\n\\n\\n\\n\\n\\n\\n\\n"', '"\U0001f378\U0001f378abc"'),
        ("context", '["0123456789012345"]', '["01234567890123456"]'),
        ("context", "[ 1, 2 ,3 , 4, 5, 6, 7, 8,90]", '"é23456789012345678"'),
        ("metadata", '{"k":"é1\\u0032"}', '{"k":"é123"}'),
    ],
)
async def test_a_field_may_be_as_large_as_its_limit_and_no_byte_larger(
    client: Chat, field: str, fits: str, over: str
) -> None:
    path = f"/chat/sessions/{(await client.create())['id']}/messages"
    for value, status in ((fits, 201), (over, 422)):
        content = "" if field == "content" else '"content":"",'
        response = await client.post(path, content=f'{{"sender":"u",{content}"{field}":{value}}}', headers=JSON)
        assert response.status_code == status, response.text
    problem(response, 422, "too_large", f"/{field}")


async def test_a_body_may_be_as_large_as_its_limit_and_no_byte_larger(client: Chat) -> None:
    assert (await client.post("/chat/sessions", content=b"{}".rjust(LIMIT), headers=JSON)).status_code == 201
    response = await client.post("/chat/sessions", content=b"{}".rjust(LIMIT + 1), headers=JSON)
    problem(response, 413, "body_too_large")


@pytest.mark.parametrize("headers", [{}, JSON, {"Content-Type": "text/plain"}], ids=repr)
@pytest.mark.parametrize("framing", ["none", "empty", "chunked"])
async def test_no_body_is_an_empty_object_on_create_and_a_400_elsewhere(
    client: Chat, headers: dict[str, str], framing: str
) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for piece in list[bytes]():
            yield piece

    async def call(method: str, path: str) -> httpx.Response:
        content = {"none": None, "empty": b"", "chunked": nothing()}[framing]
        return await client.request(method, path, content=content, headers=headers)

    created = await call("POST", "/chat/sessions")
    assert created.status_code == 201
    path = f"/chat/sessions/{created.json()['id']}"
    for method, target in (("PUT", path), ("POST", f"{path}/messages")):
        problem(await call(method, target), 400, "malformed_json", "")


async def test_a_byte_order_mark_is_accepted_and_of_duplicate_keys_the_last_wins(client: Chat) -> None:
    body = b'\xef\xbb\xbf{"name":7,"name":"first","metadata":{"a":1,"a":[]},"name":"last"}'
    session = (await client.post("/chat/sessions", content=body, headers=JSON)).json()
    assert (session["name"], session["metadata"]) == ("last", {"a": []})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X-User-Id", value) for value in (b"", b"\xff", b"\xed\xa0\x80", "é".encode() * 256, b"u" * 256)),
        *(("Idempotency-Key", value) for value in (b"", b"k" * 256, b"a b", "é".encode())),
        *(("If-Match", value) for value in (b"", b"7", b'"7', b'"1", "2"', b'w/"1"', b"W/1", b"**", b'"1" "2"')),
    ],
)
async def test_a_header_that_cannot_be_is_a_400_by_name(client: Chat, name: str, value: bytes) -> None:
    for headers in ([(name.encode(), value)], [(name.encode(), b"a")] * 2):
        response = await client.post(f"/chat/sessions/{NOBODY}/messages", json=MESSAGE, headers=headers)
        assert problem(response, 400, "invalid_header", name)["errors"][0]["in"] == "header"
