"""Servers of Debian's packages, of a test's own and with settings of its choice: PostgreSQL and pgbouncer."""

import asyncio
import contextlib
import os
import pwd
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from app.tests.process import DEADLINE, free_port

PASSWORD = "p@:/?#[]%+ &=ü"  # every character that a URL gives a meaning to

_FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
BINARIES = _FOUND[-1].parent if _FOUND else None

needs_postgres = pytest.mark.skipif(BINARIES is None, reason="PostgreSQL is not installed in /usr/lib/postgresql")
needs_pgbouncer = pytest.mark.skipif(
    BINARIES is None or shutil.which("pgbouncer") is None, reason="pgbouncer and PostgreSQL are not installed"
)


def unprivileged() -> list[str]:
    """What a command begins with so that PostgreSQL, which refuses root, runs it."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def give_away(path: Path) -> None:
    """Let the servers, which do not run as root, own `path`."""
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(path, owner.pw_uid, owner.pw_gid)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL; its superuser is `postgres` with PASSWORD."""

    directory: Path
    port: int

    def url(self, database: str = "postgres", user: str = "postgres", query: str = "", port: int = 0) -> str:
        password = quote(PASSWORD, safe="")
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}" + (
            f"?{query}" if query else ""
        )

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        connection = await self.connect(database)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def connect(self, database: str = "postgres", user: str = "postgres") -> asyncpg.Connection:
        return await asyncpg.connect(
            host=str(self.directory), port=self.port, user=user, database=database, password=PASSWORD
        )


@contextlib.asynccontextmanager
async def postgres(
    settings: Mapping[str, str] | None = None, initdb: tuple[str, ...] = (), hba: str = ""
) -> AsyncIterator[Postgres]:
    """A PostgreSQL on a free port, ended and removed afterwards.

    `hba` replaces the lines for TCP: who may connect, and how.
    """
    assert BINARIES is not None
    directory = Path(tempfile.mkdtemp(prefix="rag-pg-"))  # short, for the socket; below /tmp, which others can enter
    give_away(directory)
    server = Postgres(directory, free_port())
    secret = directory / "password"
    secret.write_text(PASSWORD)
    give_away(secret)
    data = directory / "data"
    options = (f"--pgdata={data}", "--username=postgres", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync")
    locale = () if any("locale" in option for option in initdb) else ("--locale=C",)
    command = [*unprivileged(), str(BINARIES / "initdb"), *options, "--auth=scram-sha-256", *locale, *initdb]
    making = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)
    assert await making.wait() == 0
    (data / "pg_hba.conf").write_text("local all all scram-sha-256\n" + (hba or "host all all all scram-sha-256\n"))
    chosen = {
        "port": str(server.port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(directory),
        "fsync": "off",
        **(settings or {}),
    }
    with (data / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in chosen.items())
    with (directory / "log").open("wb") as log:
        command = [*unprivileged(), str(BINARIES / "postgres"), "-D", str(data)]
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=STDOUT)
    try:
        await _answers(server, process)
        yield server
    finally:
        if process.returncode is None:
            process.send_signal(2)
        await process.wait()
        shutil.rmtree(directory)


async def _answers(server: Postgres, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.InvalidPasswordError):
                await (await server.connect()).close()
                return
            assert process.returncode is None, (server.directory / "log").read_text()
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def pgbouncer(server: Postgres, pool: int = 5) -> AsyncIterator[int]:
    """The port of a pgbouncer in transaction mode before `server`, with so many connections to it."""
    directory = server.directory / "bouncer"
    directory.mkdir(exist_ok=True)
    port = free_port()
    password = PASSWORD.replace('"', '""')
    (directory / "users").write_text(f'"postgres" "{password}"\n')
    (directory / "ini").write_text(f"""
[databases]
* = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {pool}
""")
    for path in (directory, *directory.iterdir()):
        give_away(path)
    with (directory / "log").open("wb") as log:
        command = [*unprivileged(), "pgbouncer", str(directory / "ini")]
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=STDOUT)
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None, (directory / "log").read_text()
                await asyncio.sleep(0.02)
        yield port
    finally:
        if process.returncode is None:
            process.send_signal(2)
        await process.wait()
