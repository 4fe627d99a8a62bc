"""Behind proxies: whose address counts, for every line that proxies write."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import EXAMPLE_KEY
from app.tests.harness import KEY, Chat, Service, problem, settings
from app.tests.process import SERVE, run
from app.tests.proxy import on_a_socket

TRUSTED = "127.0.0.1, 10.0.0.0/8, fd00::/8"

_fresh: Iterator[str] = (f"198.51.{high}.{low}" for high in range(100, 256) for low in range(1, 255))


@pytest.fixture(scope="module")
async def believing(database_url: str) -> AsyncIterator[Service]:
    """The service behind proxies in private networks, as `python -m app serve` sets it up."""
    chosen = settings(database_url=database_url, rate_limit="1000/hour", forwarded_allow_ips=TRUSTED)
    async with Service.running(chosen, proxy_headers=True, forwarded_allow_ips=chosen.forwarded_allow_ips) as service:
        yield service


async def left(client: httpx.AsyncClient, *lines: str) -> int:
    """How many requests the client has left whom these lines of X-Forwarded-For name."""
    response = await client.get("/health", headers=[(b"X-Forwarded-For", line.encode()) for line in lines])
    assert response.status_code == 200, response.text
    return int(response.headers["ratelimit-remaining"])


@pytest.mark.parametrize(
    "lines",
    [
        ["{}"],
        ["{}, 10.0.0.1"],
        ["{},10.0.0.1 , 10.9.9.9,fd00::1"],
        ["{}, ::ffff:10.0.0.1"],
        ["{}, FD00:0:0:0:0:0:0:1"],
        ["{}:5678"],
        ["{}:5678, 10.0.0.1:80"],
        ["{}:5678, [fd00::1]:443"],
        ["::ffff:{}"],
        ["[::ffff:{}]:5678"],
        ['"{}"'],
        ['"{}:5678"'],
        ["{}:"],
        ["9.9.9.9, {}"],
        ["9.9.9.9, unknown, , {}, 10.0.0.1"],
        ["127.0.0.1, 10.0.0.1, {}"],
        ["9.9.9.9", "{}"],
        ["{}", "10.0.0.1"],
        ["9.9.9.9, {}", "10.0.0.1, 10.0.0.2"],
        [", {}"],
    ],
    ids=repr,
)
async def test_the_last_address_that_no_proxy_of_ours_has_is_the_client(believing: Service, lines: list[str]) -> None:
    address = next(_fresh)
    async with Chat(believing.url, KEY) as client:
        assert await left(client, *(line.format(address) for line in lines)) == 999
        assert await left(client, *(line.format(address).replace("5678", "5679") for line in lines)) == 998
        assert await left(client, address) == 997


async def test_an_ipv6_client_is_its_64_in_every_spelling(believing: Service) -> None:
    spellings = ("2001:db8:7::1", "[2001:db8:7::2]", "[2001:db8:7::3]:443", '"[2001:db8:7::4]"', '"[2001:db8:7::5]:1"')
    async with Chat(believing.url, KEY) as client:
        seen = [await left(client, line) for line in (*spellings, "2001:DB8:7:0:0:0:0:6", "2001:db8:7::7%eth0")]
    assert seen == list(range(999, 992, -1))


async def test_clients_without_an_address_share_one_limit(believing: Service) -> None:
    lines = ("unknown", "_hidden", "1.2.3", "9.9.9.9.9", "a b 200 0.1ms", "é", "-", "1:2:3:port")
    async with Chat(believing.url, KEY) as client:
        first = await left(client, lines[0])
        assert [await left(client, line) for line in lines[1:]] == list(range(first - 1, first - len(lines), -1))


async def test_without_a_usable_line_the_peer_itself_is_counted(believing: Service) -> None:
    async with Chat(believing.url, KEY) as client:
        first = await left(client)
        for spent, lines in enumerate(([""], ["", ""], [", ,"], ["127.0.0.1"]), 1):
            assert await left(client, *lines) == first - spent


@pytest.mark.parametrize(
    ("listed", "meant"),
    [
        ("", ""),
        ("*", "*"),
        (" * ", "*"),
        ("10.0.0.1, *", "*"),
        ("fd00::/8", "fd00::/8"),
        ("FD00:0::1", "fd00::1/128"),
        ("10.0.0.0/8,", "10.0.0.0/8,::ffff:10.0.0.0/104"),
    ],
)
def test_proxies_are_listed_by_address_or_network(listed: str, meant: str) -> None:
    assert settings(forwarded_allow_ips=listed).forwarded_allow_ips == meant


@pytest.mark.parametrize("listed", ["localhost", "10.0.0.1/8", "10.0.0.0/8;fd00::/8", "10.0.0.1:80", "/run/nginx.sock"])
def test_what_can_be_no_proxy_is_named(listed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(listed))):
        settings(forwarded_allow_ips=f"127.0.0.1,{listed}")


async def test_a_start_with_a_proxy_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    async with run(*SERVE, cwd=tmp_path, FORWARDED_ALLOW_IPS="127.0.0.1,localhost") as server:
        output = await server.ended()
    assert server.process.returncode not in (0, None)
    assert [line for line in output.splitlines() if "cannot start: FORWARDED_ALLOW_IPS: 'localhost' is no" in line]
    assert "Traceback" not in output


async def test_what_strangers_write_changes_nothing_under_serve(tmp_path: Path, database_url: str) -> None:
    chosen = {"DATABASE_URL": database_url, "RATE_LIMIT": "10/hour"}
    async with run(*SERVE, cwd=tmp_path, **chosen) as server, server.client() as client:
        await server.ready()
        assert [await left(client, f"9.9.9.{last}") for last in range(10)] == list(range(9, -1, -1))
        problem(await client.get("/health", headers={"X-Forwarded-For": "9.9.9.99"}), 429, "rate_limited")
        output = await server.until(" 429 ")
    assert "9.9.9." not in output


async def test_a_mapped_peer_is_found_among_the_proxies(tmp_path: Path, database_url: str) -> None:
    chosen = {"DATABASE_URL": database_url, "RATE_LIMIT": "10/hour", "FORWARDED_ALLOW_IPS": "127.0.0.0/8"}
    # Several workers inherit one socket, which listens on both protocols; a single one would listen on IPv6 alone.
    async with run(*SERVE, "--host=::", "--workers=2", cwd=tmp_path, **chosen) as server, server.client() as client:
        await server.ready()
        await left(client, "9.9.9.9")
        assert (await server.until("/health 200 ")).endswith(" 9.9.9.9")


async def test_over_a_unix_socket_the_example_key_opens_to_near_clients_only(tmp_path: Path, database_url: str) -> None:
    async with on_a_socket(tmp_path, DATABASE_URL=database_url, API_KEY=EXAMPLE_KEY, RATE_LIMIT="9/hour") as (_, path):
        transport, headers = httpx.AsyncHTTPTransport(uds=path.removeprefix("unix:")), {"X-API-Key": EXAMPLE_KEY}
        async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
            assert [(await client.get("/health")).headers["ratelimit-remaining"] for _ in range(2)] == ["8", "7"]
            for near in ("127.0.0.1", "10.0.0.1:99", "[fd00::1]:99"):
                assert (await client.get("/health", headers={"X-Forwarded-For": near})).status_code == 200
            for name, far in (("X-Forwarded-For", "8.8.8.8:99"), ("X-Real-IP", "8.8.8.8"), ("X-Forwarded-For", "who")):
                problem(await client.get("/health", headers={name: far}), 403, "example_key")
            lines = [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "8.8.8.8")]
            problem(await client.get("/health", headers=lines), 403, "example_key")
