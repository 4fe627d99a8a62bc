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

from app.tests.harness import KEY, Chat

ROOT = Path(__file__).parents[2]
DEADLINE = 60  # seconds; catches a hang, no more

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
    """A server process and its output so far."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url
        self.output = ""

    def client(self) -> Chat:
        return Chat(self.url, KEY)

    async def until(self, text: str, times: int = 1) -> str:
        """The output until `text` has appeared in it so many times."""
        async with asyncio.timeout(DEADLINE):
            while self.output.count(text) < times:
                line = await self._line()
                if not line:
                    raise AssertionError(f"ended without {text!r}:\n{self.output}")
        return self.output

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
            while await self._line():
                pass
            await self.process.wait()
        return self.output

    async def _line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        self.output += line
        return line


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
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise
