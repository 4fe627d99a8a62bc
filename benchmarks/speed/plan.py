"""Which workload is asked of which subject, how often at a time and of how much data."""

from collections.abc import Sequence

import references
from load import from_python
from postgres import Postgres
from rounds import Rounds, at_half, longer, over_http
from rounds import in_pgbench as pgbench
from scale import USUAL, Scale
from subjects import BARE, FROM_PYTHON, LIMITED, SERVICE, UNLOGGED, WORKERS, Server, stored
from workloads import Request, Requests, deep

HALF = "append at half load"


def concurrent(workload: str, connections: int) -> str:
    return workload if connections == USUAL else f"{workload}, {connections} at a time"


def at_depth(page: int) -> str:
    return f"page {page:,} of a long session"


def of_session(length: int) -> str:
    return f"append to a session of {length:,}"


def in_store(workload: str, messages: int) -> str:
    return f"{workload} in a store of {messages:,}"


class Plan:
    """Adds every workload to `rounds`, with every subject that can do it."""

    def __init__(self, rounds: Rounds, servers: dict[str, Server], postgres: Postgres) -> None:
        self._rounds = rounds
        self._servers = servers
        self._postgres = postgres
        self._made = Requests()

    def add_all(self, scale: Scale) -> None:
        self._beside_rivals()
        self._beside_postgres()
        self._at_a_time(scale)
        self._by_size(scale)

    def _beside_rivals(self) -> None:
        made, both = self._made, (SERVICE, WORKERS)
        appends = made.of(made.append)
        self._add("append", appends, USUAL, *both, "ORM", "constant", "validating")
        constant = over_http(self._servers["constant"], self._postgres, appends, USUAL, send=from_python)
        self._rounds.add("append", FROM_PYTHON, constant)
        self._rounds.add(HALF, SERVICE, at_half(self._servers[SERVICE], self._postgres, appends, self._saturating))
        self._add("page", made.of(made.page), USUAL, *both, "ORM")
        self._add("page, refs", made.of(lambda: made.page("refs")), USUAL, SERVICE)
        self._add("page, none", made.of(lambda: made.page("none")), USUAL, *both, "ORM")
        self._add("list", made.of(made.sessions), 8, SERVICE, "ORM")
        self._add("create", made.of(made.create), 8, SERVICE, "ORM")
        self._add("mixed", made.of(made.mixed), 8, SERVICE, "ORM")
        self._add("get", made.of(made.session), 8, BARE, UNLOGGED, SERVICE, LIMITED)

    def _beside_postgres(self) -> None:
        script, variables = references.append(self._postgres, "service_")
        self._rounds.add("append", "pgbench", pgbench(self._postgres, "service_", script, 8, **variables))
        for workload, database, script in (
            ("page", "plain_", references.page(plain=True, context=True)),
            ("page, none", "service_", references.page(plain=False, context=False)),
            ("list", "service_", references.sessions()),
        ):
            self._rounds.add(workload, "pgbench", pgbench(self._postgres, database, script, 8))

    def _at_a_time(self, scale: Scale) -> None:
        for connections in scale.connections:
            if connections != USUAL:
                for workload, kind in (("append", self._made.append), ("page", self._made.page)):
                    name = concurrent(workload, connections)
                    self._add(name, self._made.of(kind), connections, SERVICE, WORKERS)
        layers = (BARE, UNLOGGED, LIMITED)
        self._add(concurrent("append", 8), self._made.of(self._made.append), 8, *layers)

    def _by_size(self, scale: Scale) -> None:
        for page in scale.pages:
            self._add(at_depth(page), [deep(scale.lengths[-1], page)], 8, SERVICE)
        for length in scale.lengths:
            turn = over_http(self._servers[SERVICE], self._postgres, self._made.appends_by_length(length), 1)
            self._rounds.add(of_session(length), SERVICE, longer(turn))
        for workload, kind in (("append", self._made.appends_in_store), ("page", self._made.pages_in_store)):
            for messages in scale.stores:
                turn = over_http(self._servers[stored(messages)], self._postgres, kind(messages), 8)
                self._rounds.add(in_store(workload, messages), SERVICE, turn)

    def _add(self, workload: str, requests: Sequence[Request], connections: int, *subjects: str) -> None:
        for subject in subjects:
            turn = over_http(self._servers[subject], self._postgres, requests, connections)
            self._rounds.add(workload, subject, turn)

    def _saturating(self) -> float:
        return self._rounds.figures["append"][SERVICE][-1].rate
