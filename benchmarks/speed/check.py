"""A guard against slowness: what an operation costs now, beside what it cost when baseline.json was written.

    python benchmarks/speed/check.py [--update]

Cost is CPU time, of the server and of PostgreSQL, divided by that of a FastAPI route that only validates, in the same
round: so a faster machine, or a busier one, moves it little. Exits with 1 where one is above its bound.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
import databases
from evidence_subjects import url
from postgres import Postgres, temporary
from rounds import Rounds, over_http
from subjects import PORT, SERVICE, Server, rival, service, started
from tables import print_table
from workloads import Requests

BASELINE = Path(__file__).parents[1] / "baseline.json"
BOUND = 1.3
"""How much more than in the baseline is let pass: noise on a shared machine reaches 1.15."""

ROUNDS, SECONDS, CONNECTIONS = 5, 1.5, 8
VALIDATING = "validating"


def add_all(rounds: Rounds, servers: dict[str, Server], postgres: Postgres) -> None:
    made = Requests()
    kinds = {"append": made.append, "page": made.page, "list": made.sessions, "create": made.create}
    for name, kind in kinds.items():
        rounds.add(name, SERVICE, over_http(servers[SERVICE], postgres, made.of(kind), CONNECTIONS))
    asked = made.of(made.append)
    rounds.add(VALIDATING, VALIDATING, over_http(servers[VALIDATING], postgres, asked, CONNECTIONS))


def costs(postgres: Postgres, home: Path) -> dict[str, float]:
    """CPU of each operation, as a multiple of the validating route's."""
    rounds = Rounds()
    databases.make_service(postgres, home)
    with ExitStack() as stack:
        validating = rival(VALIDATING, "bare:validating", PORT + 1, home)
        servers = started(stack, [service(SERVICE, PORT, home, url(home, "service_")), validating])
        databases.fill_service(postgres, servers[SERVICE].url)
        add_all(rounds, servers, postgres)
        rounds.run(ROUNDS, SECONDS)
    units = [figures.server for figures in rounds.figures.pop(VALIDATING)[VALIDATING]]
    return {
        name: median(one.cpu / unit for one, unit in zip(subjects[SERVICE], units, strict=True))
        for name, subjects in rounds.figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write baseline.json anew")
    parser.add_argument("--bin", type=Path, default=None, help="directory of postgres and pgbench; default: bundled")
    chosen = parser.parse_args()
    with temporary(chosen.bin) as (postgres, home):
        found = costs(postgres, home)
    if chosen.update:
        BASELINE.write_text(json.dumps({name: round(cost, 2) for name, cost in found.items()}, indent=2) + "\n")
    baseline: dict[str, float] = json.loads(BASELINE.read_text())
    slow = [name for name, cost in found.items() if cost > BOUND * baseline[name]]
    rows = [["operation", "CPU to the validating route's", "baseline", "bound", ""]]
    for name, cost in found.items():
        verdict = "too slow" if name in slow else "met"
        rows.append([name, f"{cost:.2f}", f"{baseline[name]:.2f}", f"≤ {BOUND * baseline[name]:.2f}", verdict])
    print_table(*rows)
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
