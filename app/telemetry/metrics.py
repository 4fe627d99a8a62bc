"""Metrics in Prometheus' format, right with any number of workers.

Workers of one `uvicorn --workers N` share a directory of memory-mapped files, named after their parent, so
that any of them can answer a scrape with the sum. prometheus_client decides at import whether it counts in
memory or in files, so the directory is chosen before.
"""

import multiprocessing
import os
import tempfile
from pathlib import Path


def _share_between_workers() -> None:
    parent = multiprocessing.parent_process()
    if parent is None or "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return
    directory = Path(tempfile.gettempdir()) / f"rag-chat-storage-{os.getuid() if hasattr(os, 'getuid') else 0}"
    directory = directory / f"metrics-{parent.pid}"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)


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
