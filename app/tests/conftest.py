"""A real PostgreSQL, a migrated database, a real server, and a new tenant for each test.

No test cleans up: each has a tenant of its own, and so each tests isolation too. Nothing of the user's
environment or `.env` is read. TEST_DATABASE_URL names another server; its user must be able to create databases.
"""

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest

from app.settings import Settings

TEST_DATABASE_URL = os.environ.pop("TEST_DATABASE_URL", "")
for _name in Settings.model_fields:
    os.environ.pop(_name.upper(), None)

from app.db import dsn, embedded, migrate  # noqa: E402 - what they import may not see the environment either
from app.db.pool import Database  # noqa: E402
from app.tests.harness import Chat, Service, settings  # noqa: E402

# No test asserts on speed: an example that goes over a socket takes what it takes.
hypothesis.settings.register_profile(
    "real", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None
)
hypothesis.settings.load_profile("real")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what another server may change: `TEST_DATABASE_URL=... pytest -m database`."""
    for item in items:
        if "server_url" in getattr(item, "fixturenames", ()):
            item.add_marker("database")


def pytest_exception_interact(
    node: pytest.Item | pytest.Collector, report: pytest.TestReport | pytest.CollectReport
) -> None:
    """Tell a failure at once: a run that is killed never comes to its summary."""
    reporter = node.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter
    reporter.write_sep("!", report.nodeid, red=True)
    reporter.write_line(report.longreprtext)


@pytest.fixture(scope="session")
async def server_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A PostgreSQL server in which databases can be made."""
    if TEST_DATABASE_URL:
        yield TEST_DATABASE_URL
        return
    cluster = await embedded.attach(tmp_path_factory.mktemp("cluster"))
    try:
        await _hurry(cluster.dsn)
        yield cluster.dsn
    finally:
        cluster.release()


async def _hurry(url: str) -> None:
    """Save what only keeps data through a power cut, and the 10 ms of each login, of which there are thousands."""
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        await execute(url, f"ALTER SYSTEM SET {setting} = off")
    await execute(url, "SELECT pg_reload_conf()")
    await execute(url, f"SET scram_iterations = 1; ALTER ROLE CURRENT_USER PASSWORD '{urlsplit(url).password}'")


@pytest.fixture(scope="session")
async def new_database(server_url: str) -> AsyncIterator["NewDatabase"]:
    """Makes databases; on a server that outlives the run all of them are dropped at its end."""
    maker = NewDatabase(server_url)
    yield maker
    if TEST_DATABASE_URL:
        await maker.drop_all()


class NewDatabase:
    """Calling it makes an empty database, or a clone of `template`, and answers its URL."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._made: list[str] = []

    async def __call__(self, template: str = "template0", options: str = "ENCODING 'UTF8'") -> str:
        name = f"test_{secrets.token_hex(6)}"
        await execute(self._server_url, f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        self._made.append(name)
        return urlunsplit(urlsplit(self._server_url)._replace(path=f"/{name}"))

    async def drop_all(self) -> None:
        for name in self._made:
            await execute(self._server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(**dsn.parse(url).arguments)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
async def database_url(new_database: NewDatabase) -> str:
    """A migrated database, cloned from the run's template."""
    template = await new_database()
    database = Database(dsn.parse(template), settings(database_url=template))
    await migrate.upgrade(database)
    await database.close()
    return await new_database(urlsplit(template).path.lstrip("/"), "")


@pytest.fixture(scope="session")
async def service(database_url: str) -> AsyncIterator[Service]:
    """The service behind a real socket, without a rate limit."""
    async with Service.running(settings(database_url=database_url)) as running:
        yield running


@pytest.fixture
async def chat(service: Service) -> AsyncIterator[Chat]:
    """A client with a tenant of its own."""
    async with await service.new_tenant() as client:
        yield client


@pytest.fixture
async def stranger(service: Service) -> AsyncIterator[Chat]:
    """A client of another tenant."""
    async with await service.new_tenant() as client:
        yield client


@pytest.fixture
async def db(service: Service) -> Database:
    """The service's own database."""
    return service.db


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, without a `.env`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
