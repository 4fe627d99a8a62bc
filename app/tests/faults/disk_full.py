"""A disk that fills up under the embedded PostgreSQL: by messages, then by its write-ahead log, until space returns.

Without room for rows PostgreSQL fails a statement (SQLSTATE 53100). Without room for its log it panics; its recovery
needs room as well, so it ends, and has to be started again and again until the space is there.
"""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from app import ids
from app.db.cluster import Cluster
from app.db.embedded import DATABASE
from app.db.keeper import PORT, SUPERUSER
from app.tests.db.embedded_place import Place, until
from app.tests.process import SERVE, Running, run

MiB = 1 << 20
SEGMENT = 16 * MiB  # of the write-ahead log, which grows by whole ones
WRITERS = 4
READERS = 2
BIG = 300_000  # bytes of a context, which do not compress

ALLOWED = {
    *("POST 201", "POST 507 disk_full", "POST 503 database_unavailable", "POST 503 timeout", "POST 503 overloaded"),
    *("GET 200", "GET 503 database_unavailable", "GET 503 timeout", "GET 503 overloaded"),
}
GIVEN_UP_ON = "PostgreSQL ended, and is started until it comes up again: "


@contextlib.contextmanager
def small_disk(place: Path, size: int = 128 * MiB) -> Iterator[Path]:
    """A file system of `size` bytes at `place`. Raises OSError where mounting is not allowed."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise OSError("only root may mount")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if (tried := subprocess.run(command, check=False, capture_output=True, text=True)).returncode:
        raise OSError(f"no right to mount here: {tried.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Disk:
    """A small disk with the service's data and logs on it, and a file whose removal is the space that returns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self._filler = root / "filler"

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Running]:
        log = str(self.root / "app.log")
        async with run(*SERVE, cwd=self.root, DATA_DIR=str(self.data), LOG_FILE=log) as server:
            await server.ready()
            yield server
        await Place(self.data).gone()

    def leave(self, free: int) -> None:
        """Fill the disk up to `free` bytes."""
        with self._filler.open("ab") as file:
            if (room := shutil.disk_usage(self.root).free - free) > 0:
                with contextlib.suppress(OSError):  # PostgreSQL took some of it meanwhile
                    os.posix_fallocate(file.fileno(), file.tell(), room)

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    async def begin_a_segment(self) -> None:
        """Give the write-ahead log the whole room of a segment, so that rows run out of space before it does."""
        connection = await asyncpg.connect(
            host=str(Cluster(self.data, self.data).socket_dir),
            port=PORT,
            user=SUPERUSER,
            password=(self.data / "password").read_text().strip(),
            database=DATABASE,
        )
        await connection.execute("SELECT pg_switch_wal()")
        await connection.execute("CREATE TEMPORARY TABLE t ()")
        await connection.close()

    async def use_up_the_log(self) -> None:
        """Go through the segments that PostgreSQL has at hand from earlier rounds, until it needs a new one."""
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            while True:
                await self.begin_a_segment()


