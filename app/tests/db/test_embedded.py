"""The life of the embedded PostgreSQL: real processes, killed in every order."""

import os
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from app.db.cluster import Cluster
from app.tests.db.embedded_place import Place, execute, rows, until, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


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
            pid = pids[name]
            assert pid  # 0 would be ourselves
            os.kill(pid, number)
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
