"""Where the CPU time of the server goes: what each layer takes of an append, a page and a list.

    python benchmarks/speed/layers.py [--seconds 10]

Of one process that samples itself, see sampled.py.
"""

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
import databases
import sampled
from evidence_subjects import url
from load import flat_out
from postgres import Postgres, temporary
from subjects import PORT, SERVICE, service, started
from tables import print_table
from workloads import Request, Requests

CONNECTIONS = 8
SAMPLED = Path(__file__).with_name("sampled.py")


def shares(home: Path, requests: list[Request], seconds: float) -> tuple[float, dict[str, float]]:
    """Microseconds of an operation, and the share of each layer."""
    found = home / "sampled.json"
    program = (str(SAMPLED), str(found))
    with ExitStack() as stack:
        server = started(stack, [service(SERVICE, PORT, home, url(home, "service_"), program=program)])[SERVICE]
        flat_out(server.url, requests, CONNECTIONS, 2)
        server.send_signal(signal.SIGUSR1)
        before = server.cpu()
        answered = flat_out(server.url, requests, CONNECTIONS, seconds).requests
        used = server.cpu() - before
        server.send_signal(signal.SIGUSR2)
        while not found.exists():
            time.sleep(0.05)
    samples: dict[str, int] = json.loads(found.read_text())
    found.unlink()
    total = sum(samples.values())
    return used / answered, {layer: number / total for layer, number in samples.items()}


def fill(postgres: Postgres, home: Path) -> None:
    databases.make_service(postgres, home)
    with ExitStack() as stack:
        server = started(stack, [service(SERVICE, PORT, home, url(home, "service_"))])[SERVICE]
        databases.fill_service(postgres, server.url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=None, help="directory of postgres; default: bundled")
    parser.add_argument("--seconds", type=float, default=10, help="of each workload")
    chosen = parser.parse_args()
    made = Requests()
    with temporary(chosen.bin) as (postgres, home):
        fill(postgres, home)
        kinds = {"append": made.append, "page": made.page, "list": made.sessions}
        found = {name: shares(home, made.of(kind), chosen.seconds) for name, kind in kinds.items()}
    rows = [
        [layer, *(f"{total * of.get(layer, 0):,.0f} ({of.get(layer, 0):.0%})" for total, of in found.values())]
        for layer in (*sampled.LAYERS, sampled.OTHER)
    ]
    print_table(["CPU µs", *found], *rows, ["all", *(f"{total:,.0f}" for total, _ in found.values())])


if __name__ == "__main__":
    main()
