"""The sweep takes what nothing names, and never what a stalled server is about to name."""

import sys
from pathlib import Path

import pytest

from app.tests.conftest import NewDatabase
from app.tests.faults import sweeping

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no process can be stopped there")


async def test_no_text_is_lost_when_a_server_is_stopped_between_storing_and_naming_it(
    tmp_path: Path, new_database: NewDatabase
) -> None:
    lost, servers = await sweeping.forced(tmp_path, await new_database(), guarded=True)
    assert lost == []
    assert servers.swept > 0
    assert servers.acknowledged > 0


async def test_no_text_is_lost_when_the_statement_that_names_it_began_long_before_it_works(
    tmp_path: Path, new_database: NewDatabase
) -> None:
    async with sweeping.pair(tmp_path, await new_database(), guarded=True, POOL_SIZE="1") as servers:
        assert await servers.round_behind_a_lock() == []


async def test_without_the_lease_the_same_stop_loses_texts(tmp_path: Path, new_database: NewDatabase) -> None:
    lost, _ = await sweeping.forced(tmp_path, await new_database(), guarded=False)
    assert [sentence for sentence in lost if "names a text that is gone" in sentence]
    assert [sentence for sentence in lost if sentence.endswith("comes back with another context")]
    assert [sentence for sentence in lost if " is a 5" in sentence] == []
