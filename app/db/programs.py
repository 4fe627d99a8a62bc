"""PostgreSQL's own programs: which of those installed to run, and how they reach the database that asyncpg reaches.

libpq reads more from the environment than asyncpg does (PGHOSTADDR, PGOPTIONS ...), and any of it could lead pg_dump
to another database. So it gets of the PG* variables those that asyncpg reads, and the rest from the URL.
"""

import asyncio
import contextlib
import math
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from app.db import embedded
from app.db.dsn import Target
from app.errors import Refused

_READ_BY_ASYNCPG = frozenset(
    (
        *("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGDATABASE", "PGSERVICEFILE"),
        *("PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLKEY", "PGSSLCERT"),
        *("PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION"),
        *("PGTARGETSESSIONATTRS", "PGKRBSRVNAME", "PGGSSLIB"),
    )
)
_WHERE = ("user", "host", "port", "dbname")
_WITHOUT_A_HOST = "/run/postgresql,/var/run/postgresql,/tmp,/private/tmp,localhost"
_PLACES = (  # of Debian, of Red Hat, of Homebrew
    *("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin"),
    *("opt/homebrew/opt/postgresql@*/bin", "usr/local/opt/postgresql@*/bin"),
)
_CHUNK = 1 << 20


class Program(NamedTuple):
    """An installed program and the major version of its PostgreSQL."""

    version: int
    path: str

    @contextlib.asynccontextmanager
    async def run(self, *arguments: str, **environment: str) -> AsyncIterator[asyncio.StreamReader]:
        """Its output. Raises Refused with its first complaint if it fails; it is gone afterwards in any case."""
        process = await asyncio.create_subprocess_exec(
            self.path,
            *arguments,
            env=_without_pg(os.environ) | {"LC_ALL": "C"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=_CHUNK,
        )
        assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - for mypy
        complaints = asyncio.create_task(process.stderr.read())
        try:
            yield process.stdout
            if await process.wait() != 0:
                raise Refused(_first(await complaints) or f"{self.path} was killed")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await complaints


def oldest_from(name: str, version: int) -> Program:
    """The program nearest above a server's major version. Raises Refused where there is none."""
    fitting = [program for program in _installed(name) if program.version >= version]
    if not fitting:
        raise Refused(f"{name} of PostgreSQL {version} or newer is needed: apt install postgresql-client-{version}")
    return min(fitting, key=lambda program: program.version)


def newest(name: str) -> Program:
    """The newest program of that name, which reads the archives of all before it."""
    return max(_installed(name), default=None, key=lambda program: program.version) or oldest_from(name, 15)


def _installed(name: str) -> Iterator[Program]:
    directories = [str(directory) for place in _PLACES for directory in Path("/").glob(place)]
    with contextlib.suppress(Refused):
        directories.append(str(embedded.bin_dir()))
    directories += os.get_exec_path()  # last: Debian's pg_dump there is a script that looks for the others
    for directory in directories:
        if path := shutil.which(name, path=directory):
            answer = subprocess.run([path, "--version"], capture_output=True, check=False, env=_without_pg(os.environ))  # noqa: S603
            if found := re.search(rb"\(PostgreSQL\) (\d+)", answer.stdout):
                yield Program(int(found[1]), path)


def connection(target: Target, timeout: float) -> tuple[str, dict[str, str]]:
    """How libpq reaches `target`: a conninfo, which everybody on the machine may see, and the environment for it."""
    environment = {name: value for name, value in os.environ.items() if name in _READ_BY_ASYNCPG}
    where = {name: target.parameters[name] for name in _WHERE if name in target.parameters}
    given = {name: value for name, value in target.parameters.items() if name not in {*_WHERE, "password"}} | where
    if "sslpassword" in given:
        raise Refused("DATABASE_URL: sslpassword would be visible to every user of this machine: use a key without one")
    if "host" not in given and "PGHOST" not in environment:
        given["host"] = _WITHOUT_A_HOST
    seconds: Any = target.arguments.get("timeout", timeout)
    given["connect_timeout"] = str(math.ceil(max(seconds, 2)) if seconds else 0)
    if password := target.parameters.get("password"):
        environment["PGPASSWORD"] = password
    return " ".join(f"{name}={_quoted(value)}" for name, value in given.items()), environment


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", r"\\").replace("'", r"\'") + "'"


def _without_pg(environment: "os._Environ[str]") -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("PG")}


def _first(complaints: bytes) -> str:
    lines = [line for line in complaints.decode(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "").strip()
