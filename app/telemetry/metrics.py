"""Metrics in Prometheus' format, right with any number of workers."""

import os
import time
from collections import Counter as Sums
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from app import VERSION
from app.errors import DatabaseUnavailable, DiskFull, InternalError, Overloaded, TimedOut
from app.telemetry import sharing

_directory = sharing.join()

from prometheus_client import (  # noqa: E402 - see sharing.join
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric  # noqa: E402
from prometheus_client.mmap_dict import MmapedDict  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""Methods that get a label of their own; a client may send any word."""

requests = Counter(
    "http_requests",
    "Requests by route template and status; 499: the client hung up before its answer.",
    ("method", "route", "status"),
)
duration = Histogram(
    "http_request_duration_seconds",
    "Time from a request's head to the end of its answer, waiting for a connection included.",
    ("method", "route"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
problems = Counter("http_problems", "Errors by the `code` of their answer; tells the kinds of 503 apart.", ("code",))
shed = Counter(
    "http_requests_shed",
    "Requests refused at once with 503: POOL_SIZE + MAX_WAITING in flight, or MAX_HELD_BODY_BYTES of bodies.",
)
appended = Counter("messages_appended", "Messages stored; replays of one that was already stored are not counted.")
pool_size = Gauge(
    "db_pool_connections_max", "Connections that all workers together may hold.", multiprocess_mode="livesum"
)
pool_in_use = Gauge("db_pool_connections_in_use", "Connections that serve a request now.", multiprocess_mode="livesum")
pool_waiting = Gauge(
    "db_pool_waiting", "Requests that wait for a connection, or for one being made.", multiprocess_mode="livesum"
)
_workers = Gauge("rag_chat_storage_workers", "Worker processes alive.", multiprocess_mode="livesum")
_started = Gauge(
    "rag_chat_storage_start_time_seconds",
    "Unix time at which the youngest worker started; it moves when one is replaced.",
    multiprocess_mode="livemax",
)
_info = Gauge(
    "rag_chat_storage_info", "Always 1; the label names the version.", ("version",), multiprocess_mode="livemax"
)

for _problem in (InternalError, Overloaded, DatabaseUnavailable, TimedOut, DiskFull):
    problems.labels(_problem.code)  # from 0 on: a series that begins at 1 has no increase
_workers.set(1)
_started.set(time.time())
_info.labels(VERSION).set(1)


def served(method: str, route: str, status: int, seconds: float) -> None:
    """Count one request; `method` and `route` are of a bounded number."""
    counted, observed = _children(method, route, status)
    counted.inc()
    observed.observe(seconds)


@cache  # asking for a child anew by its labels was most of counting
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return requests.labels(method, route, status), duration.labels(method, route)


class _Ready(Collector):
    """What the scrape itself found out."""

    def __init__(self, *, ready: bool) -> None:
        self._ready = ready

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "rag_chat_storage_ready", "1 if the database answered this scrape within 2 s, else 0.", value=self._ready
        )


class _AllWorkers(Collector):
    """The sum over all workers: gauges of those alive, the rest of the dead as well."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        with sharing.locked(self._directory, exclusive=False):
            gone = sharing.dead(self._directory)
            files = [
                str(path)
                for path in self._directory.glob("*.db")
                if not (path.name.startswith("gauge_") and _pid(path) in gone)
                and path.stat().st_size  # a worker that starts has made it, and not yet written
            ]
            merged: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
            return merged


def render(*, ready: bool) -> tuple[bytes, str]:
    """The scrape's body and its content type. Reads files: call it in a thread."""
    registry = CollectorRegistry()
    registry.register(_Ready(ready=ready))
    if _directory is not None:
        registry.register(_AllWorkers(_directory))
    elif "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # the user's, who clears it as well
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        return generate_latest(REGISTRY) + generate_latest(registry), CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_LATEST


def fold(directory: Path) -> None:
    """Add the counts of dead workers up in one file, so that no number of restarts fills the directory."""
    with sharing.locked(directory, exclusive=True):
        gone = sharing.dead(directory)
        for kind in ("counter", "histogram"):
            files = [path for path in directory.glob(f"{kind}_*.db") if _pid(path) in gone]
            if files:
                _add_up(files, directory / f"{kind}_0.db")
        for pid in gone:
            for path in (*directory.glob(f"*_{pid}.db"), directory / f"{pid}.alive"):
                path.unlink()


def _add_up(files: list[Path], total: Path) -> None:
    sums: Sums[str] = Sums()
    for path in (*files, *([total] if total.exists() else [])):
        if path.stat().st_size:
            for key, value, *_ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
                sums[key] += value
    fresh = total.with_suffix(".new")
    fresh.unlink(missing_ok=True)  # of somebody who was killed here
    written = MmapedDict(str(fresh))  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    fresh.replace(total)


def _pid(path: Path) -> str:
    return path.stem.rpartition("_")[2]


if _directory is not None:
    fold(_directory)
