"""What it costs to keep what every answer stood on: bytes and CPU beside plain columns, and the reverse question.

    python benchmarks/evidence.py [--full] [--messages 200000] [--many 1000000] [--bin "$(pg_config --bindir)"]

Starts a PostgreSQL of its own in a temporary directory (the bundled one unless --bin names another) and removes it.
Every variant is a process of its own with the service's routes, on a database of its own. They take short turns, and
each is compared with the plain column of the same round. CPU is what the kernel counted for that process, its
connections and the processes that PostgreSQL shares. The default ends in a few minutes and shows that it runs; --full
takes an hour and 8 GB. Linux only (it reads /proc), as root too.
The decision drawn from it: docs/decisions/0009-evidence.md.
"""

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from pathlib import Path

import asyncpg
from evidence_load import SIZES, Loader, load
from evidence_reverse import compare
from evidence_subjects import ROLE, Cost, Item, Subject, migrate, url
from evidence_variants import COLD, PLAIN, ROWS, SERVICE, TABLES, TUNED
from evidence_workload import Workload
from postgres import Postgres, temporary
from tables import print_table

MADE = 50_000  # messages that are made where many are needed; the others are copies, later and elsewhere
APPENDS, NEWS, PAGES = 50, 15, 20  # of a turn

DATABASES = {SERVICE: "service_", PLAIN: "plain_", TUNED: "tuned_", ROWS: "rows_"}


async def fill(postgres: Postgres, home: Path, databases: dict[str, str], messages: int, times: int = 1) -> None:
    """Make databases of the variants, and load so many messages, so many times, into all of them."""
    loaders = []
    for database, variant in databases.items():
        postgres.sql("postgres", f"CREATE DATABASE {database} TEMPLATE migrated")
        if TABLES[variant]:
            postgres.sql(database, TABLES[variant])
        loaders.append(Loader(variant, await asyncpg.connect(url(home, database))))
    await load(Workload(), messages, loaders, times)
    for loader in loaders:
        await loader.close()


def print_sizes(postgres: Postgres, messages: int) -> None:
    figures = {}
    for variant, database in DATABASES.items():
        lines = [line.split("|") for line in postgres.sql(database, SIZES).splitlines()]
        figures[variant] = {name: (int(heap), int(indexes)) for name, heap, indexes in lines}
    total = {variant: sum(map(sum, tables.values())) / messages for variant, tables in figures.items()}
    rows = [["", "bytes a message", f"of {PLAIN}", f"of {ROWS}", "tables + indexes, bytes a message"]]
    for variant, tables in figures.items():
        parts = [
            f"{name} {heap / messages:.0f} + {indexes / messages:.0f}"
            for name, (heap, indexes) in tables.items()
            if heap + indexes > messages
        ]
        shares = [f"{total[variant] / total[other]:.2f}" for other in (PLAIN, ROWS)]
        rows.append([variant, f"{total[variant]:,.0f}", *shares, ", ".join(parts)])
    print_table(*rows)


