"""The limits on a request's head: what is too large, too slow or no HTTP gets an answer, and nothing piles up."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from app.connection import HEAD_BYTES, HEADERS, PIPELINED, Connection
from app.tests.api.test_raw_socket import chunk
from app.tests.api.test_raw_socket import head as raw_head
from app.tests.harness import KEY, Chat, Service, settings
from app.tests.process import DEADLINE, SERVE, run

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
async def limited(database_url: str) -> AsyncIterator[Service]:
    async with Service.running(settings(database_url=database_url), http=Connection) as service:
        yield service


@pytest.fixture(scope="module")
async def hasty(database_url: str) -> AsyncIterator[Service]:
    """A service with next to no patience."""
    chosen = settings(database_url=database_url, head_timeout=0.2, transfer_timeout=0.2)
    async with Service.running(chosen, http=Connection) as service:
        yield service


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[Streams]:
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(DEADLINE):
            yield reader, writer
    finally:
        writer.transport.abort()


def head(size: int, path: str = "/health") -> bytes:
    """The head of a request: `size` bytes from the path to the end of the last header."""
    start = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nX-Filler: ".encode()
    counted = len(start) - len("GET  HTTP/1.1\r\n") + len("\r\n")
    return start + b"f" * (size - counted) + b"\r\n\r\n"


def post(key: str = KEY, **headers: Any) -> bytes:
    """The head of a request that creates a session."""
    return raw_head(key, Content_Type="application/json", **headers)


async def refusal(reader: asyncio.StreamReader) -> tuple[int, dict[str, object], str]:
    """Status, problem and head of an answer after which the server closes."""
    answer = (await reader.read()).decode()
    lines, _, body = answer.partition("\r\n\r\n")
    assert "content-type: application/problem+json" in lines
    assert "connection: close" in lines
    problem = json.loads(body)
    assert f"x-request-id: {problem['request_id']}" in lines
    assert f"content-length: {len(body)}" in lines
    return int(lines.split(" ")[1]), problem, lines


async def test_a_head_up_to_the_limit_is_served_and_one_byte_more_is_a_431(limited: Service) -> None:
    async with connected(limited) as (reader, writer):
        writer.write(head(HEAD_BYTES))
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    async with connected(limited) as (reader, writer):
        writer.write(head(HEAD_BYTES + 1))
        status, problem, _ = await refusal(reader)
        assert (status, problem["code"], problem["status"]) == (431, "head_too_large", 431)


async def test_so_many_headers_are_served_and_one_more_is_a_431(limited: Service) -> None:
    start = f"GET /health HTTP/1.1\r\nX-API-Key: {KEY}\r\n".encode()
    async with connected(limited) as (reader, writer):
        writer.write(start + b"A: b\r\n" * (HEADERS - 1) + b"\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    async with connected(limited) as (reader, writer):
        writer.write(start + b"A: b\r\n" * HEADERS + b"\r\n")
        status, problem, _ = await refusal(reader)
        assert (status, problem["code"]) == (431, "head_too_large")


async def test_who_sends_all_before_it_reads_gets_the_refusal(limited: Service) -> None:
    address = urlsplit(limited.url)

    def call() -> bytes:
        with socket.create_connection((address.hostname, address.port), timeout=DEADLINE) as client:
            client.sendall(b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 100_000)
            return b"".join(iter(lambda: client.recv(65_536), b""))

    assert (await asyncio.to_thread(call)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nX-Endless: ",
        b"GET /",
        f"POST /chat/sessions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: ".encode(),
    ],
    ids=["header", "path", "trailer"],
)
async def test_what_never_ends_is_cut_off(limited: Service, start: bytes) -> None:
    async with connected(limited) as (reader, writer):
        writer.write(start)
        async with Chat(limited.url, KEY) as client:
            await client.get("/livez")  # the server has read the start by now
        writer.write(b"a" * (HEAD_BYTES + 1))  # and the end never comes
        status, problem, _ = await refusal(reader)
        assert (status, problem["code"]) == (431, "head_too_large")


async def test_a_head_that_takes_too_long_is_a_408(hasty: Service) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost:")
        status, problem, _ = await refusal(reader)
        assert (status, problem["code"]) == (408, "head_timeout")


async def test_time_for_the_head_ends_with_the_head(database_url: str) -> None:
    chosen = settings(database_url=database_url, head_timeout=0.2)
    async with Service.running(chosen, http=Connection) as service, connected(service) as (reader, writer):
        writer.write(post(Content_Length=2))
        await asyncio.sleep(0.4)  # the body may be slower than a head
        writer.write(b"{}")
        assert (await reader.readline()) == b"HTTP/1.1 201 Created\r\n"


@pytest.mark.parametrize("framing", [{"Content_Length": 100}, {"Transfer_Encoding": "chunked"}], ids=repr)
async def test_a_body_that_does_not_come_is_a_408_of_its_own_request(hasty: Service, framing: dict[str, Any]) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(post(X_Request_ID="mine", **framing))
        status, problem, _ = await refusal(reader)
        assert (status, problem["code"], problem["request_id"]) == (408, "body_timeout", "mine")


async def test_a_body_that_nobody_reads_does_not_keep_its_connection(hasty: Service) -> None:
    async with connected(hasty) as (reader, writer):
        writer.write(post(key="wrong", Content_Length=100))
        answer = await reader.read()  # ends, though the answer left the connection open
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_slow_body_has_as_long_as_its_bytes_need(database_url: str) -> None:
    chosen = settings(database_url=database_url, transfer_timeout=0.5, transfer_rate=10)
    async with Service.running(chosen, http=Connection) as service, connected(service) as (reader, writer):
        writer.write(post(Content_Length=102))
        writer.write(b" " * 100)  # ten seconds' worth
        await asyncio.sleep(1)  # twice the time for none
        writer.write(b"{}")
        assert (await reader.readline()) == b"HTTP/1.1 201 Created\r\n"


@pytest.mark.parametrize("requests", [1, 3])
async def test_who_ends_only_its_own_side_is_answered(limited: Service, requests: int) -> None:
    async with connected(limited) as (reader, writer):
        writer.write((post(Content_Length=2) + b"{}") * requests)
        writer.write_eof()
        answers = (await reader.read()).decode()
        assert answers.count("HTTP/1.1 201 Created") == requests


async def test_what_ends_in_its_body_is_given_up(limited: Service) -> None:
    async with connected(limited) as (reader, writer):
        writer.write(post(Content_Length=2) + b"{")
        writer.write_eof()
        assert await reader.read() == b""


@pytest.mark.parametrize("framing", [{"Content_Length": 12}, {"Transfer_Encoding": "chunked"}], ids=repr)
@pytest.mark.parametrize("pieces", [1, 2])
async def test_who_asks_for_another_protocol_is_answered_in_this_one(
    limited: Service, framing: dict[str, Any], pieces: int
) -> None:
    head = post(Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQ", **framing)
    body = chunk(b'{"name":"x"}') + b"0\r\n\r\n" if "Transfer_Encoding" in framing else b'{"name":"x"}'
    after = raw_head(method="GET", path="/livez", Connection="close")
    async with connected(limited) as (reader, writer):
        if pieces == 1:
            writer.write(head + body + after)
        else:
            writer.write(head)
            async with Chat(limited.url, KEY) as client:
                await client.get("/livez")  # the server has read the head by now
            writer.write(body + after)
        answers = (await reader.read()).decode()
    assert '"name":"x"' in answers
    assert answers.endswith('{"status":"alive"}')


@pytest.mark.parametrize("more", [{}, {"Connection": "Upgrade", "Upgrade": "h2c"}], ids=["plain", "upgrade"])
async def test_who_sends_requests_without_end_is_answered_a_hundred_and_one(
    limited: Service, more: dict[str, str]
) -> None:
    request = raw_head(method="GET", path="/livez", **more)
    async with connected(limited) as (reader, writer):
        writer.write(request * 150)  # one segment, so that all of it is read
        answers = (await reader.read()).decode()
        assert answers.count("HTTP/1.1 200 OK") == PIPELINED + 1
        assert answers.rpartition("HTTP/1.1 200 OK")[2].count("connection: close") == 1
        assert answers.count("connection: close") == 1


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "blank lines"])
async def test_a_connection_without_a_request_is_not_kept_for_ever(database_url: str, sent: bytes) -> None:
    chosen = settings(database_url=database_url)
    running = Service.running(chosen, http=Connection, timeout_keep_alive=1)
    async with running as service, connected(service) as (reader, writer):
        writer.write(sent)
        assert await reader.read() == b""


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"HELLO\r\n\r\n", b"GET / HTTP/1.1\r\nA b\r\n\r\n"])
async def test_what_is_no_http_gets_a_problem(limited: Service, garbage: bytes) -> None:
    async with connected(limited) as (reader, writer):
        writer.write(garbage)
        status, problem, _ = await refusal(reader)
        assert (status, problem["code"]) == (400, "malformed_request")


async def test_a_trailer_does_not_become_a_header(limited: Service) -> None:
    async with connected(limited) as (reader, writer):
        writer.write(f"POST /chat/sessions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nConnection: close\r\n".encode())
        writer.write(b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"2\r\n{}\r\n0\r\nX-User-Id: somebody\r\n\r\n")
        answer = (await reader.read()).decode()
    assert answer.startswith("HTTP/1.1 201")
    assert '"user_id":null' in answer


async def test_a_refused_head_is_counted_and_logged(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url) as server:
        await server.ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(head(HEAD_BYTES + 1))
        _, problem, _ = await refusal(reader)
        writer.close()
        await server.until(f"app.access {problem['request_id']} - unmatched 431 127.0.0.1")
        async with Chat(server.url, KEY) as client:
            assert 'route="unmatched",status="431"} 1.0' in (await client.get("/metrics")).text


async def test_a_hundred_unfinished_requests_cost_little(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url) as server:
        await server.ready()
        before = psutil.Process(server.process.pid).memory_info().rss
        port = int(server.url.rpartition(":")[2])
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for _, writer in streams:
            writer.write(b"GET /health HTTP/1.1\r\nX-Endless: " + b"a" * 60_000)
            await writer.drain()
        async with Chat(server.url, KEY) as client:
            assert (await client.get("/health")).status_code == 200
        assert psutil.Process(server.process.pid).memory_info().rss - before < 40 * 1024 * 1024
        for _, writer in streams:
            writer.transport.abort()
