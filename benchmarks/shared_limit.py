"""What counting the rate limit costs, in memory and in Redis, from threads or on the event loop; and an outage.

    python benchmarks/shared_limit.py

Starts a redis-server of its own on a unix socket in a temporary directory, stops it half-way, and removes it. One
process, uvloop; half a minute. The decision drawn from it: docs/decisions/0005-shared-limits.md.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import uvloop
from limits import parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

sys.path.insert(0, str(Path(__file__).parents[1]))
from app.api import rate_limit

LIMIT, CALLS = "10/minute", 5_000
AT_ONCE = 0.01  # seconds; who waited longer waited for Redis
Take = Callable[[str], Awaitable[object]]


async def drive(name: str, take: Take, at_once: int) -> None:
    """`CALLS` calls, so many at once, over 250 clients."""
    waited: list[float] = []
    numbers = iter(range(CALLS))

    async def one_of_them(mine: Iterator[int]) -> None:
        for number in mine:
            started = time.perf_counter()
            await take(f"10.0.0.{number % 250}")
            waited.append(time.perf_counter() - started)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_of_them(numbers) for _ in range(at_once)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    waited.sort()
    print(
        f"{name:<24}{at_once:4} at once {CALLS / seconds:8.0f}/s  CPU {cpu / CALLS * 1e6:4.0f} µs"
        f"  p50 {waited[CALLS // 2] * 1e3:6.2f} ms  p99 {waited[CALLS * 99 // 100] * 1e3:6.2f} ms"
    )


async def longest_gap(until: asyncio.Event) -> float:
    """The longest time in which the event loop ran nothing of what was due every millisecond."""
    longest, last = 0.0, time.perf_counter()
    while not until.is_set():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    return longest


async def outage(uri: str, server: subprocess.Popen[bytes]) -> None:
    """A thousand requests, a hundred at once, while Redis is stopped."""
    shared, over, waited = rate_limit.Shared(LIMIT, uri), asyncio.Event(), [0.0]
    await shared.start()
    gap = asyncio.create_task(longest_gap(over))
    server.send_signal(SIGSTOP)

    async def ask(number: int) -> None:
        started = time.perf_counter()
        await shared.take(f"10.1.0.{number}")
        waited.append(time.perf_counter() - started)

    for _ in range(10):
        await asyncio.gather(*(ask(number) for number in range(100)))
    over.set()
    server.send_signal(SIGCONT)
    waited.sort()
    longest = await gap
    print(
        f"Redis stopped: longest wait {waited[-1] * 1e3:.0f} ms, of {len(waited) - 1} requests "
        f"{sum(wait > AT_ONCE for wait in waited)} waited at all; longest gap of the event loop {longest * 1e3:.0f} ms"
    )
    shared.close()


async def compare(home: Path, server: subprocess.Popen[bytes]) -> None:
    uri = f"redis+unix://{home}/redis.sock"
    memory = rate_limit.InMemory(LIMIT)
    await drive("memory", memory.take, 1)
    for threads in (1, 4, 8):
        rate_limit.THREADS = threads
        shared = rate_limit.Shared(LIMIT, uri)
        await shared.start()
        for at_once in (1, 16, 128):
            await drive(f"Redis, {threads} threads", shared.take, at_once)
        shared.close()
    storage = RedisStorage(f"async+{uri}", implementation="redispy", max_connections=128)
    window, item = MovingWindowRateLimiter(storage), parse(LIMIT)

    async def take(client: str) -> None:
        await window.hit(item, client)
        await window.get_window_stats(item, client)

    for at_once in (1, 16, 128):
        await drive("Redis, limits.aio", take, at_once)
    await outage(uri, server)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        command = ["redis-server", "--port", "0", "--unixsocket", str(home / "redis.sock"), "--save", ""]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                while not (home / "redis.sock").exists():
                    time.sleep(0.01)
                uvloop.run(compare(home, server))
            finally:
                server.kill()


if __name__ == "__main__":
    main()
