"""One limit for several workers and servers, counted in a real Redis that is slow, gone, full, or back again."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.api import rate_limit
from app.tests.harness import KEY, Chat, Service, settings
from app.tests.process import DEADLINE, UVICORN, run
from app.tests.redis_server import Redis, needs_redis

LOST, BACK = "by itself until it is back", "is shared again"
BEHIND_A_PROXY = {"proxy_headers": True, "forwarded_allow_ips": "*"}

_fresh: Iterator[str] = (f"10.2.{high}.{low}" for high in range(256) for low in range(1, 255))


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Redis]:
    server = Redis(tmp_path)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
        await server.client.aclose()


@contextlib.asynccontextmanager
async def counting(database_url: str, storage_uri: str) -> AsyncIterator[Chat]:
    """A client of a service that counts in `storage_uri`."""
    chosen = settings(database_url=database_url, rate_limit="10/minute", rate_limit_storage_uri=storage_uri)
    async with Service.running(chosen, **BEHIND_A_PROXY) as service, Chat(service.url, KEY) as client:
        client.headers["X-Forwarded-For"] = next(_fresh)
        yield client


async def spend(client: Chat, requests: int, address: str = "") -> tuple[int, int]:
    """How many of so many concurrent requests were accepted, and how many refused."""
    headers = {"X-Forwarded-For": address or next(_fresh)}
    answers = await asyncio.gather(*(client.get("/health", headers=headers) for _ in range(requests)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 429}
    for answer in answers:
        assert answer.headers["ratelimit-limit"] == "10"
        assert 0 <= int(answer.headers["ratelimit-remaining"]) <= 9
        assert 1 <= int(answer.headers["ratelimit-reset"]) <= 60
    return statuses.count(200), statuses.count(429)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            if await reached():
                return
            await asyncio.sleep(0.02)


async def back(caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> bool:
        return said(caplog, BACK) > 0

    await until(told)


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in message for message in caplog.messages)


@contextlib.asynccontextmanager
async def passing_on(port: int) -> AsyncIterator[int]:
    """A port in this event loop that passes everything on to `port`: it stands still when the loop does."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@needs_redis
