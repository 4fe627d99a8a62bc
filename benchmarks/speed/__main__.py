"""How fast the service is, beside PostgreSQL alone and beside what a user would otherwise write.

    python benchmarks/speed [--quick] [--rounds 7] [--seconds 3] [--bin "$(pg_config --bindir)"]

Starts a PostgreSQL of its own, this service with one worker and with two, and benchmarks/baseline; ends all of them.
Needs wrk. The figures that count are ratios inside one run, and CPU time before throughput: noise moves that least.
"""

import argparse
import asyncio
import json
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
import fill
import references
from evidence_subjects import ROLE, migrate, url
from evidence_variants import TABLES, TUNED
from postgres import Postgres, temporary
from report import print_report
from rounds import Rounds, in_pgbench, over_http
from subjects import Server, rival, service
from workloads import Requests

PORT = 18_100
DEEP, DEEP_QUICK = 100_000, 20_000


def make_databases(postgres: Postgres, home: Path) -> None:
    postgres.sql("postgres", f"CREATE ROLE {ROLE} SUPERUSER LOGIN", "CREATE DATABASE service_ TEMPLATE template0")
    migrate(home, "service_")
    postgres.sql("postgres", "CREATE DATABASE plain_ TEMPLATE service_", "CREATE DATABASE orm_ TEMPLATE template0")
    postgres.sql("plain_", TABLES[TUNED])


def start_all(stack: ExitStack, home: Path) -> dict[str, Server]:
    """The servers, each with its data."""
    made = [
        service("service", PORT, home, url(home, "service_")),
        service("service, 2 workers", PORT + 1, home, url(home, "service_"), workers=2),
        rival("ORM", "orm_service:app", PORT + 2, home, url(home, "orm_")),
        rival("constant", "bare:constant", PORT + 3, home),
        rival("validating", "bare:validating", PORT + 4, home),
    ]
    for server in made:
        stack.callback(server.stop)
    return {server.name: server for server in made}


def load(servers: dict[str, Server], home: Path, deep: int) -> None:
    fill.over_http(servers["service"].url, deep=deep)
    asyncio.run(fill.plain(url(home, "plain_")))
    asyncio.run(fill.orm(url(home, "orm_")))


def workloads(rounds: Rounds, servers: dict[str, Server], postgres: Postgres, deep: int) -> None:
    """Every workload with every subject that can do it."""
    made = Requests()
    plan = {
        "append": (made.of(made.append), 32, ("service", "service, 2 workers", "ORM", "constant", "validating")),
        "page": (made.of(made.page), 32, ("service", "service, 2 workers", "ORM")),
        "page, refs": (made.of(lambda: made.page("refs")), 32, ("service",)),
        "page, none": (made.of(lambda: made.page("none")), 32, ("service", "service, 2 workers", "ORM")),
        "list": (made.of(made.sessions), 8, ("service", "ORM")),
        "create": (made.of(made.create), 8, ("service", "ORM")),
        "mixed": (made.of(made.mixed), 8, ("service", "ORM")),
        "page 1 of a long session": (made.of(lambda: made.deep(1)), 8, ("service",)),
        "last page of a long session": (made.of(lambda: made.deep(deep // 50)), 8, ("service",)),
    }
    for workload, (requests, connections, subjects) in plan.items():
        for subject in subjects:
            rounds.add(workload, subject, over_http(servers[subject], postgres, requests, connections))
    script, variables = references.append(postgres, "service_")
    rounds.add("append", "pgbench", in_pgbench(postgres, "service_", script, 8, **variables))
    for workload, database, script in (
        ("page", "plain_", references.page(plain=True, context=True)),
        ("page, none", "service_", references.page(plain=False, context=False)),
        ("list", "service_", references.sessions()),
    ):
        rounds.add(workload, "pgbench", in_pgbench(postgres, database, script, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=None, help="directory of postgres and pgbench; default: bundled")
    parser.add_argument("--quick", action="store_true", help="in less than five minutes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=None, help="of each turn")
    parser.add_argument("--results", type=Path, help="a file for the figures of every round, as JSON")
    chosen = parser.parse_args()
    deep = DEEP_QUICK if chosen.quick else DEEP
    rounds = Rounds()
    with temporary(chosen.bin) as (postgres, home), ExitStack() as stack:
        make_databases(postgres, home)
        servers = start_all(stack, home)
        say("filling the databases")
        load(servers, home, deep)
        workloads(rounds, servers, postgres, deep)
        rounds.run(chosen.rounds, chosen.seconds or (1 if chosen.quick else 3), say)
    print_report(rounds)
    if chosen.results:
        chosen.results.write_text(json.dumps(rounds.figures, indent=1) + "\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
