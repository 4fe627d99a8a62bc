"""The embedded PostgreSQL: real processes, killed in every order, and directories as people have them."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

from app.db import embedded
from app.db.cluster import Cluster, account_for
from app.db.embedded import attach
from app.errors import Refused

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be or make somebody else")

CHECKOUT = Path(__file__).parents[3]
DEADLINE = 60.0  # catches a hang, and says nothing about speed


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        await asyncio.sleep(0.02)


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
        return next((p.pid for p in self._processes() if not p.info["name"].startswith("postgres")), None)

    def running(self) -> list[str]:
        return [str(process) for process in self._processes()]

    def _processes(self) -> list[psutil.Process]:
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
        await until(lambda: not self.running())


@pytest.fixture
async def empty() -> AsyncIterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="rag-"))
    place = Place(directory / "data")
    yield place
    for database in place.attached:
        database.release()
    for server in place.servers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # its workers too
        await server.process.wait()
    await place.gone()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
async def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster to copy, which takes a tenth of the time that making one takes."""
    place = Place(tmp_path_factory.mktemp("made"))
    (await place.attach()).release()
    await place.gone()
    return place.root


@pytest.fixture
def place(empty: Place, made: Path) -> Place:
    shutil.copytree(made, empty.root, ignore=shutil.ignore_patterns("run", "postgres.log"))
    return empty


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


async def test_cold_start_makes_a_private_utf8_cluster(empty: Place) -> None:
    database = await empty.attach()
    settings = "current_setting('server_encoding'), current_setting('fsync'), current_setting('listen_addresses')"
    locale = "(SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = current_database())"
    found = await execute(database.dsn, f"SELECT concat_ws(' ', current_database(), {settings}, {locale})")
    assert found == "rag_chat UTF8 on  bC.UTF-8"
    assert database.location == str(empty.root.resolve() / "pg18")
    assert (empty.root / "password").stat().st_mode & 0o777 == 0o600
    assert (database.bin_dir / "pg_dump").is_file()
    assert "password" not in repr(database)
    password = (empty.root / "password").read_text().strip()
    assert password not in repr(database)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database.dsn, password="x")
    database.release()
    await empty.gone()
    await empty.log_has("database system is shut down")


async def test_start_right_after_the_end_waits_for_it(place: Place) -> None:
    for count in range(1, 4):
        database = await place.attach()
        await write(database.dsn)
        assert await rows(database.dsn) == count
        database.release()
        database.release()
    await place.gone()
    assert "not properly shut down" not in (place.root / "postgres.log").read_text()


async def test_workers_share_and_one_may_die(place: Place) -> None:
    server = await place.server("--workers", "2")
    (_, first, dsn), (_, second, other_dsn) = await server.line(), await server.line()
    assert (first != second, dsn) == (True, other_dsn)
    postmaster = place.postmaster()
    assert os.getsid(postmaster) not in (os.getsid(server.pid), os.getsid(0))
    os.kill(int(first), signal.SIGKILL)
    await write(dsn)
    assert place.postmaster() == postmaster
    await server.end()
    await place.gone()
    await place.log_has("database system is shut down")


async def test_second_server_is_refused_in_one_line(place: Place) -> None:
    first = await place.server()
    dsn = await first.dsn()
    refusal = await (await place.server()).refusal()
    for part in (str(place.root), f"pid {first.pid}", "DATABASE_URL"):
        assert part in refusal
    await write(dsn)
    await first.end(signal.SIGKILL)
    assert await rows(await (await place.server()).dsn()) == 1


async def test_guest_beside_a_server_and_alone(place: Place) -> None:
    guest = await place.server("--guest")
    dsn = await guest.dsn()
    server = await place.server()
    assert await server.dsn() == dsn
    postmaster = place.postmaster()
    await guest.end()
    await write(dsn)
    late = await place.server("--guest")
    assert await rows(await late.dsn()) == 1
    await server.end()
    await write(dsn)
    assert place.postmaster() == postmaster
    await late.end()
    await place.gone()


async def test_killed_postgres_is_restarted(place: Place) -> None:
    server = await place.server()
    dsn = await server.dsn()
    await write(dsn)
    killed = place.postmaster()
    os.kill(killed, signal.SIGKILL)
    cluster = Cluster(place.root.resolve(), Path())
    await until(lambda: cluster.postmaster() not in (None, killed) and cluster.status() == "ready")
    assert await rows(dsn) == 1
    await server.end()
    await place.gone()


async def test_killed_keeper_is_replaced_and_postgres_stays(place: Place) -> None:
    server = await place.server()
    dsn = await server.dsn()
    keeper, postmaster = place.keeper(), place.postmaster()
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    await until(lambda: place.keeper() not in (None, keeper))
    await write(dsn)
    assert place.postmaster() == postmaster
    await server.end()
    await place.gone()
    await place.log_has("database system is shut down")


