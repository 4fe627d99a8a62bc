"""How much is let in: ten requests a minute for each client address, and no more at once than can wait."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from app.db import dsn
from app.tests.harness import DEADLINE, KEY, Chat, Service, problem, settings

ORIGIN = "https://app.example.org"
NOBODY = "00000000-0000-0000-0000-000000000000"
BEHIND_A_PROXY = {"proxy_headers": True, "forwarded_allow_ips": "*"}
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "X-API-Key"}

_fresh: Iterator[str] = (f"10.1.{high}.{low}" for high in range(256) for low in range(1, 255))


def at(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


@pytest.fixture(scope="module")
async def limited(database_url: str) -> AsyncIterator[Service]:
    """The service with its default limit, behind a proxy that is believed."""
    chosen = settings(database_url=database_url, rate_limit="10/minute", cors_origins=ORIGIN)
    async with Service.running(chosen, **BEHIND_A_PROXY) as service:
        yield service


@pytest.fixture
async def client(limited: Service) -> AsyncIterator[Chat]:
    """A client from an address that nobody had before."""
    async with Chat(limited.url, KEY) as client:
        client.headers.update(at(next(_fresh)))
        yield client


@pytest.fixture
async def spent(client: Chat) -> Chat:
    """A client that has used its ten requests up."""
    for _ in range(10):
        assert (await client.get("/health")).status_code == 200
    return client


async def test_the_eleventh_request_is_refused_and_says_why_and_until_when(spent: Chat) -> None:
    response = await spent.get("/health")
    assert "RATE_LIMIT" in problem(response, 429, "rate_limited")["detail"]
    assert (response.headers["ratelimit-limit"], response.headers["ratelimit-remaining"]) == ("10", "0")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["retry-after"] == response.headers["ratelimit-reset"]


async def test_every_counted_response_tells_what_is_left(client: Chat) -> None:
    responses = [await client.get("/chat/sessions") for _ in range(10)]
    assert [int(response.headers["ratelimit-remaining"]) for response in responses] == list(range(9, -1, -1))
    assert {response.headers["ratelimit-limit"] for response in responses} == {"10"}
    assert all(1 <= int(response.headers["ratelimit-reset"]) <= 60 for response in responses)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/health", {"X-API-Key": "wrong"}, 401),
        ("GET", "/no/such/path", {}, 404),
        ("GET", f"/chat/sessions/{NOBODY}", {}, 404),
        ("PATCH", "/chat/sessions", {}, 405),
        ("OPTIONS", "/chat/sessions", {"Origin": ORIGIN}, 405),
        ("PUT", f"/chat/sessions/{NOBODY}", {}, 400),
        ("GET", "/chat/sessions?limit=0", {}, 422),
        ("HEAD", "/chat/sessions", {}, 200),
    ],
)
async def test_every_result_takes_one_slot(
    client: Chat, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    for left in range(9, -1, -1):
        response = await client.request(method, path, headers=headers)
        assert (response.status_code, response.headers["ratelimit-remaining"]) == (status, str(left))
    assert (await client.request(method, path, headers=headers)).status_code == 429


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/health", {"X-API-Key": "wrong"}),
        ("GET", "/no/such/path", {}),
        ("PATCH", "/chat/sessions", {}),
        ("PUT", "/chat/sessions/not-an-id", {}),
        ("DELETE", f"/chat/sessions/{NOBODY}", {}),
    ],
)
async def test_the_limit_is_asked_before_anything_else(
    spent: Chat, method: str, path: str, headers: dict[str, str]
) -> None:
    problem(await spent.request(method, path, headers=headers), 429, "rate_limited")


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/metrics", "/openapi.json", "/favicon.ico", "/docs", "/docs/assets/swagger-ui.css"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_open_paths_are_free(spent: Chat, method: str, path: str) -> None:
    response = await spent.request(method, path)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("ratelimit")]


async def test_preflights_are_free_for_those_who_have_nothing_left(spent: Chat) -> None:
    assert (await spent.options("/chat/sessions", headers=PREFLIGHT)).status_code == 200


async def test_what_is_free_takes_no_slot(client: Chat) -> None:
    for _ in range(11):
        assert (await client.options("/chat/sessions", headers=PREFLIGHT)).status_code == 200
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/docs/no-such-page")).status_code == 404
    assert (await client.get("/health")).headers["ratelimit-remaining"] == "9"


async def test_a_refused_request_takes_no_slot(database_url: str) -> None:
    chosen = settings(database_url=database_url, rate_limit="3/second")
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        deadline, accepted, refused = time.monotonic() + 30, 0, 0
        while accepted < 9:  # asked without a pause: if refusals were counted, the window would never open again
            assert time.monotonic() < deadline
            status = (await client.get("/chat/sessions")).status_code
            assert status in (200, 429)
            accepted, refused = accepted + (status == 200), refused + (status == 429)
        assert refused > 9


async def test_each_address_has_its_own_limit(spent: Chat) -> None:
    assert (await spent.get("/health")).status_code == 429
    assert (await spent.get("/health", headers=at(next(_fresh)))).status_code == 200


@pytest.mark.parametrize(
    ("addresses", "same"),
    [
        ([f"2001:db8:0:1::{last:x}" for last in range(1, 12)], "2001:db8:0:1:ffff:ffff:ffff:ffff"),
        ([f"2001:db8:0:2:{part:x}::" for part in range(1, 12)], "2001:DB8:0:2::1"),
        (["198.51.100.7"] * 5 + ["::ffff:198.51.100.7"] * 5, "::ffff:c633:6407"),
    ],
    ids=["low half", "high in the low half", "mapped"],
)
async def test_spellings_and_neighbours_share_one_bucket(client: Chat, addresses: list[str], same: str) -> None:
    for address in addresses[:10]:
        assert (await client.get("/health", headers=at(address))).status_code == 200
    for address in (addresses[0], addresses[-1], same):
        problem(await client.get("/health", headers=at(address)), 429, "rate_limited")


async def test_the_next_64_bits_are_somebody_else(client: Chat) -> None:
    for _ in range(10):
        await client.get("/health", headers=at("2001:db8:0:3::1"))
    assert (await client.get("/health", headers=at("2001:db8:0:3::2"))).status_code == 429
    for other in ("2001:db8:0:4::1", "2001:db8:1:3::1", "::1"):
        assert (await client.get("/health", headers=at(other))).status_code == 200


async def test_a_server_on_both_protocols_counts_a_mapped_address_as_its_ipv4(database_url: str) -> None:
    chosen = settings(database_url=database_url, rate_limit="10/minute")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        port = listening.getsockname()[1]
        async with Service.running(chosen, fd=listening.fileno(), **BEHIND_A_PROXY), httpx.AsyncClient() as client:
            headers = {"X-API-Key": KEY}
            for _ in range(10):
                assert (await client.get(f"http://127.0.0.1:{port}/health", headers=headers)).status_code == 200
            assert (await client.get(f"http://127.0.0.1:{port}/health", headers=headers)).status_code == 429
            for address, status in (("127.0.0.1", 429), ("::1", 200)):
                response = await client.get(f"http://[::1]:{port}/health", headers=headers | at(address))
                assert response.status_code == status


async def test_an_empty_limit_is_no_limit(chat: Chat) -> None:
    for response in [await chat.get("/chat/sessions") for _ in range(30)]:
        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("ratelimit")]


async def begun(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request that the service has begun to read; one byte of its body, `}`, is missing."""
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /chat/sessions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nExpect: 100-continue\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert await reader.readline() == b"\r\n"
    writer.write(b"{")
    return reader, writer


