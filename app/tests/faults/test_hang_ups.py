"""Requests whose client is gone, and requests that are cancelled, leave nothing behind."""

from pathlib import Path

import pytest

from app.tests.faults import hang_ups
from app.tests.process import SERVE, UVICORN


@pytest.mark.parametrize(("command", "pool_size"), [(SERVE, 2), (UVICORN, 8)], ids=["serve", "uvicorn"])
async def test_100_clients_that_hang_up_leave_nothing_behind(
    tmp_path: Path, database_url: str, command: tuple[str, ...], pool_size: int
) -> None:
    assert await hang_ups.faults(tmp_path, command, database_url, pool_size=pool_size, times=100) == []
