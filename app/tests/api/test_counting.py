"""Counting in this process: what it costs besides, and what it forgets."""

import threading
import time

from limits.storage import MemoryStorage

from app.api import rate_limit
from app.api.rate_limit import Window

MANY = 100


def timers() -> set[threading.Thread]:
    """Those that run."""
    return {thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)}


def test_counting_starts_no_thread_for_each_request() -> None:
    window = Window("1000/second", "memory://")
    of_others, began = timers(), set()
    for _ in range(MANY):
        window.take("192.0.2.1")
        began |= timers()
        time.sleep(0.005)
    assert began <= of_others


def test_who_is_gone_is_forgotten() -> None:
    window = Window("5/second", "memory://")
    window.take("192.0.2.1")
    storage = window._strategy.storage  # noqa: SLF001 - nobody else needs to know
    assert isinstance(storage, MemoryStorage)
    counted = storage.events
    deadline = time.monotonic() + 5 * rate_limit.SWEEP_INTERVAL
    while any("192.0.2.1" in key and events for key, events in counted.items()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        window.take("192.0.2.2")
