"""What a process remembers of the database: so much and no more."""

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """Values by key, none of them None, of `room` in all in the unit of `size`.

    Two dicts that take turns: what nobody asked for while the newer one filled up is forgotten with the older one.
    Every hit of a list in order of use has to mend the links of three entries.
    """

    def __init__(self, room: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self._room = room // 2
        self._size = size
        self._newer: dict[Key, Value] = {}
        self._older: dict[Key, Value] = {}
        self._left = self._room

    def get(self, key: Key) -> Value | None:
        value = self._newer.get(key)
        if value is None and (value := self._older.get(key)) is not None:
            self.keep(key, value)
        return value

    def keep(self, key: Key, value: Value) -> None:
        if key in self._newer:
            self._left += self._size(self._newer[key])
        self._newer[key] = value
        self._left -= self._size(value)
        if self._left < 0:
            self._older, self._newer, self._left = self._newer, {}, self._room

    def clear(self) -> None:
        self._newer, self._older, self._left = {}, {}, self._room
