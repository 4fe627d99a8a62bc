"""One directory of counts for the workers of one `uvicorn --workers N`, so that any of them answers for all.

Each worker holds a lock on a file of its own for as long as it lives: the kernel tells who is dead, also after
`kill -9` and when its number belongs to somebody else by now. The directory's own lock is shared by scrapes
and exclusive for whoever joins or clears up. Windows has no such locks: there each worker counts for itself.
"""

import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PREFIX = "rag-chat-storage-metrics-"


def join() -> Path | None:
    """The directory this process shares with its siblings; None where it counts for itself.

    prometheus_client decides at import whether it counts in memory or in files: call this before.
    """
    parent = multiprocessing.parent_process()
    if sys.platform == "win32" or parent is None or parent.pid is None or "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return None
    try:
        place = Path(tempfile.gettempdir())
        directory = place / f"{_PREFIX}{_identity(parent.pid)}"
        directory.mkdir(exist_ok=True, mode=0o700)
        if directory.lstat().st_uid != os.geteuid() or directory.is_symlink():
            raise PermissionError(f"{directory} belongs to somebody else")
        with locked(directory, exclusive=True):
            _announce(directory)
    except OSError as error:
        logging.getLogger("app").warning("metrics: each worker counts for itself, no directory to share: %s", error)
        return None
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    for other in place.glob(f"{_PREFIX}*"):
        if other.name.removeprefix(_PREFIX) != _identity(other.name.removeprefix(_PREFIX).partition("-")[0]):
            shutil.rmtree(other, ignore_errors=True)
    return directory


@contextmanager
def locked(directory: Path, *, exclusive: bool) -> Iterator[None]:
    """Waits for the directory: with siblings that read it, or alone."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def dead(directory: Path) -> set[str]:
    """Numbers of the workers that left files behind. Call it with the directory locked."""
    return {path.stem for path in directory.glob("*.alive") if not _is_held(path)}


def _announce(directory: Path) -> None:
    pid = os.getpid()
    for gauge in directory.glob(f"gauge_*_{pid}.db"):  # of a dead worker with the same number
        gauge.unlink()
    if sys.platform != "win32":
        descriptor = os.open(directory / f"{pid}.alive", os.O_RDWR | os.O_CREAT, 0o600)  # open until the end
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_held(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _identity(pid: int | str) -> str:
    """`pid` with the time it started: the number alone comes back, in a container as 1 after each restart."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = "0"
    return f"{pid}-{started}"
