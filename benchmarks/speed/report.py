"""The tables: what every subject did, and how far that is from the targets."""

from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from rounds import Figures, Rounds
from tables import print_table


def rate(figures: Figures) -> float:
    return figures.rate


def cpu(figures: Figures) -> float:
    return figures.cpu


def server(figures: Figures) -> float:
    return figures.server


class Target(NamedTuple):
    """A figure of one subject to that of another; `most`: whether the bound is above it."""

    what: str
    one: tuple[str, str]
    other: tuple[str, str]
    figure: Callable[[Figures], float]
    bound: float
    most: bool = False


TARGETS = (
    Target("append, throughput of pgbench's", ("append", "best"), ("append", "pgbench"), rate, 0.60),
    Target("append, CPU of pgbench's", ("append", "service"), ("append", "pgbench"), cpu, 1.8, most=True),
    Target(
        "append, server CPU of a validating route's",
        ("append", "service"),
        ("append", "validating"),
        server,
        1.6,
        most=True,
    ),
    Target("page, throughput of pgbench's of plain json", ("page", "best"), ("page", "pgbench"), rate, 0.60),
    Target(
        "page without context, throughput of pgbench's", ("page, none", "best"), ("page, none", "pgbench"), rate, 0.50
    ),
    Target("list, throughput of pgbench's", ("list", "service"), ("list", "pgbench"), rate, 0.12),
    Target("append, throughput of the ORM service's", ("append", "service"), ("append", "ORM"), rate, 8),
    Target("page, throughput of the ORM service's", ("page", "service"), ("page", "ORM"), rate, 5),
    Target("list, throughput of the ORM service's", ("list", "service"), ("list", "ORM"), rate, 4),
    Target(
        "last page, CPU of the first's",
        ("last page of a long session", "service"),
        ("page 1 of a long session", "service"),
        cpu,
        1.1,
        most=True,
    ),
)


def add_best(rounds: Rounds) -> None:
    """Of one worker and two the one with more throughput."""
    for subjects in rounds.figures.values():
        ours = [subjects[name] for name in ("service", "service, 2 workers") if name in subjects]
        subjects["best"] = max(ours, key=lambda figures: median(map(rate, figures)))


def print_report(rounds: Rounds) -> None:
    rows = [["workload", "subject", "a second", "CPU µs server + PostgreSQL", "p50 ms", "p99 ms"]]
    for workload, subjects in rounds.figures.items():
        for subject, figures in subjects.items():
            middle = Figures(*(median(column) for column in zip(*figures, strict=True)))
            rows.append(
                [
                    *(workload, subject, f"{middle.rate:,.0f}", f"{middle.server:,.0f} + {middle.postgres:,.0f}"),
                    *(f"{latency:.1f}" if latency else "" for latency in (middle.p50, middle.p99)),
                ]
            )
    print_table(*rows)
    add_best(rounds)
    rows = [["ratio", "median (least-most)", "target", ""]]
    for target in TARGETS:
        ratio, least, most = rounds.ratio(target.one, target.other, target.figure)
        met = ratio <= target.bound if target.most else ratio >= target.bound
        sign = "≤" if target.most else "≥"
        rows.append(
            [target.what, f"{ratio:.2f} ({least:.2f}-{most:.2f})", f"{sign} {target.bound}", "" if met else "missed"]
        )
    print_table(*rows)