@asynccontextmanager
async def in_flight(service: Service) -> AsyncIterator[None]:
    """Inside, a request waits for the rest of its body; at the end it gets it and is answered."""
    reader, writer = await begun(service)
    yield
    writer.write(b"}")
    assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
    writer.close()


async def test_more_than_can_wait_is_refused_at_once_and_probes_still_answer(database_url: str) -> None:
    chosen = settings(database_url=database_url, pool_size=1, max_waiting=1)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        async with in_flight(service), in_flight(service):
            for path, key in (("/chat/sessions", KEY), ("/no/such/path", KEY), ("/health", "wrong")):
                response = await client.get(path, headers={"X-API-Key": key})
                problem(response, 503, "overloaded")
                assert int(response.headers["retry-after"]) >= 1
            for path in ("/livez", "/readyz", "/metrics", "/docs"):
                assert (await client.get(path)).status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_a_place_is_free_again_when_its_client_hangs_up(database_url: str) -> None:
    chosen = settings(database_url=database_url, pool_size=1, max_waiting=0)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        _, writer = await begun(service)
        problem(await client.get("/health"), 503, "overloaded")
        writer.transport.abort()
        async with asyncio.timeout(DEADLINE):
            while (await client.get("/health")).status_code == 503:
                pass


async def test_a_wait_for_the_database_ends_in_a_503_that_says_what_was_waited_for(database_url: str) -> None:
    chosen = settings(database_url=database_url, pool_size=1, pool_timeout=0.1, command_timeout=2)
    conn = await asyncpg.connect(**dsn.parse(database_url).arguments)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        path = f"/chat/sessions/{(await client.create())['id']}"
        async with conn.transaction():
            await conn.execute("SELECT FROM chat_sessions WHERE id = $1 FOR UPDATE", path.rpartition("/")[2])
            held = asyncio.create_task(client.put(path, json={"name": "waits for the row"}))
            while not await conn.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                pass
            for response, code in ((await client.get(path), "overloaded"), (await held, "timeout")):
                problem(response, 503, code)
                assert int(response.headers["retry-after"]) >= 1
        assert (await client.put(path, json={"name": "free"})).status_code == 200
    await conn.close()
