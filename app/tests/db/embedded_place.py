"""A directory with an embedded PostgreSQL, the servers started on it, and what runs there."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil

from app.db import embedded
from app.db.embedded import attach
from app.tests.process import DEADLINE

if sys.platform != "win32":
    import fcntl

CHECKOUT = Path(__file__).parents[3]


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        asked_at = time.monotonic()
        if condition():
            return
        assert asked_at < deadline, "nothing happens"
        # Asking, which walks through all processes, may not take the time of those that it waits for.
        await asyncio.sleep(0.02 + 2 * (time.monotonic() - asked_at))


class Server:
    """An app.tests.db.embedded_server process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self) -> list[str]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), DEADLINE)
        return line.decode().rstrip("\n").split(" ", 2)

    async def dsn(self) -> str:
        word, *rest = await self.line()
        assert word == "ready", rest
        return rest[1]

    async def refusal(self) -> str:
        word, *rest = await self.line()
        assert word == "refused", rest
        assert await self.line() == [""], "more than one line"
        return " ".join(rest)

    async def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), DEADLINE)


class Place:
    """A DATA_DIR, the servers started on it, and what runs there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.servers: list[Server] = []
        self.attached: list[embedded.Embedded] = []

    async def server(self, *options: str, environment: dict[str, str] | None = None) -> Server:
        command = [sys.executable, "-m", "app.tests.db.embedded_server", str(self.root), *options]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            cwd=CHECKOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self.servers.append(Server(process))
        return self.servers[-1]

    async def attach(self) -> embedded.Embedded:
        self.attached.append(await attach(self.root))
        return self.attached[-1]

    def postmaster(self) -> int:
        return int((self.root / "pg18/postmaster.pid").read_text().split("\n")[0])

    def keeper(self) -> int | None:
        return next((p.pid for p in self.processes() if not p.info["name"].startswith("postgres")), None)

    def running(self) -> list[str]:
        return [str(process) for process in self.processes()]

    def processes(self) -> list[psutil.Process]:
        """The keeper and every process of PostgreSQL: whoever has the lock `keeper` or `postgres` open."""
        locks = {str((self.root / "run" / name).resolve()) for name in ("keeper", "postgres")}
        found = []
        for process in psutil.process_iter(["name"]):
            if not process.info["name"].startswith(("postgres", "python")):
                continue
            try:
                files = {str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir()}
                command = process.cmdline()
            except (OSError, psutil.Error):
                continue
            if files & locks and ("app.db.keeper" in command or process.info["name"].startswith("postgres")):
                found.append(process)
        return found

    async def log_has(self, text: str) -> None:
        await until(lambda: text in (self.root / "postgres.log").read_text())

    async def gone(self) -> None:
        await until(lambda: not any(_is_locked(self.root / "run" / name) for name in ("keeper", "postgres")))


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or it can have none
        return False
    return False


async def execute(dsn: str, *statements: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            value = await connection.fetchval(statement)
    finally:
        await connection.close()
    return value


async def write(dsn: str) -> None:
    await execute(dsn, "CREATE TABLE IF NOT EXISTS kept (n int)", "INSERT INTO kept VALUES (1)")


async def rows(dsn: str) -> object:
    return await execute(dsn, "SELECT count(*) FROM kept")
