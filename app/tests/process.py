"""The service as a process of its own, started the way people start it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from app.tests import harness
from app.tests.harness import KEY, Chat

ROOT = Path(__file__).parents[2]
DEADLINE = harness.DEADLINE

SERVE = ("-m", "app", "serve")
UVICORN = ("-m", "uvicorn", "app.main:app")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**chosen: str) -> dict[str, str]:
    """An environment with nothing of the user's settings but `chosen`."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "API_KEY": KEY,
        "RATE_LIMIT": "",
        "LOG_FILE": "",
        **chosen,
    }


class Running:
    """A server process and its output so far, which is always being read: a full pipe would stop the server."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url
        self._lines: list[str] = []  # a text that grows line by line would be copied for each
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def client(self) -> Chat:
        return Chat(self.url, KEY)

    async def until(self, text: str, times: int = 1) -> str:
        """The output up to the line in which `text` appears for the last of so many times."""
        async with asyncio.timeout(DEADLINE):
            while self.output.count(text) < times:
                if self._reading.done():
                    raise AssertionError(f"ended without {text!r}:\n{self.output}")
                self._more.clear()
                await self._more.wait()
        before = text.join(self.output.split(text)[:times])
        return self.output[: self.output.index("\n", len(before))]

    async def ready(self) -> None:
        """Returns once the server answers on its port."""
        async with asyncio.timeout(DEADLINE), httpx.AsyncClient(trust_env=False) as client:
            while self.process.returncode is None:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.05)
        raise AssertionError(await self.ended())

    async def ended(self) -> str:
        """The whole output, once the process has ended by itself."""
        async with asyncio.timeout(DEADLINE):
            await asyncio.shield(self._reading)
            await self.process.wait()
        return self.output

    async def _read(self) -> None:
        while self.process.stdout and (line := await self.process.stdout.readline()):
            self._lines.append(line.decode())
            self._more.set()
        self._more.set()


@contextlib.asynccontextmanager
async def run(*command: str, cwd: Path, **settings: str) -> AsyncIterator[Running]:
    """Run `python command --port N` in `cwd`; ended by SIGTERM, and by SIGKILL where that does not help."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        f"--port={port}",
        cwd=cwd,
        env=environment(**settings),
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    running = Running(process, f"http://127.0.0.1:{port}")
    try:
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await running.ended()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
