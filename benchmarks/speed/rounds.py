"""Rounds: every subject of a workload in turn, a few seconds each, so that noise meets all of them alike."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from load import Speed, at_rate, flat_out
from postgres import Postgres
from progress import say
from subjects import Server
from workloads import Request

WARM = 0.5  # seconds of each turn before the first round: statements are prepared, what is cached is cached
LONGER = 4  # a turn with few requests a second to one of the others: of few answers CPU and percentiles are noise


class Figures(NamedTuple):
    """Of one turn: operations a second, CPU of an operation in µs, and the latency in ms (0: not measured).

    `client` is the share of a core that the load generator took, where that is known.
    """

    rate: float
    server: float
    postgres: float
    p50: float = 0
    p99: float = 0
    client: float = 0

    @property
    def cpu(self) -> float:
        return self.server + self.postgres


Turn = Callable[[float], Figures]
"""Work for so many seconds."""

Send = Callable[[str, Sequence[Request], int, float], Speed]


def over_http(
    server: Server, postgres: Postgres, requests: Sequence[Request], connections: int, send: Send = flat_out
) -> Turn:
    """Requests as fast as they are answered."""
    return lambda seconds: _measure(server, postgres, lambda: send(server.url, requests, connections, seconds))


def at_half(server: Server, postgres: Postgres, requests: Sequence[Request], saturating: Callable[[], float]) -> Turn:
    """Requests at half of the rate `saturating`, as it was measured last."""
    return longer(
        lambda seconds: _measure(server, postgres, lambda: at_rate(server.url, requests, saturating() / 2, seconds))
    )


def longer(turn: Turn) -> Turn:
    """The same for LONGER times as many seconds."""
    return lambda seconds: turn(LONGER * seconds)


def _measure(server: Server, postgres: Postgres, send: Callable[[], Speed]) -> Figures:
    server.settle()
    before, of_postgres = server.cpu(), postgres.cpu()
    speed = send()
    own, of_postgres = server.cpu() - before, postgres.cpu() - of_postgres
    count = speed.requests
    return Figures(count / speed.seconds, own / count, of_postgres / count, speed.p50, speed.p99, speed.client)


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

    def run(self, rounds: int, seconds: float) -> None:
        self._run_once(0, WARM, "warming up")
        self.figures.clear()
        for number in range(rounds):
            self._run_once(number, seconds, f"round {number + 1}/{rounds}")

    def _run_once(self, number: int, seconds: float, what: str) -> None:
        for workload, turns in self.turns.items():
            say(f"{what}: {workload}")
            names = list(turns)
            first = number % len(names)  # nobody is always first
            for name in names[first:] + names[:first]:
                self.figures[workload][name].append(turns[name](seconds))
