"""A redis-server of one test: Debian's own program, on a free port, ended by its id."""

import asyncio
import contextlib
import shutil
from asyncio.subprocess import DEVNULL
from pathlib import Path

import pytest
import redis.asyncio

from app.tests.process import DEADLINE, free_port

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
PASSWORD = "redis%/secret"


class Redis:
    """A redis-server with a password, and a client of it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = free_port()
        self.url = f"redis://:redis%25%2Fsecret@127.0.0.1:{self._port}/1"
        self.client = redis.asyncio.Redis(port=self._port, db=1, password=PASSWORD)

    async def start(self) -> None:
        options = {"port": self._port, "bind": "127.0.0.1", "save": "", "dir": self._home, "requirepass": PASSWORD}
        command = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self.process = await asyncio.create_subprocess_exec("redis-server", *command, stdout=DEVNULL)
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(redis.exceptions.ConnectionError):
                    await self.client.info()
                    return

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self.client.connection_pool.disconnect()

    async def scripts_run(self) -> int:
        return int((await self.client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"])

    async def keys(self) -> dict[str, tuple[int, int]]:
        """Each key of the limit with its length and its time to live in seconds."""
        names = [name.decode() for name in await self.client.keys("*") if b"1000/1/second" not in name]
        return {name: (await self.client.llen(name), await self.client.ttl(name)) for name in names}  # type: ignore[misc]
