"""What lasts longer than a turn: memory over many requests, and the start with an embedded database."""

import fcntl
import time
from collections.abc import Sequence
from pathlib import Path

from load import flat_out
from progress import say
from subjects import Server, service
from workloads import Request

SAMPLES = 10
CONNECTIONS = 8
TURN = 1.0  # seconds of load between two looks at the count


def memory(server: Server, requests: Sequence[Request], number: int) -> list[float]:
    """Megabytes that `server` holds, once it is warm and after each tenth of so many requests."""
    sizes = []
    for sample in range(SAMPLES + 1):
        sent = 0
        while sent < number // SAMPLES:
            sent += flat_out(server.url, requests, CONNECTIONS, TURN).requests
        sizes.append(server.resident())
        say(f"memory: {sizes[-1]:.1f} MB after {sample * number // SAMPLES:,} requests and a warm-up")
    return sizes


def starts(home: Path, port: int, number: int) -> list[float]:
    """Seconds from spawning the service to its first answer, each time with an embedded database that lay still."""
    _start(home, port)  # makes the database
    took = [_start(home, port) for _ in range(number)]
    say(f"{number} starts: {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    return took


def _start(home: Path, port: int) -> float:
    data = home / "embedded"
    began = time.monotonic()
    server = service("service, embedded", port, home, "", DATA_DIR=str(data))
    try:
        server.wait("/readyz")
        return time.monotonic() - began
    finally:
        server.stop()
        for name in ("keeper", "postgres"):  # who has the lock still stops the database
            with (data / "run" / name).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
