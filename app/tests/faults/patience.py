"""Waiting for what happens elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from app.tests.process import DEADLINE

REST = 1e6
"""Seconds: for `workers.FLUSH` and `workers.POLL` where the background work shall be done once, and then rest."""


async def eventually(holds: Callable[[], Awaitable[object]]) -> None:
    """Returns once `holds` does. Raises TimeoutError where it never will."""
    async with asyncio.timeout(DEADLINE):
        held = await holds()
        while not held:
            await asyncio.sleep(0.01)
            held = await holds()


def background_rests() -> bool:
    """Whether each of the tasks in this process that repeat background work has come to its pause."""
    running: list[Any] = [task.get_coro() for task in asyncio.all_tasks()]
    repeated = [one.cr_await for one in running if one.__qualname__ == "_repeat"]
    return all(getattr(awaited, "__qualname__", "") == "sleep" for awaited in repeated)
