"""The database away: bounded 503, and service again without a restart, each with what the clients saw over time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.tests.faults import database_away
from app.tests.faults.database_away import Stage
from app.tests.faults.servers import MISSING

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with database_away.staged(tmp_path_factory.mktemp("away")) as running:
        yield running


async def test_a_database_that_stops_is_a_503_and_one_that_returns_is_used_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    async with database_away.staged(tmp_path, database_away.PATIENT) as stage:
        assert not await database_away.stopped(stage, said.append), "\n".join(said)
    print("\n".join(said))  # noqa: T201


async def test_a_host_that_swallows_packets_is_a_503_in_bounded_time(stage: Stage) -> None:
    said: list[str] = []
    assert not await database_away.out_of_reach(stage, said.append), "\n".join(said)
    print("\n".join(said))  # noqa: T201


async def test_a_socket_that_is_dead_but_open_holds_nobody_until_the_command_timeout(stage: Stage) -> None:
    said: list[str] = []
    assert not await database_away.frozen(stage, said.append), "\n".join(said)
    print("\n".join(said))  # noqa: T201