async def test_two_workers_share_one_limit(tmp_path: Path, database_url: str, shared: Redis) -> None:
    chosen = {"DATABASE_URL": database_url, "RATE_LIMIT": "10/minute", "RATE_LIMIT_STORAGE_URI": shared.url}
    async with run(*UVICORN, "--workers=2", cwd=tmp_path, **chosen) as server:
        await server.until("Application startup complete", times=2)
        async with httpx.AsyncClient(headers={"X-API-Key": KEY, "Connection": "close"}, timeout=DEADLINE) as client:
            answers = await asyncio.gather(*(client.get(f"{server.url}/health") for _ in range(40)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (10, 30)
    assert LOST not in server.output
    assert "per worker" not in server.output


@needs_redis
async def test_two_servers_share_one_limit(database_url: str, shared: Redis) -> None:
    address = next(_fresh)
    async with counting(database_url, shared.url) as one, counting(database_url, shared.url) as other:
        (here, _), (there, _) = await asyncio.gather(spend(one, 20, address), spend(other, 20, address))
        assert here + there == 10
        left = [(await client.get("/health", headers={"X-Forwarded-For": next(_fresh)})) for client in (one, other)]
        assert [answer.headers["ratelimit-remaining"] for answer in left] == ["9", "9"]


@needs_redis
async def test_keys_have_our_prefix_end_by_themselves_and_hold_no_refused_request(
    database_url: str, shared: Redis
) -> None:
    async with counting(database_url, shared.url) as client:
        assert await spend(client, 15) == (10, 5)
        assert await spend(client, 1) == (1, 0)
        keys = await shared.keys()
    assert all(name.startswith("rag-chat-storage:") for name in keys)
    assert sorted(length for length, _ in keys.values()) == [1, 10]
    assert all(1 <= lives <= 60 for _, lives in keys.values())


@needs_redis
async def test_the_event_loop_is_free_while_redis_is_asked(
    database_url: str, shared: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with passing_on(int(shared.url.rpartition(":")[2].partition("/")[0])) as port:
        through = shared.url.replace(shared.url.rpartition(":")[2], f"{port}/1")
        async with counting(database_url, through) as client:
            assert (await client.get("/health")).headers["ratelimit-remaining"] == "9"
            assert [length for length, _ in (await shared.keys()).values()] == [1]
    assert said(caplog, LOST) == 0


@needs_redis
@pytest.mark.parametrize("outage", ["hangs", "is gone"])
async def test_while_redis_is_away_each_process_counts_and_afterwards_it_is_shared_again(
    database_url: str, shared: Redis, caplog: pytest.LogCaptureFixture, outage: str
) -> None:
    async with counting(database_url, shared.url) as client:
        assert await spend(client, 15) == (10, 5)
        if outage == "hangs":
            shared.process.send_signal(signal.SIGSTOP)
        else:
            await shared.kill()
        probes = asyncio.gather(*(client.get(path) for path in ("/livez", "/readyz", "/metrics")))
        assert await spend(client, 60) == (10, 50)
        assert [answer.status_code for answer in await probes] == [200, 200, 200]
        assert (said(caplog, LOST), said(caplog, BACK)) == (1, 0)
        if outage == "hangs":
            shared.process.send_signal(signal.SIGCONT)
        else:
            await shared.start()
        await back(caplog)
        address = next(_fresh)
        assert await spend(client, 15, address) == (10, 5)
        assert [length for name, (length, _) in (await shared.keys()).items() if f"/{address}/" in name] == [10]
    assert (said(caplog, LOST), said(caplog, BACK)) == (1, 1)
    assert not [message for message in caplog.messages if "secret" in message]


@needs_redis
async def test_a_hanging_redis_holds_a_bounded_number_of_threads_and_connections(
    database_url: str, shared: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def threads() -> int:
        return sum(thread.name.startswith("rate-limit") for thread in threading.enumerate())

    async def all_ended() -> bool:
        return threads() == 0

    async with counting(database_url, shared.url) as client:
        shared.process.send_signal(signal.SIGSTOP)
        assert await spend(client, 90) == (10, 80)
        assert 1 < threads() <= rate_limit.THREADS
        shared.process.send_signal(signal.SIGCONT)
        await back(caplog)
        await spend(client, 90)
        assert 1 <= len(await shared.client.client_list()) - 1 <= rate_limit.THREADS
    await until(all_ended)


@needs_redis
async def test_a_full_redis_is_told_once_and_not_taken_for_one_that_is_back(
    database_url: str, shared: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with counting(database_url, shared.url) as client:
        await shared.client.config_set("maxmemory", "1")
        assert await spend(client, 15) == (10, 5)
        before = await shared.scripts_run()

        async def probed_three_times() -> bool:
            return await shared.scripts_run() >= before + 3

        await until(probed_three_times)
        assert (said(caplog, LOST), said(caplog, BACK)) == (1, 0)
        await shared.client.config_set("maxmemory", "0")
        await back(caplog)


@needs_redis
async def test_a_wrong_password_is_said_at_start_without_repeating_it(
    database_url: str, shared: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with counting(database_url, shared.url.replace("secret", "wrong-one")) as client:
        assert said(caplog, LOST) == 1
        assert await spend(client, 15) == (10, 5)
    assert [message for message in caplog.messages if "redis://127.0.0.1" in message and "password" in message]
    assert not [message for message in caplog.messages if "wrong-one" in message]


@pytest.mark.parametrize(
    "host", ["never answers", "answers a byte at a time", "answers in another protocol", "has no name"]
)
async def test_a_host_that_is_no_redis_costs_no_request(
    database_url: str, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    over = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host == "answers in another protocol":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif host == "answers a byte at a time":  # no read takes as long as its time-out
            while not over.is_set() and not writer.is_closing():
                writer.write(b"+")
                await asyncio.sleep(0.02)
        else:
            await over.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        name = "no-such-host.invalid" if host == "has no name" else "127.0.0.1"
        async with counting(database_url, f"redis://{name}:{port}/0") as client:
            assert await spend(client, 60) == (10, 50)
        over.set()
    assert said(caplog, LOST) == 1
