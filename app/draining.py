"""How a server ends: after SIGTERM `/readyz` answers 503 for DRAIN_DELAY seconds before the server stops.

uvicorn closes its listeners first, so that a load balancer which still sends requests gets refused connections.
With a delay it looks away before that. Done where the app starts, it holds for every worker of every ASGI server.

A worker whose parent was killed stops too: uvicorn's would serve on for ever, hold the port and DATA_DIR, and no
new server could start.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from starlette.datastructures import State

_log = logging.getLogger("app")


@contextmanager
def announced(state: State, delay: float) -> Iterator[None]:
    """Inside, SIGTERM sets `state.draining` and reaches the server `delay` seconds later. A delay of 0: at once."""
    state.draining = False
    server = signal.getsignal(signal.SIGTERM)
    if not delay or not callable(server) or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def drain(number: int, _: FrameType | None) -> None:
        if not state.draining:  # workers get one from their parent, and perhaps one more from systemd
            state.draining = True
            loop.call_soon_threadsafe(loop.call_later, delay, server, number, None)
            _log.info("draining: /readyz answers 503 for %g s, then the server stops", delay)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is drain:
            signal.signal(signal.SIGTERM, server)


@contextmanager
def ending_with_the_parent() -> Iterator[None]:
    """Inside, a worker whose parent is gone finishes its requests and stops, without the delay."""
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform == "win32":  # whose event loop watches sockets only
        yield
        return
    loop, sentinel = asyncio.get_running_loop(), parent.sentinel

    def end() -> None:
        loop.remove_reader(sentinel)
        _log.warning("the server that started this worker is gone: the worker stops")
        os.kill(os.getpid(), signal.SIGINT)

    loop.add_reader(sentinel, end)
    try:
        yield
    finally:
        loop.remove_reader(sentinel)
