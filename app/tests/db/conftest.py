"""Directories for the embedded PostgreSQL, and a database with a backup of it."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.db.backup import backup
from app.tests.conftest import NewDatabase
from app.tests.db.backup_content import fill
from app.tests.db.embedded_place import Place
from app.tests.harness import settings


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
    shutil.rmtree(place.root / "run")
    (place.root / "postgres.log").unlink()
    with (place.root / "pg18/postgresql.conf").open("a") as conf:
        conf.write("fsync = off\n")  # processes are killed here, no machines; a recovery would sync 1,300 files first
    return place.root


@pytest.fixture
def place(empty: Place, made: Path) -> Place:
    subprocess.run(["cp", "-a", made, empty.root], check=True)  # a quarter of the CPU that shutil takes
    return empty


@pytest.fixture(scope="session")
async def full(new_database: NewDatabase) -> str:
    """A database with awkward rows. Tests only read it."""
    return await fill(await new_database())


@pytest.fixture(scope="session")
async def written(full: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    file = tmp_path_factory.mktemp("backups") / "written.dump"
    await backup(settings(database_url=full), file)
    return file
