"""How slowly bytes may move before nobody waits for them any longer."""

import asyncio
from collections.abc import Callable


class Pace:
    """Calls `too_slow` once `seconds`, and one more for each `rate` bytes that have moved, are over.

    One timer, not one for each piece: a client that sends a byte a second does not push the end away, and one that
    is merely slow has as long as it needs.
    """

    def __init__(self, seconds: float, rate: int, moved: Callable[[], int], too_slow: Callable[[], None]) -> None:
        self._seconds = seconds
        self._rate = rate
        self._moved = moved
        self._too_slow = too_slow
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._timer is not None

    def start(self) -> None:
        """From now on, unless it runs already."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._began = loop.time()
            self._timer = loop.call_later(self._seconds, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        end = self._began + self._seconds + self._moved() / self._rate
        if loop.time() < end:
            self._timer = loop.call_at(end, self._look)
        else:
            self._too_slow()