@pytest.mark.parametrize("killed", [("server",), ("keeper", "server"), ("keeper", "server", "postmaster")])
async def test_start_after_kill_keeps_what_was_committed(place: Place, killed: tuple[str, ...]) -> None:
    server = await place.server()
    await write(await server.dsn())
    pids = {"server": server.pid, "keeper": place.keeper(), "postmaster": place.postmaster()}
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, or the others would notice between two kills
        for name in killed:
            os.kill(pids[name] or 0, number)
    again = await place.server()
    assert await rows(await again.dsn()) == 1
    taken_over = killed == ("keeper", "server")
    assert (place.postmaster() == pids["postmaster"]) is taken_over
    await again.end()
    await place.gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_last_server_leaves_nothing_running(place: Place, number: int) -> None:
    server = await place.server()
    await write(await server.dsn())
    assert place.running()
    os.killpg(server.pid, number)  # as a terminal does
    await server.process.wait()
    await place.gone()
    assert "received fast shutdown request" in (place.root / "postgres.log").read_text()


async def test_signals_do_not_stop_the_keeper(place: Place) -> None:
    server = await place.server()
    dsn = await server.dsn()
    keeper = place.keeper()
    assert keeper is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(keeper, number)
    await write(dsn)
    assert place.keeper() == keeper


async def test_stale_pid_file_is_removed_whoever_it_names(place: Place) -> None:
    thread = threading.Thread(target=(done := threading.Event()).wait)
    thread.start()
    numbers = [1, os.getpid(), thread.native_id, os.getppid(), 4194304, -1, 0]
    for content in (
        *(f"{n}\n{place.root}/pg18\n1\n5432\n{place.root}\n\n  1 2\nready   \n" for n in numbers),
        "",
        "12",
    ):
        (place.root / "pg18/postmaster.pid").write_text(content)
        (place.root / "pg18/.s.PGSQL.5432.lock").write_text(content)
        database = await place.attach()
        assert await execute(database.dsn, "SELECT 1") == 1
        database.release()
        await place.gone()
    done.set()
    thread.join()


async def test_server_started_by_other_means_is_left_alone(place: Place) -> None:
    first = await place.attach()
    first.release()
    await place.gone()
    account = account_for(Cluster(place.root.resolve(), first.bin_dir))
    data = place.root.resolve() / "pg18"
    foreign = account.start("postgres", "-D", str(data), "-c", "listen_addresses=", "-k", str(data), keep=0)
    try:
        pid_file = data / "postmaster.pid"
        await until(lambda: pid_file.exists() and "ready" in pid_file.read_text())
        with pytest.raises(Refused, match=f"process {foreign.pid} already runs"):
            await place.attach()
        assert foreign.poll() is None
        assert pid_file.read_text().startswith(str(foreign.pid))
    finally:
        foreign.send_signal(signal.SIGINT)
        foreign.wait(DEADLINE)


@pytest.mark.parametrize("name", ["größer als sonst", "a,b:c%20@d'\"&=#?+", "x" * 120, "y" * 150 + "/" + "z" * 150])
async def test_odd_names(empty: Place, name: str) -> None:
    empty.root = empty.root / name
    empty.root.mkdir(parents=True)
    kept = [empty.root / ".gitkeep", empty.root / "lost+found"]
    kept[0].touch()
    kept[1].mkdir()
    database = await empty.attach()
    await write(database.dsn)
    socket_dir = Cluster(empty.root.resolve(), Path()).socket_dir
    assert socket_dir.stat().st_mode & 0o777 == 0o700
    database.release()
    await empty.gone()
    assert all(path.exists() for path in kept)
    assert not list(Path("/tmp").glob(f"{socket_dir.name}*")) or socket_dir.name == "pg18"  # noqa: S108, ASYNC240


async def test_foreign_directory_at_the_sockets_place_is_refused(place: Place) -> None:
    place.root = place.root.rename(place.root.with_name("x" * 120))
    foreign = Cluster(place.root.resolve(), Path()).socket_dir
    foreign.mkdir()
    foreign.chmod(0o777)
    try:
        with pytest.raises(Refused, match=f"{foreign} is not a private directory"):
            await place.attach()
    finally:
        foreign.rmdir()


async def test_environment_meant_for_another_server(place: Place) -> None:
    hostile = {
        "PGHOST": "nowhere.invalid",
        "PGPORT": "1",
        "PGUSER": "nobody",
        "PGPASSWORD": "wrong",
        "PGDATABASE": "nothing",
        "PGDATA": "/nonexistent",
        "PGOPTIONS": "-c nonsense=1",
        "PGSSLMODE": "verify-full",
        "PGSERVICE": "none",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCLIENTENCODING": "LATIN1",
        "PGDATESTYLE": "nonsense",
        "PGTZ": "nonsense",
        "LC_ALL": "xx_XX.nonsense",
    }
    server = await place.server(environment=hostile)
    await write(await server.dsn())


