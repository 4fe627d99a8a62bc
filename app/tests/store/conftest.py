"""One service for the tests of background work."""

from collections.abc import AsyncIterator

import pytest

from app.tests.conftest import NewDatabase
from app.tests.harness import Chat
from app.tests.store.background import Resting, resting


@pytest.fixture(scope="session")
async def rested(new_database: NewDatabase) -> AsyncIterator[Resting]:
    """A service in a database of its own, whose jobs are done by hand."""
    async with resting(new_database) as running:
        yield running


@pytest.fixture
async def tenant(rested: Resting) -> AsyncIterator[Chat]:
    """A client of that service with a tenant of its own."""
    async with await rested.service.new_tenant() as client:
        yield client
