"""Rounds: every subject of a workload in turn, a few seconds each, so that noise meets all of them alike."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from load import flat_out
from postgres import Postgres
from subjects import Server
from workloads import Request


class Figures(NamedTuple):
    """Of one turn: operations a second, CPU of an operation in µs, and the latency in ms (0: not measured)."""

    rate: float
    server: float
    postgres: float
    p50: float = 0
    p99: float = 0

    @property
    def cpu(self) -> float:
        return self.server + self.postgres


Turn = Callable[[float], Figures]
"""Work for so many seconds."""


def over_http(server: Server, postgres: Postgres, requests: Sequence[Request], connections: int) -> Turn:
    """Requests by wrk; the first of them warm up what is prepared and cached."""
    flat_out(server.url, requests, connections, 1)

    def turn(seconds: float) -> Figures:
        before, of_postgres = server.cpu(), postgres.cpu()
        speed = flat_out(server.url, requests, connections, seconds)
        own, of_postgres = server.cpu() - before, postgres.cpu() - of_postgres
        count = speed.requests
        return Figures(count / speed.seconds, own / count, of_postgres / count, speed.p50, speed.p99)

    return turn


def in_pgbench(postgres: Postgres, database: str, script: str, connections: int, **variables: str) -> Turn:
    """The statement by pgbench; whoever sends it is not counted."""

    def turn(seconds: float) -> Figures:
        before = postgres.cpu()
        options = (f"-c{connections}", "-j1", f"-T{max(1, round(seconds))}")
        number, rate = postgres.pgbench(database, script, *options, **variables)
        return Figures(rate, 0, (postgres.cpu() - before) / number)

    return turn


class Rounds:
    """What each subject of each workload did, round by round."""

    def __init__(self) -> None:
        self.turns: dict[str, dict[str, Turn]] = defaultdict(dict)
        self.figures: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))

    def add(self, workload: str, subject: str, turn: Turn) -> None:
        self.turns[workload][subject] = turn

    def run(self, rounds: int, seconds: float, say: Callable[[str], None]) -> None:
        for number in range(rounds):
            for workload, turns in self.turns.items():
                say(f"round {number + 1}/{rounds}: {workload}")
                names = list(turns)
                first = number % len(names)  # nobody is always first
                for name in names[first:] + names[:first]:
                    self.figures[workload][name].append(turns[name](seconds))

    def ratio(
        self, one: tuple[str, str], other: tuple[str, str], figure: Callable[[Figures], float]
    ) -> tuple[float, float, float]:
        """A figure of one subject to the other's in the same round: median, least and most."""
        pairs = zip(self.figures[one[0]][one[1]], self.figures[other[0]][other[1]], strict=True)
        ratios = [figure(a) / figure(b) for a, b in pairs]
        return median(ratios), min(ratios), max(ratios)