@pytest.mark.parametrize("place_of_version", ["pg18", "."])
async def test_other_major_version_is_refused_untouched(empty: Place, place_of_version: str) -> None:
    version = empty.root / place_of_version / "PG_VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("17\n")
    with pytest.raises(Refused, match="PostgreSQL 17") as refused:
        await empty.attach()
    assert_one_line(refused.value, empty.root)
    assert version.read_text() == "17\n"


def assert_one_line(refused: Refused, directory: Path) -> None:
    assert "\n" not in str(refused)
    assert str(directory) in str(refused)
    assert "DATABASE_URL" in str(refused)


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/data", "n" * 300, "data/run"])
async def test_place_that_cannot_be_a_directory(empty: Place, name: str) -> None:
    (empty.root / "data").mkdir(parents=True)
    (empty.root / "file").write_text("mine")
    (empty.root / "data/run").write_text("mine")
    directory = empty.root / name if name != "data/run" else empty.root / "data"
    with pytest.raises(Refused) as refused:
        await attach(directory)
    assert_one_line(refused.value, directory)
    assert (empty.root / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_read_only_directory(empty: Place) -> None:
    empty.root.mkdir()
    empty.root.chmod(0o500)
    with pytest.raises(Refused, match="Permission denied") as refused:
        await empty.attach()
    assert_one_line(refused.value, empty.root)
    empty.root.chmod(0o700)


@as_root
async def test_cluster_of_somebody_else(empty: Place) -> None:
    (empty.root / "pg18").mkdir(parents=True)
    os.chown(empty.root / "pg18", 12345, 12345)
    with pytest.raises(Refused, match="belongs to uid 12345") as refused:
        await empty.attach()
    assert_one_line(refused.value, empty.root)


async def test_start_after_an_interrupted_initdb(empty: Place) -> None:
    server = await empty.server()
    await until((empty.root / "pg18.unfinished/base").exists)
    await until(lambda: empty.keeper() is not None)
    os.kill(empty.keeper() or 0, signal.SIGKILL)
    await server.end(signal.SIGKILL)
    assert not (empty.root / "pg18").exists()
    database = await empty.attach()
    await write(database.dsn)
    database.release()
    await empty.gone()
    assert not (empty.root / "pg18.unfinished").exists()


async def test_refusal_quotes_what_postgres_says(place: Place) -> None:
    with (place.root / "pg18/postgresql.conf").open("a") as conf:
        conf.write("no_such_setting = 1\n")
    with pytest.raises(Refused, match=r"postgresql\.conf.* contains errors") as refused:
        await place.attach()
    assert_one_line(refused.value, place.root)


async def test_missing_password_is_refused(place: Place) -> None:
    (place.root / "password").unlink()
    with pytest.raises(Refused, match="password is missing") as refused:
        await place.attach()
    assert_one_line(refused.value, place.root)


async def test_long_wait_is_logged_once(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_QUIET", 0.1)
    caplog.set_level(logging.INFO, logger=embedded.__name__)
    (place.root / "run").mkdir()
    held = Cluster(place.root, Path()).lock("postgres")  # as a PostgreSQL does that is still stopping
    starting = asyncio.create_task(place.attach())
    await until(lambda: caplog.messages)
    os.close(held)
    (await starting).release()
    assert caplog.messages == [f"waiting for the PostgreSQL in {place.root} to start or recover"]


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
async def test_root_without_user_namespaces(empty: Place, mode: int) -> None:
    empty.root.parent.chmod(mode)
    server = await empty.server("--no-namespaces")
    await write(await server.dsn())
    assert psutil.Process(empty.postmaster()).uids().effective == 65534
    await server.end()
    await empty.gone()
    again = await empty.server()  # with namespaces, which the owner of the data rules out
    assert await rows(await again.dsn()) == 1
    data = (empty.root / "pg18").resolve()
    assert data.is_relative_to("/var/lib/rag-chat-storage") is (mode == 0o700)
    await again.end()
    await empty.gone()
    shutil.rmtree(data)


async def test_import_on_windows_and_refusal() -> None:
    script = """
import asyncio, asyncpg, multiprocessing.context, subprocess, sys
from pathlib import Path
sys.platform = "win32"
sys.modules["fcntl"] = None
from app.db.embedded import attach
from app.errors import Refused
try:
    asyncio.run(attach(Path("data")))
except Refused as refused:
    assert "DATABASE_URL" in str(refused)
else:
    sys.exit("not refused")
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=CHECKOUT)
    assert await process.wait() == 0
