"""A process that uses the embedded PostgreSQL as a server does, for tests to kill.

    python -m app.tests.db.embedded_server DATA_DIR [--guest] [--workers N] [--no-namespaces]

Each process that attaches writes one line: `ready PID DSN` or `refused MESSAGE`. Then it does nothing.
"""

import argparse
import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from app.db.embedded import attach
from app.errors import Refused


def serve(data_dir: Path, *, guest: bool = False) -> None:
    try:
        database = asyncio.run(attach(data_dir, guest=guest))
    except Refused as refused:
        sys.stdout.write(f"refused {refused}\n")
        return
    sys.stdout.write(f"ready {os.getpid()} {database.dsn}\n")
    sys.stdout.flush()
    while True:
        signal.pause()


def forbid_namespaces() -> None:
    """Stay root, but in a user namespace (of all users) in which the kernel refuses to make another one."""
    ours, theirs = os.pipe()
    pid = os.getpid()
    if (helper := os.fork()) == 0:  # a map of more than one user takes a process outside
        os.read(ours, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 0 65536")
        os._exit(0)
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    os.write(theirs, b".")
    os.waitpid(helper, 0)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--guest", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--no-namespaces", action="store_true")
    arguments = parser.parse_args()
    if arguments.no_namespaces:
        forbid_namespaces()
    if not arguments.workers:
        serve(arguments.data_dir, guest=arguments.guest)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which ends the daemonic workers
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=serve, args=(arguments.data_dir,), daemon=True) for _ in range(arguments.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
