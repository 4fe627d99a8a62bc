"""Backups of and for other servers: PostgreSQL 15 as Debian has it, and the embedded one beside its server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.db import embedded, programs
from app.db.backup import backup
from app.db.cluster import Cluster, account_for
from app.db.restore import restore
from app.errors import Refused
from app.tests.conftest import NewDatabase
from app.tests.db.backup_content import MESSAGES, content, dump, fill, is_empty
from app.tests.db.embedded_place import Place, until
from app.tests.db.test_backup import command, output
from app.tests.harness import settings

BINARIES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
async def old(new_database: NewDatabase) -> AsyncIterator[NewDatabase]:
    """Makes databases on a PostgreSQL 15 of its own."""
    if not (BINARIES / "initdb").exists():
        pytest.skip("needs Debian's postgresql-15")
    with tempfile.TemporaryDirectory(prefix="rag-") as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - nobody may have to enter
        cluster = Cluster(Path(directory), BINARIES)
        account = account_for(cluster)
        account.make_directory(cluster.data)
        initdb = ("-D", str(cluster.data), "-U", "pg", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        assert account.start("initdb", *initdb, keep=2, stdout=subprocess.DEVNULL).wait() == 0
        options = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=panic")
        where = ("-D", str(cluster.data), "-k", str(cluster.data))
        server = account.start("postgres", *where, *options, keep=2)
        await until(cluster.postmaster_pid.exists)
        await until(lambda: cluster.postmaster_pid.read_text().endswith("ready   \n"))
        yield NewDatabase(f"postgresql://pg@/postgres?host={cluster.data}")
        server.terminate()
        server.wait()


@pytest.fixture
async def new(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NewDatabase]:
    """Databases of the embedded PostgreSQL 18, whichever server the other tests run on."""
    cluster = await embedded.attach(tmp_path_factory.mktemp("new"))
    yield NewDatabase(cluster.dsn)
    cluster.release()


async def test_a_backup_of_15_goes_into_15_and_into_18_and_one_of_18_into_15_is_refused(
    old: NewDatabase, new: NewDatabase, tmp_path: Path
) -> None:
    source = await fill(await old())
    await backup(settings(database_url=source), tmp_path / "15.dump")
    for target in (await old(), await new()):
        await restore(settings(database_url=target), tmp_path / "15.dump")
        assert await content(target) == await content(source)
    await backup(settings(database_url=target), tmp_path / "18.dump")
    empty = await old()
    with pytest.raises(Refused, match=r"made of a PostgreSQL 18, and .* is 15: restore it into 18 or newer"):
        await restore(settings(database_url=empty), tmp_path / "18.dump")
    assert await is_empty(empty)


async def test_a_backup_of_15_that_a_newer_pg_dump_made_goes_into_15(old: NewDatabase, tmp_path: Path) -> None:
    source, target = await fill(await old()), await old()
    assert programs.newest("pg_dump").version > 15
    await dump(source, tmp_path / "a.dump", PGTZ="UTC")
    await restore(settings(database_url=target), tmp_path / "a.dump")
    assert await content(target) == await content(source)


async def test_the_embedded_database_is_backed_up_beside_its_server_and_restored_without_one(
    place: Place, made: Path, tmp_path: Path
) -> None:
    database = await place.attach()
    await fill(database.dsn)
    before = await content(database.dsn)
    file = tmp_path / "a.dump"
    process = await command("backup", str(file), DATA_DIR=str(place.root))
    out, err = await output(process)
    assert (process.returncode, err) == (0, "")
    assert f"{MESSAGES:,} messages" in out
    database.release()
    await place.gone()
    with tempfile.TemporaryDirectory(prefix="rag-") as directory:
        other = Place(Path(directory) / "data")
        shutil.copytree(made, other.root, ignore=shutil.ignore_patterns("run", "postgres.log"))
        process = await command("restore", str(file), DATA_DIR=str(other.root), LOG_LEVEL="WARNING")
        out, err = await output(process)
        assert (process.returncode, err) == (0, "")
        await other.gone()
        assert await content((await other.attach()).dsn) == before
        other.attached[0].release()
        await other.gone()
