"""Hostile requests: each gets its answer in time, the server stays small, and nobody else notices."""

from collections.abc import AsyncIterator

import pytest

from app.tests.faults.hostile import (
    IDLE,
    MOST_GROWTH,
    Attacked,
    Outcome,
    attacked,
    beside_idle,
    beside_unread,
    open_files,
)
from app.tests.faults.shapes import SHAPES, STUCK, Shape

COPIES = 3


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> AsyncIterator[Attacked]:
    async with attacked(tmp_path_factory.mktemp("attacked"), DATABASE_URL=database_url) as target:
        yield target


@pytest.fixture(scope="module")
async def siege(target: Attacked) -> tuple[dict[str, list[Outcome]], list[int]]:
    """Every shape at once: what each got, and what a bystander was answered."""
    return await target.besieged(SHAPES, COPIES)


@pytest.fixture(autouse=True)
async def unharmed(target: Attacked) -> AsyncIterator[None]:
    """After each test the server holds no connection or file any longer, and never took much memory."""
    yield
    await target.until(lambda held: held == 0)
    assert target.new_files <= 0
    assert target.growth < MOST_GROWTH


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_hostile_request_gets_one_answer_before_much_of_it_is_taken(
    siege: tuple[dict[str, list[Outcome]], list[int]], shape: Shape
) -> None:
    wrong = [outcome for outcome in siege[0][shape.name] if not outcome.is_right(shape)]
    assert wrong == []


def test_a_bystander_is_served_through_all_of_it(siege: tuple[dict[str, list[Outcome]], list[int]]) -> None:
    assert set(siege[1]) == {200, 201}


async def test_two_hundred_bodies_that_never_come_leave_room_for_others(target: Attacked) -> None:
    outcomes, statuses = await target.besieged([STUCK], 200)
    assert [outcome for outcome in outcomes[STUCK.name] if not outcome.is_right(STUCK)] == []
    assert set(statuses) == {200, 201}


async def test_idle_connections_by_the_thousand_are_only_that(target: Attacked) -> None:
    with open_files(IDLE) as number:
        assert set(await beside_idle(target, number)) == {200, 201}


async def test_who_takes_no_answer_is_let_go(target: Attacked) -> None:
    assert set(await beside_unread(target)) == {200, 201}
