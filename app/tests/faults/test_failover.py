"""Two hosts in DATABASE_URL: the one that takes writes is found, and one that is demoted is left."""

from pathlib import Path

import pytest

from app.tests.faults import failover
from app.tests.faults.servers import MISSING


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_a_promoted_replica_is_followed_and_a_demoted_primary_left(tmp_path: Path) -> None:
    said: list[str] = []
    assert not await failover.failover(tmp_path, said.append), "\n".join(said)
    print("\n".join(said))  # noqa: T201
