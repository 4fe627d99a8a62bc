"""What is asked of the service: ratios inside one run, and a few figures that stand for themselves."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from plan import HALF, at_depth, in_store, of_session
from rounds import Figures, Rounds
from scale import Scale
from subjects import BARE, LIMITED, SERVICE, WORKERS

BEST = "best"
"""Of one worker and two the one with more throughput."""


class Outcome(NamedTuple):
    """What came of a target, round by round; `most`: whether the bound is above it."""

    what: str
    values: Sequence[float]
    bound: float
    most: bool

    @property
    def target(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.bound}"

    @property
    def is_met(self) -> bool:
        middle = median(self.values)
        return middle <= self.bound if self.most else middle >= self.bound


class Target(NamedTuple):
    """A figure of one subject of a workload to that of another, in the same round."""

    what: str
    one: tuple[str, str]
    other: tuple[str, str]
    figure: Callable[[Figures], float]
    bound: float
    most: bool = False

    def outcome(self, rounds: Rounds) -> Outcome:
        pairs = zip(_figures(rounds, *self.one), _figures(rounds, *self.other), strict=True)
        return Outcome(self.what, [self.figure(a) / self.figure(b) for a, b in pairs], self.bound, self.most)


_rate, _cpu, _server = map(attrgetter, ("rate", "cpu", "server"))


def _figures(rounds: Rounds, workload: str, subject: str) -> list[Figures]:
    subjects = rounds.figures[workload]
    if subject == BEST:
        return max((subjects[name] for name in (SERVICE, WORKERS)), key=lambda found: median(map(_rate, found)))
    return subjects[subject]


def outcomes(rounds: Rounds, scale: Scale, memory: Sequence[float], starts: Sequence[float]) -> list[Outcome]:
    """Every target; `memory` in megabytes from the first sample to the last, `starts` in seconds."""
    half = [figures.p99 / figures.p50 for figures in rounds.figures[HALF][SERVICE]]
    targets = (*_beside_postgres(), *_beside_rivals(), *_by_size(scale))
    return [
        *(target.outcome(rounds) for target in targets),
        Outcome("append at half load, p99 to p50", half, 4, most=True),
        Outcome("memory, last sample to first", [memory[-1] / memory[0]], 1.05, most=True),
        Outcome("memory, largest sample, MB", [max(memory)], 120, most=True),
        Outcome("start with a warm embedded database, s", starts, 1.5, most=True),
    ]


def _beside_postgres() -> Sequence[Target]:
    append, pgbench = ("append", SERVICE), ("append", "pgbench")
    return (
        Target("append, throughput to pgbench's", ("append", BEST), pgbench, _rate, 0.60),
        Target("append, CPU to pgbench's", append, pgbench, _cpu, 1.8, most=True),
        Target("page, throughput to pgbench's of plain json", ("page", BEST), ("page", "pgbench"), _rate, 0.60),
        Target("page, none, throughput to pgbench's", ("page, none", BEST), ("page, none", "pgbench"), _rate, 0.50),
        Target("list, throughput to pgbench's", ("list", SERVICE), ("list", "pgbench"), _rate, 0.12),
    )


def _beside_rivals() -> Sequence[Target]:
    validating = ("append", "validating")
    return (
        Target("append, server CPU to a validating route's", ("append", SERVICE), validating, _server, 1.6, most=True),
        Target("append, throughput to the ORM service's", ("append", SERVICE), ("append", "ORM"), _rate, 8),
        Target("page, throughput to the ORM service's", ("page", SERVICE), ("page", "ORM"), _rate, 5),
        Target("list, throughput to the ORM service's", ("list", SERVICE), ("list", "ORM"), _rate, 4),
        Target("get with all layers, server CPU to bare", ("get", LIMITED), ("get", BARE), _server, 1.25, most=True),
    )


def _by_size(scale: Scale) -> Sequence[Target]:
    (first, *_, last), (short, *_, long), (small, *_, large) = scale.pages, scale.lengths, scale.stores

    def cost(what: str, one: str, other: str, bound: float) -> Target:
        return Target(what, (one, SERVICE), (other, SERVICE), _cpu, bound, most=True)

    return (
        cost(f"page {last:,}, CPU to page {first}'s", at_depth(last), at_depth(first), 1.1),
        cost(f"append, CPU at {long:,} messages to {short}", of_session(long), of_session(short), 1.1),
        *(
            cost(
                f"{workload}, CPU in a store of {large:,} to {small:,}",
                in_store(workload, large),
                in_store(workload, small),
                1.3,
            )
            for workload in ("append", "page")
        ),
    )
