"""Several workers, one file, and logrotate: every line arrives once, and whole.

LOG_TEST_REQUESTS=50000 python -m pytest app/tests/telemetry/test_log_rotation.py
"""

import asyncio
import collections
import gzip
import os
import re
import shutil
from pathlib import Path

import pytest

from app.tests.process import ROOT, SERVE, run

REQUESTS = int(os.environ.get("LOG_TEST_REQUESTS", "1500"))
ROTATIONS = ("nocreate", "nocreate", "create 0640", "create 0640")
CONNECTIONS = 16
EXAMPLE = ROOT / "deploy/logrotate/rag-chat-storage"
LINE = re.compile(r"\S+Z INFO app\.access n-(\d+) GET /livez 200 [\d.]+ms 127\.0\.0\.1\n")

LOGROTATE = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")


class Load:
    """Requests with an id each, and a moment to do something between them."""

    def __init__(self, url: str) -> None:
        self._host, _, self._port = url.removeprefix("http://").partition(":")
        self._numbers = iter(range(REQUESTS))
        self._answered = 0
        self._milestones: dict[int, asyncio.Event] = collections.defaultdict(asyncio.Event)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._connection())

    async def reached(self, part: float) -> None:
        """Returns once this part of the requests is answered."""
        await self._milestones[int(REQUESTS * part)].wait()

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        for number in self._numbers:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: test\r\nX-Request-ID: n-%d\r\n\r\n" % number)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            length = re.search(rb"content-length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
            self._answered += 1
            if self._answered in self._milestones:
                self._milestones[self._answered].set()
        writer.close()


async def rotate(logrotate: str, directory: Path, create: str) -> None:
    """Rotate `directory`/app.log now, by the example's rules."""
    rules = EXAMPLE.read_text().replace("/var/log/rag-chat-storage/", f"{directory}/")
    assert "\n    nocreate\n" in rules
    rules = re.sub(r"^ +su .*\n", "", rules, flags=re.MULTILINE).replace("\n    nocreate\n", f"\n    {create}\n")
    config = directory / "logrotate.conf"
    config.write_text(rules)
    config.chmod(0o600)
    process = await asyncio.create_subprocess_exec(logrotate, "--force", f"--state={directory}/state", config)
    assert await process.wait() == 0


def lines_of(directory: Path, files: int) -> list[str]:
    """All lines of all log files of `directory`, compressed ones too, which are at least so many."""
    found: list[str] = []
    paths = list(directory.glob("app.log*"))
    assert len(paths) >= files
    for path in paths:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found += content.decode().splitlines(keepends=True)
    return found


@pytest.mark.skipif(LOGROTATE is None, reason="no logrotate on this machine")
async def test_workers_lose_and_mix_no_line_through_rotations(tmp_path: Path, database_url: str) -> None:
    assert LOGROTATE
    settings = {"DATABASE_URL": database_url, "LOG_FILE": "app.log", "POOL_SIZE": "2"}
    async with run(*SERVE, "--workers=2", cwd=tmp_path, **settings) as server:
        await server.until("uses ", times=2)
        load = Load(server.url)
        running = asyncio.create_task(load.run())
        for number, create in enumerate(ROTATIONS, 1):
            await load.reached(number / (len(ROTATIONS) + 1))
            await rotate(LOGROTATE, tmp_path, create)
        await running
    lines = lines_of(tmp_path, files=1 + len(ROTATIONS))
    found = [match[1] for line in lines if (match := LINE.fullmatch(line))]
    assert sorted(map(int, found)) == list(range(REQUESTS))
    assert [line for line in lines if "n-" in line and not LINE.fullmatch(line)] == []
