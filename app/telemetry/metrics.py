"""Metrics in Prometheus' format, right with any number of workers.

Workers of one `uvicorn --workers N` share a directory of memory-mapped files, named after their parent, so
that any of them can answer a scrape with the sum. prometheus_client decides at import whether it counts in
memory or in files, so the directory is chosen before.
"""

import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "rag-chat-storage-metrics-"


def _share_between_workers() -> None:
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return
    place = Path(tempfile.gettempdir())
    directory = place / f"{_PREFIX}{_identity(parent.pid)}"
    directory.mkdir(exist_ok=True, mode=0o700)
    if not hasattr(os, "geteuid") or directory.stat().st_uid == os.geteuid():  # else each worker counts for itself
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    for other in place.glob(f"{_PREFIX}*"):
        if other.name.removeprefix(_PREFIX) != _identity(other.name.removeprefix(_PREFIX).partition("-")[0]):
            shutil.rmtree(other, ignore_errors=True)


def _identity(pid: int | str) -> str:
    """`pid` with the time it started: the number alone comes back, in a container as 1 after each restart."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = "0"
    return f"{pid}-{started}"


_share_between_workers()

from prometheus_client import (  # noqa: E402 - see above
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""Methods that get a label of their own; a client may send any word."""

requests = Counter("http_requests", "Requests answered.", ("method", "route", "status"))
duration = Histogram(
    "http_request_duration_seconds",
    "Time from the request's head to the end of its answer.",
    ("method", "route"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
shed = Counter("http_requests_shed", "Requests refused with 503 because too many were waiting.")
appended = Counter("messages_appended", "Messages stored; replays are not counted.")
pool_in_use = Gauge("db_pool_connections_in_use", "Connections that serve a request.", multiprocess_mode="livesum")
pool_waiting = Gauge("db_pool_waiting", "Requests that wait for a connection.", multiprocess_mode="livesum")


def render() -> tuple[bytes, str]:
    """The scrape's body and its content type."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(), CONTENT_TYPE_LATEST
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
