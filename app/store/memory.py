"""What a process remembers of the database: so much and no more, the least recently used forgotten first."""

import time
from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """Values by key, of `room` in all (in the unit of `size`), each for `seconds` where they are given."""

    def __init__(self, room: int, seconds: float = float("inf")) -> None:
        self._room = self._left = room
        self._seconds = seconds
        self._kept: OrderedDict[Key, tuple[Value, int, float]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        found = self._kept.get(key)
        if found is None:
            return None
        if found[2] < time.monotonic():
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return found[0]

    def keep(self, key: Key, value: Value, size: int = 1) -> None:
        if key in self._kept:
            self._forget(key)
        self._kept[key] = (value, size, time.monotonic() + self._seconds)
        self._left -= size
        while self._left < 0:
            self._forget(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self._left = self._room

    def _forget(self, key: Key) -> None:
        self._left += self._kept.pop(key)[1]
