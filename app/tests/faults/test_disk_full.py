"""The disk of the embedded PostgreSQL is full: clear answers meanwhile, nothing lost, and it goes on by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.tests.faults import disk_full
from app.tests.faults.disk_full import GIVEN_UP_ON, Clients, Disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        mounted = disk_full.small_disk(tmp_path / "disk")
        root = mounted.__enter__()
    except OSError as error:
        pytest.skip(str(error))
    yield Disk(root)
    mounted.__exit__(None, None, None)


async def test_writes_are_refused_clearly_until_space_returns_and_nothing_is_lost(disk: Disk) -> None:
    async with disk.serve() as server:
        clients = Clients(server)
        await disk_full.without_room_for_rows(disk, clients)
        assert GIVEN_UP_ON not in server.output
        await disk_full.without_room_for_the_log(disk, clients)
        await server.until(GIVEN_UP_ON)
        assert await clients.faults() == []
