"""Where the rate limit is counted: in this process, or in a Redis that all workers and servers share.

slowapi's Limiter supplies storage and strategy. They are synchronous, so Redis is asked from threads of their own, with
a deadline; why not limits.aio, and the figures: docs/decisions/0005-shared-limits.md.
"""

import asyncio
import logging
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from math import ceil
from typing import Any, NamedTuple, TypeVar, cast

import limits
from limits.storage import MemoryStorage, RedisStorage
from slowapi import Limiter
from slowapi.util import get_remote_address

from app.redis_uri import without_password

DEADLINE = 0.25
"""Seconds without a word from Redis after which it is away: nobody waits longer for one that is silent."""

PATIENCE = 4
"""Deadlines that a request waits where Redis answers others meanwhile: it is busy, or this worker is."""

PROBE_INTERVAL = 1.0
"""Seconds between looks whether a Redis that was gone is back."""

SWEEP_INTERVAL = 1.0
"""Seconds between two looks for clients that are counted no more."""

THREADS = 8
"""Per worker, each with one connection: 400 requests a second with a Redis 10 ms away."""

KEY_PREFIX = "rag-chat-storage"

_PROBE = limits.RateLimitItemPerSecond(1000)
_log = logging.getLogger("app")
_T = TypeVar("_T")


class Taken(NamedTuple):
    """What came of taking a slot; `reset` is the seconds until the oldest request leaves the window, at least 1."""

    accepted: bool
    remaining: int
    reset: int


class _Seldom(threading.Timer):
    """The timer that forgets what has left the window, once a second. It is asked at each hit whether it still runs.

    The storage's own is a new thread every 10 ms: 125 µs of a request, a third of one that reads a session.
    """

    def __init__(self, other: threading.Timer) -> None:
        super().__init__(SWEEP_INTERVAL, other.function)
        other.cancel()
        self._next = 0.0

    def is_alive(self) -> bool:
        if (now := time.monotonic()) >= self._next:
            self._next = now + SWEEP_INTERVAL
            threading.Thread(target=self.function, name="rate-limit-sweep", daemon=True).start()
        return True


class Window:
    """A moving window per client over one storage: 8 µs in memory, two round trips with Redis."""

    def __init__(self, limit: str, storage_uri: str, **options: Any) -> None:
        self._item = limits.parse(limit)
        with warnings.catch_warnings(action="ignore"):
            # Without a file of its own the Limiter would read .env, in a dialect of its own; it warns of an empty one.
            limiter = Limiter(
                get_remote_address,  # required, not used: the caller says whom it counts
                strategy="moving-window",
                storage_uri=storage_uri,
                storage_options=options,
                config_filename=os.devnull,
            )
        self._strategy = limiter.limiter
        if isinstance(memory := self._strategy.storage, MemoryStorage):
            memory.timer = _Seldom(memory.timer)

    def take(self, client: str) -> Taken:
        """Takes a slot; a refused request takes none."""
        accepted = self._strategy.hit(self._item, client)
        reset, remaining = self._strategy.get_window_stats(self._item, client)
        # Where servers' clocks differ, a shared window may start in this one's future.
        seconds = min(ceil(reset - time.time()), self._item.get_expiry())
        return Taken(accepted, remaining, max(1, seconds))

    def probe(self) -> None:
        """Writes as `take` does, so that a Redis that is full or read-only is not taken for one that is well."""
        self.disconnect()
        self._strategy.hit(_PROBE)

    def disconnect(self) -> None:
        """Drops idle connections: after an outage each of them may be dead."""
        cast("RedisStorage", self._strategy.storage).storage.connection_pool.disconnect(inuse_connections=False)


class InMemory:
    """Counted in this process."""

    def __init__(self, limit: str) -> None:
        self._limit = limit
        self._window = Window(limit, "memory://")

    async def start(self) -> None:
        """Says once for each server that the limit multiplies, where other workers may count as well."""
        if _first_of_several_workers():
            _log.warning(
                "RATE_LIMIT is counted per worker: with N workers a client may get N times %s; "
                "set RATE_LIMIT_STORAGE_URI to share one count",
                self._limit,
            )

    async def take(self, client: str) -> Taken:
        return self._window.take(client)

    def close(self) -> None:
        """Nothing is held."""


class Shared:
    """Counted in Redis; while it does not answer, in this process. Never raises, never waits for long."""

    def __init__(self, limit: str, storage_uri: str) -> None:
        from redis import backoff, retry  # noqa: PLC0415 - 0.1 s that a start without Redis is spared

        self._where = without_password(storage_uri)
        self._here = Window(limit, "memory://")
        self._shared = Window(
            limit,
            storage_uri,
            key_prefix=KEY_PREFIX,
            socket_timeout=DEADLINE,
            socket_connect_timeout=DEADLINE,
            retry=retry.Retry(backoff.NoBackoff(), 0),  # redis-py's own would try three times more
        )
        self._threads = ThreadPoolExecutor(THREADS, "rate-limit")
        self._heard = 0.0
        self._until_back: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects, so that the first request need not, and says so if Redis is away."""
        await self._ask(self._shared.probe)

    async def take(self, client: str) -> Taken:
        taken = None if self._until_back else await self._ask(lambda: self._shared.take(client))
        return taken or self._here.take(client)

    def close(self) -> None:
        """Leaves threads that hang in a connection to their own time-out."""
        if self._until_back:
            self._until_back.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._shared.disconnect()

    async def _ask(self, call: Callable[[], _T]) -> _T | None:
        """What `call` answers in one of the threads, or None."""
        try:
            return await self._answer(call)
        except Exception as error:  # noqa: BLE001 - whatever a client library raises, the request is served
            self._lost(f"{type(error).__name__}: {error}")
            return None

    async def _answer(self, call: Callable[[], _T]) -> _T:
        def heard() -> _T:
            answer = call()
            self._heard = time.monotonic()
            return answer

        answer = asyncio.get_running_loop().run_in_executor(self._threads, heard)
        try:
            for _ in range(PATIENCE):
                asked = time.monotonic()
                if (await asyncio.wait((answer,), timeout=DEADLINE))[0]:
                    return answer.result()
                if self._heard < asked:
                    break
        finally:
            answer.cancel()
        raise TimeoutError("no answer in time")

    def _lost(self, reason: str) -> None:
        if self._until_back is None:
            _log.warning("%s: %s; each worker counts RATE_LIMIT by itself until it is back", self._where, reason)
            # In a context of its own: its lines belong to no request.
            self._until_back = asyncio.create_task(self._wait_until_back(), context=Context())

    async def _wait_until_back(self) -> None:
        back = False
        while not back:
            await asyncio.sleep(PROBE_INTERVAL)
            try:
                await self._answer(self._shared.probe)
                back = True
            except Exception:  # noqa: BLE001, S112 - the loss was logged; this is the same one
                continue
        _log.warning("%s: back; RATE_LIMIT is shared again", self._where)
        self._until_back = None


def _first_of_several_workers() -> bool:
    """Whether this process is the first child of a server; it cannot know how many there are.

    uvicorn's reloader starts its one process in the same way. Children are numbered, restarted ones too.
    """
    if multiprocessing.parent_process() is None or "--reload" in sys.argv:
        return False
    number = multiprocessing.current_process().name.rpartition("-")[2]
    return number == "1" or not number.isdigit()
