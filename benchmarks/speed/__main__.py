"""How fast the service is, beside PostgreSQL alone and beside what a user would otherwise write.

    python benchmarks/speed [--quick] [--rounds 7] [--seconds 3] [--bin "$(pg_config --bindir)"]

Starts a PostgreSQL of its own, this service with one worker and with two, and benchmarks/baseline; ends all of them.
The figures that count are ratios inside one run, and CPU time before throughput: noise moves that least.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
import databases
import lasting
import plots
import results
from evidence_subjects import url
from plan import Plan
from postgres import Postgres, temporary
from progress import say
from report import print_report
from rounds import Rounds
from scale import FULL, QUICK, Scale
from subjects import PORT, SERVICE, service, start_all, started
from targets import outcomes
from workloads import Requests


def in_turns(postgres: Postgres, home: Path, scale: Scale, number: int) -> Rounds:
    """So many rounds of every workload."""
    rounds = Rounds()
    databases.make_all(postgres, home, scale)
    with ExitStack() as stack:
        say("starting the servers")
        servers = start_all(stack, home, scale)
        databases.fill_service(postgres, servers[SERVICE].url)
        databases.fill_rivals(home)
        Plan(rounds, servers, postgres).add_all(scale)
        rounds.run(number, scale.seconds)
    return rounds


def memory(home: Path, number: int) -> list[float]:
    made = Requests()
    with ExitStack() as stack:
        server = started(stack, [service(SERVICE, PORT, home, url(home, "service_"))])[SERVICE]
        return lasting.memory(server, made.of(made.mixed), number)


def main() -> None:
    chosen = parser().parse_args()
    scale = QUICK if chosen.quick else FULL
    if chosen.seconds:
        scale = scale._replace(seconds=chosen.seconds)
    with temporary(chosen.bin) as (postgres, home):
        about = {**results.machine(postgres), "rounds": chosen.rounds, "seconds": scale.seconds}
        rounds = in_turns(postgres, home, scale, chosen.rounds)
        sizes = memory(home, scale.mixed)
        starts = lasting.starts(home, PORT, chosen.rounds)
    found = outcomes(rounds, scale, sizes, starts)
    print_report(rounds, found)
    if chosen.results:
        results.write(chosen.results, about, rounds, found, sizes)
    if chosen.plots:
        plots.draw(chosen.plots, rounds, scale)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--bin", type=Path, default=None, help="directory of postgres and pgbench; default: bundled")
    made.add_argument("--quick", action="store_true", help="in less than five minutes")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seconds", type=float, default=None, help="of each turn")
    made.add_argument("--results", type=Path, help="a file for the figures of every round, as JSON")
    made.add_argument("--plots", type=Path, help="a directory for the plots, as SVG")
    return made


if __name__ == "__main__":
    main()
