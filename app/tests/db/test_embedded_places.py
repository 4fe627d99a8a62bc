"""The embedded PostgreSQL in directories as people have them: odd names, foreign files, leftovers."""

import asyncio
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from app.db import embedded
from app.db.cluster import Cluster, account_for
from app.db.embedded import attach
from app.errors import Refused
from app.tests.db.embedded_place import Place, execute, rows, until, write
from app.tests.process import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be or make somebody else")


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
        "PGPASSFILE": "/nonexistent",
        "PGSYSCONFDIR": "/nonexistent",
        "PGSERVICEFILE": "/nonexistent",
        "PGHOSTADDR": "192.0.2.1",
        "PGSSLROOTCERT": "/nonexistent",
        "PGSSLNEGOTIATION": "direct",
        "PGGSSENCMODE": "require",
        "PGKRBSRVNAME": "nonsense",
        "PGCHANNELBINDING": "require",
        "PGREQUIREAUTH": "none",
        "PGAPPNAME": "nonsense",
        "PGCONNECT_TIMEOUT": "nonsense",
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
    keeper = empty.keeper()
    assert keeper  # 0 would be ourselves
    os.kill(keeper, signal.SIGKILL)
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
