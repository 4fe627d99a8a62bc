"""A service with its embedded PostgreSQL, of which any process can be killed, and what its database holds."""

import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from app.db.cluster import Cluster
from app.db.embedded import DATABASE
from app.db.keeper import PORT, SUPERUSER
from app.tests.db.embedded_place import Place, until
from app.tests.faults import evidence
from app.tests.faults.ledger import Stored
from app.tests.harness import Chat
from app.tests.process import SERVE, Running, run

VICTIMS = ("server", "worker", "postmaster", "backend", "keeper", "everything")
PAGE = 100

SESSION = "SELECT id::text, name, is_favorite, message_count, revision FROM chat_sessions WHERE id = $1::uuid"
MESSAGES = """
SELECT id::text, seq, sender, content, context::text, context_form::text, context_refs, metadata::text
FROM chat_messages WHERE session_id = $1::uuid ORDER BY seq
"""


class Stand:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.AsyncExitStack()
        self._server: Running
        self.client: Chat
        self.url = ""
        self.place = Place(directory / "data")
        self.workers = 0

    async def start(self, workers: int) -> None:
        """Start the server as a user would, and return once it answers."""
        self._server = await self._stack.enter_async_context(
            run(
                *(*SERVE, f"--workers={workers}"),
                cwd=self._directory,
                DATA_DIR=str(self.place.root),
                LOG_FILE=str(self._directory / "app.log"),
                LOG_LEVEL="WARNING",
            )
        )
        self.workers = workers
        await self._server.ready()
        self.client = await self._stack.enter_async_context(self._server.client())
        self.url = self._server.url

    async def stop(self) -> None:
        """End the server, killed or not, and see the last of PostgreSQL."""
        await self._stack.aclose()
        await self.place.gone()

    def victims(self, kind: str, rng: random.Random) -> list[psutil.Process]:
        """The processes that a kill of `kind` is meant for, in the order in which they go."""
        if kind == "server":
            return [psutil.Process(self._server.process.pid)]
        if kind == "worker":
            return [rng.choice(self._workers())]
        if kind == "postmaster":
            return [self._postmaster()]
        if kind == "backend":
            return [rng.choice(self._backends())]
        if kind == "keeper":
            return [self._keeper()]
        server = psutil.Process(self._server.process.pid)
        everything = list({*self.place.processes(), server, *server.children(recursive=True)})
        rng.shuffle(everything)
        return everything

    def doomed(self, kind: str, victims: list[psutil.Process]) -> list[psutil.Process]:
        """The processes that must be gone before what is killed can have been replaced."""
        if kind in ("postmaster", "backend"):  # PostgreSQL ends all of them: what they share may be damaged
            return [*victims, *self._postmaster().children()]
        if kind == "server":
            return [*victims, *self._workers()]
        return victims

    async def replaced(self, kind: str, doomed: list[psutil.Process]) -> None:
        """Returns once those are gone, and there is a new one of what is replaced without the user."""
        await until(lambda: not any(_alive(process) for process in doomed))
        if kind == "keeper":
            await until(self.place.keeper)
        if kind == "worker":
            await until(lambda: len(self._workers()) == self.workers)

    def _workers(self) -> list[psutil.Process]:
        children = psutil.Process(self._server.process.pid).children()
        return [child for child in children if "--multiprocessing-fork" in _command(child)]

    def _postmaster(self) -> psutil.Process:
        pid = self.place.postmaster()
        return next(process for process in self.place.processes() if process.pid == pid)

    def _backends(self) -> list[psutil.Process]:
        """Those that serve a client; autovacuum's come and go."""
        name = f"postgres: {SUPERUSER} {DATABASE} "
        return [child for child in self._postmaster().children() if _command(child).startswith(name)]

    def _keeper(self) -> psutil.Process:
        pid = self.place.keeper()
        return next(process for process in self.place.processes() if process.pid == pid)

    @contextlib.asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        cluster = Cluster(self.place.root.resolve(), Path())
        connection = await asyncpg.connect(
            host=str(cluster.socket_dir),
            port=PORT,
            user=SUPERUSER,
            password=cluster.password.read_text().strip(),
            database=DATABASE,
        )
        try:
            yield connection
        finally:
            await connection.close()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


async def over_http(client: Chat, session_id: str) -> Stored:
    """What the service says of a session."""
    response = await client.get(f"/chat/sessions/{session_id}")
    if response.status_code == 404:
        return Stored({}, [])
    session = response.raise_for_status().json()
    messages: list[dict[str, Any]] = []
    more = True
    while more:
        after = len(messages)
        page = await client.messages(session, after=after, limit=PAGE)
        messages += page["messages"]
        more = page["has_more"]
    return Stored(session, messages)


async def over_sql(connection: asyncpg.Connection, session_id: str) -> Stored:
    """What PostgreSQL says of it."""
    session = await connection.fetchrow(SESSION, session_id)
    rows = [dict(row) for row in await connection.fetch(MESSAGES, session_id)]
    for row in rows:
        row["metadata"] = json.loads(row["metadata"])
        row["context"] = await evidence.restore(connection, row)
    return Stored(dict(session or {}), rows)
