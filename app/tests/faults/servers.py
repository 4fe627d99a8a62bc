"""PostgreSQL servers that tests stop, kill, copy and promote: Debian's, or the embedded one's binaries."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg

from app.db import embedded
from app.tests.db.postgres import BINARIES
from app.tests.process import DEADLINE, free_port

PROGRAMS = BINARIES or embedded.bin_dir()


def _missing() -> str:
    """Why servers cannot be copied and run here; empty where they can."""
    if not (PROGRAMS / "pg_basebackup").exists():
        return "there is no pg_basebackup"
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return "PostgreSQL refuses root, and there is no setpriv"
    return ""


MISSING = _missing()


def _owner() -> pwd.struct_passwd | None:
    """As whom PostgreSQL runs, where we are root, which it refuses."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class Server:
    """A PostgreSQL in a directory of its own, on one port for all its life; `postgres` needs no password."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.port = free_port()
        self._log = directory / "log"
        self._process: Process | None = None
        if owner := _owner():
            os.chown(directory, owner.pw_uid, owner.pw_gid)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def make(self) -> None:
        await self._run("initdb", "--username=postgres", "--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync")

    async def copy(self, primary: "Server") -> None:
        """Become a standby of `primary`, whatever this was before."""
        shutil.rmtree(self.data, ignore_errors=True)
        where = f"host=127.0.0.1 port={primary.port} user=postgres"
        await self._run("pg_basebackup", f"--dbname={where}", "--write-recovery-conf", "--checkpoint=fast", "--no-sync")

    async def start(self) -> None:
        """Returns once it answers."""
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with self._log.open("ab") as log:
            self._process = await self._spawn("postgres", "-D", str(self.data), *options, stdout=log, stderr=STDOUT)
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(OSError, asyncpg.CannotConnectNowError):
                    await self.execute("SELECT 1")
                    return
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.02)

    async def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT takes leave of its clients, SIGKILL of nobody."""
        if self._process and self._process.returncode is None:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, how)
        if self._process:
            await self._process.wait()

    async def promote(self) -> None:
        await self._run("pg_ctl", "promote", "--wait")

    async def execute(self, *statements: str) -> list[Any]:
        """The rows of the last of `statements`."""
        connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user="postgres", database="postgres")
        try:
            return [await connection.fetch(statement) for statement in statements][-1]
        finally:
            await connection.close()

    async def _run(self, program: str, *arguments: str) -> None:
        process = await self._spawn(program, f"--pgdata={self.data}", *arguments, stdout=DEVNULL, stderr=DEVNULL)
        assert await process.wait() == 0, f"{program} failed"

    async def _spawn(self, program: str, *arguments: str, **streams: Any) -> Process:
        owner = _owner()
        become = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"] if owner else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return await asyncio.create_subprocess_exec(
            *(*become, str(PROGRAMS / program), *arguments), cwd="/", env=environment, **streams
        )


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """One that is not made yet, ended and removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rag-pg-"))  # below /tmp, which others can enter
    running = Server(directory)
    try:
        yield running
    finally:
        await running.end()
        shutil.rmtree(directory)