def message(id_: str, size: int) -> dict[str, Any]:
    """The message with this id: whoever reads it can tell whether it is whole."""
    noise = random.Random(id_).randbytes(size // 2).hex()  # noqa: S311 - no secret
    return {"id": id_, "sender": "user", "content": f"content of {id_}", "context": noise}


class Clients:
    """Writers and readers that go on whatever they are answered, and remember every message and every answer."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._sizes: dict[str, int] = {}
        self._writes: list[list[str]] = []  # the ids of each, stored all or none
        self.sessions: list[str] = []
        self.acknowledged: dict[str, int] = {}
        self.answers: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        async with self._server.client() as client:
            while len(self.sessions) < WRITERS:
                self.sessions.append((await client.create())["id"])
            writing = [self._write(client, session) for session in self.sessions]
            reading = [self._read(client, session) for session in self.sessions[:READERS]]
            tasks = [asyncio.create_task(work) for work in (*writing, *reading)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended

    async def see(self, *answers: str, times: int = 5) -> None:
        """Returns once each of `answers` was given so many times from now on."""
        before = self.answers.copy()
        try:
            await until(lambda: all(self.answers[answer] - before[answer] >= times for answer in answers))
        except AssertionError:
            raise AssertionError(f"never answered {answers}: {self.answers}") from None

    async def _write(self, client: httpx.AsyncClient, session: str) -> None:
        while True:
            size = random.choice((10, 2_000, BIG))  # noqa: S311
            batch = [str(ids.new()) for _ in range(random.choice((1, 1, 3)))]  # noqa: S311
            self._sizes |= dict.fromkeys(batch, size)
            self._writes.append(batch)
            sent = [message(id_, size) for id_ in batch]
            path = f"/chat/sessions/{session}/messages"
            if len(sent) == 1:
                stored = await self._ask(client, "POST", path, json=sent[0])
            else:
                stored = await self._ask(client, "POST", f"{path}/batch", json={"messages": sent})
            if stored is not None:
                self.acknowledged |= {row["id"]: row["seq"] for row in stored.get("messages", [stored])}

    async def _read(self, client: httpx.AsyncClient, session: str) -> None:
        while True:
            await self._ask(client, "GET", f"/chat/sessions/{session}/messages?order=desc&page_size=3")

    async def _ask(self, client: httpx.AsyncClient, method: str, path: str, **body: Any) -> dict[str, Any] | None:
        try:
            response = await client.request(method, path, **body)
        except httpx.TransportError as error:
            self.answers[f"{method} {type(error).__name__}"] += 1
            return None
        answered: dict[str, Any] = response.json()
        self.answers[f"{method} {response.status_code} {answered.get('code', '')}".strip()] += 1
        if response.is_success:
            return answered
        await asyncio.sleep(0.02)
        return None

    async def faults(self) -> list[str]:
        """What the stored sessions, read now, hold against the promise."""
        found = [f"answered {answer}" for answer in sorted(self.answers.keys() - ALLOWED)]
        stored: dict[str, int] = {}
        async with self._server.client() as client:
            for session in self.sessions:
                state, rows = await _settled(client, session)
                if [row["seq"] for row in rows] != list(range(1, state["message_count"] + 1)):
                    found.append(f"{session}: seq is not 1..{state['message_count']}")
                here = {row["id"] for row in rows}
                writes = [here.intersection(write) for write in self._writes]
                if state["revision"] != 1 + sum(map(bool, writes)):
                    found.append(f"{session}: revision {state['revision']} after {sum(map(bool, writes))} writes")
                for row in rows:
                    found += self._faults_of(row, doubled=row["id"] in stored)
                    stored[row["id"]] = row["seq"]
        found += [f"half of {batch}" for batch in self._writes if 0 < len(stored.keys() & set(batch)) < len(batch)]
        lost = [id_ for id_, seq in self.acknowledged.items() if stored.get(id_) != seq]
        return found + [f"lost {id_}" for id_ in lost]

    def _faults_of(self, row: dict[str, Any], *, doubled: bool) -> Iterator[str]:
        if doubled:
            yield f"doubled {row['id']}"
        sent = message(row["id"], self._sizes[row["id"]])
        if {name: row[name] for name in sent} != sent:
            yield f"changed {row['id']}"


async def _settled(client: httpx.AsyncClient, session: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The session and its messages, of one moment: a write whose client has gone may still be on its way."""
    while True:
        state = (await client.get(f"/chat/sessions/{session}")).json()
        rows = [row async for row in _messages(client, session)]
        if (await client.get(f"/chat/sessions/{session}")).json() == state:
            return state, rows


async def _messages(client: httpx.AsyncClient, session: str) -> AsyncIterator[dict[str, Any]]:
    after, more = 0, True
    while more:
        query = {"after": after, "limit": 20}
        page = (await client.get(f"/chat/sessions/{session}/messages", params=query)).json()
        for row in page["messages"]:
            yield row
        after, more = after + len(page["messages"]), page["has_more"]


async def without_room_for_rows(disk: Disk, clients: Clients) -> None:
    await disk.begin_a_segment()
    disk.leave(3 * MiB)
    async with clients.at_work():
        await clients.see("POST 507 disk_full", times=20)
        await clients.see("GET 200", times=20)
        disk.free()
        await clients.see("POST 201", "GET 200")


async def without_room_for_the_log(disk: Disk, clients: Clients) -> None:
    disk.leave(SEGMENT - MiB)  # as much as the current segment holds, and not enough for the next
    async with clients.at_work():
        await disk.use_up_the_log()
        await clients.see("POST 503 database_unavailable")
        disk.leave(0)  # now PostgreSQL cannot even write its pid
        await clients.see("POST 503 database_unavailable", "GET 503 database_unavailable", times=20)
        disk.free()
        await clients.see("POST 201", "GET 200")


async def torture(place: Path, say: Callable[[str], None], rounds: int = 10) -> bool:
    """Fill the disk and free it `rounds` times, both ways in turn. True where nothing was lost or doubled."""
    try:
        with small_disk(place / "disk", 512 * MiB) as root:
            disk = Disk(root)
            async with disk.serve() as server:
                clients = Clients(server)
                for number in range(1, rounds + 1):
                    await (without_room_for_rows if number % 2 else without_room_for_the_log)(disk, clients)
                    say(f"round {number} of {rounds}: {len(clients.acknowledged)} acknowledged so far")
                faults = await clients.faults()
                ended = server.output.count(GIVEN_UP_ON)
    except OSError as error:
        say(f"left out: {error}")
        return True
    for answer, times in sorted(clients.answers.items()):
        say(f"{times:6} times {answer}")
    say(f"PostgreSQL had to be started anew until it came up: {ended} times")
    for fault in faults:
        say(fault)
    say(f"{len(clients.acknowledged)} acknowledged, {len(faults)} faults")
    return not faults