class Turns:
    """The processes of all variants, and what each call cost them, round by round."""

    def __init__(self, subjects: dict[str, Subject], sessions: list[str], workload: Workload) -> None:
        self._subjects = subjects
        self._sessions = sessions
        self._workload = workload
        self.costs: dict[str, dict[str, list[Cost]]] = defaultdict(lambda: defaultdict(list))

    def warm_up(self) -> None:
        """Let the service know every chunk, as after hours of use."""
        chunks = self._workload.chunks
        bodies = [{**self._workload.question(), "context": chunks[at : at + 200]} for at in range(0, len(chunks), 200)]
        for _ in range(2):  # what it hears before it has met its database it forgets
            self._subjects[SERVICE].run("append", [(self._sessions[0], "", body) for body in bodies])

    def round(self, number: int) -> None:
        dice, workload = self._workload.dice, self._workload
        asked, read = dice.choices(self._sessions, k=APPENDS), dice.choices(self._sessions, k=PAGES)
        questions: list[Item] = [(one, "", workload.question()) for one in asked]
        answers: list[Item] = [(one, "", workload.answer()) for one in asked]
        news: list[Item] = [(one, "", workload.answer_on_news()) for one in asked[:NEWS]]
        pages: list[Item] = [(one, "page_size=50", None) for one in read]
        bare: list[Item] = [(one, "page_size=50&context=none", None) for one in read]
        names = list(self._subjects)
        first = number % len(names)  # nobody is always first
        for name in names[first:] + names[:first]:
            run = self._subjects[name].run
            question, answer = run("append", questions), run("append", answers)
            costs = {
                "append of a question": question,
                "append of an answer": answer,
                "append, half of them answers": Cost(*(sum(both) / 2 for both in zip(question, answer, strict=True))),
                "append of an answer, 5 new texts": run("append", news),
                "page of 50": run("page", pages),
                "page of 50, context=none": run("page", bare),
                "append of an answer, whole application": run("append", answers, whole=True),
                "page of 50, whole application": run("page", pages, whole=True),
            }
            for call, cost in costs.items():
                self.costs[call][name].append(cost)

    def report(self) -> None:
        rows = [["CPU of plain (quartiles), µs server + PostgreSQL", *self._subjects]]
        for call, costs in self.costs.items():
            row = [call]
            for mine in costs.values():
                low, middle, high = statistics.quantiles(
                    [sum(one) / sum(plain) for one, plain in zip(mine, costs[PLAIN], strict=True)], n=4
                )
                server, database = (f"{statistics.median(part):,.0f}" for part in zip(*mine, strict=True))
                row.append(f"{middle:.2f} ({low:.2f}-{high:.2f}) {server} + {database}")
            rows.append(row)
        print_table(*rows)


def beside_plain(postgres: Postgres, home: Path, messages: int, rounds: int) -> None:
    started = time.monotonic()
    asyncio.run(fill(postgres, home, {database: variant for variant, database in DATABASES.items()}, messages))
    print(f"{messages:,} messages in {len(DATABASES)} databases, loaded in {time.monotonic() - started:.0f} s\n")
    print_sizes(postgres, messages)
    postgres.sql("postgres", f"CREATE DATABASE cold_ TEMPLATE {DATABASES[SERVICE]}")
    sessions = postgres.sql(DATABASES[PLAIN], "SELECT id FROM chat_sessions").split()
    databases = {**DATABASES, COLD: "cold_"}
    subjects = {variant: Subject(postgres, home, variant, database) for variant, database in databases.items()}
    try:
        turns = Turns(subjects, sessions, Workload())
        turns.warm_up()
        turns.round(0)
        turns.costs.clear()
        for number in range(rounds):
            turns.round(number)
        turns.report()
    finally:
        for subject in subjects.values():
            subject.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, help="directory of postgres and psql; default: the bundled ones")
    parser.add_argument("--full", action="store_true", help="200,000 messages, 40 rounds, a million to ask back")
    parser.add_argument("--messages", type=int, help="beside plain columns, in steps of 5,000; 0: none")
    parser.add_argument("--rounds", type=int, help="at least 2")
    parser.add_argument("--many", type=int, help="to ask back beside 10,000, in steps of 50,000; 0: none")
    arguments = parser.parse_args()
    defaults = (200_000, 40, 1_000_000) if arguments.full else (10_000, 10, 50_000)
    given = (arguments.messages, arguments.rounds, arguments.many)
    messages, rounds, many = (default if one is None else one for one, default in zip(given, defaults, strict=True))
    with temporary(arguments.bin) as (postgres, home):
        postgres.sql("postgres", f"CREATE ROLE {ROLE} SUPERUSER LOGIN", "CREATE DATABASE migrated TEMPLATE template0")
        migrate(home, "migrated")
        if messages:
            beside_plain(postgres, home, messages, rounds)
        if many:
            asyncio.run(fill(postgres, home, {"small_": SERVICE}, 10_000))
            asyncio.run(fill(postgres, home, {"large_": SERVICE}, MADE, many // MADE))
            compare(postgres, home, rounds)


if __name__ == "__main__":
    main()
