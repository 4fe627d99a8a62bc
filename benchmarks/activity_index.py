"""What an index on the time of activity costs an append, and what it saves a list of sessions.

    python benchmarks/activity_index.py [--quick] [--bin "$(pg_config --bindir)"]

Starts a PostgreSQL of its own in a temporary directory (the bundled one unless --bin names another) and removes it.
The variants take short turns, so that a noisy minute meets all of them, and each is compared with A of the same round.
CPU is utime + stime of all processes of that PostgreSQL. Nothing happens by chance: autovacuum is off, a VACUUM of
chat_sessions follows each turn and is charged separately; the first turn is not counted and no checkpoint comes after
it, so WAL is free of full-page images. Linux only (it reads /proc), as root too. About 8 minutes and 6 GB of disk.
The decision drawn from it: docs/decisions/0003-activity-index.md.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from postgres import Postgres, temporary
from tables import print_table

SESSIONS, ACTIVE = 20_000, 1_000  # the write test: one session in twenty receives messages
BIG_TENANT, BIG_USER = 200_000, 500  # the read test
ONE_SESSION = 20_000  # appends to a single session without a VACUUM: the worst that can lie on top of a list
CLIENTS, TURN = 8, 12_000  # appends of a turn

TABLES = """
CREATE TABLE chat_sessions (
    id uuid PRIMARY KEY, tenant_id integer NOT NULL, user_id text, name text, name_folded text COLLATE "C",
    is_favorite boolean NOT NULL DEFAULT false, metadata json, message_count int NOT NULL DEFAULT 0,
    revision int NOT NULL DEFAULT 1, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
    fingerprint bytea);
CREATE TABLE chat_messages (
    session_id uuid NOT NULL REFERENCES chat_sessions ON DELETE CASCADE, seq int NOT NULL, id uuid NOT NULL,
    sender text NOT NULL, content text NOT NULL, context json, metadata json,
    created_at timestamptz NOT NULL DEFAULT now(), redacted_at timestamptz, fingerprint bytea,
    PRIMARY KEY (session_id, seq), UNIQUE (session_id, id));
"""
# UUIDv7, which PostgreSQL 15 to 17 cannot make themselves.
NEW_ID = """encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(floor(extract(
    epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid"""
SESSION_ROWS = """
INSERT INTO chat_sessions (id, tenant_id, user_id, name, name_folded, metadata, created_at, updated_at, fingerprint)
SELECT lpad(n::text, 32, '0')::uuid, 1, {user}, 'Conversation number ' || n, 'conversation number ' || n,
       '{{"channel": "web"}}', t.at, t.at, sha256(n::text::bytea)
  FROM generate_series(1, {count}) AS n, LATERAL (SELECT now() - ({count} - n) * interval '1 minute') AS t (at)
 ORDER BY {order};
"""
MESSAGE_ROWS = f"""
INSERT INTO chat_messages (session_id, seq, id, sender, content, fingerprint)
SELECT s.id, q, {NEW_ID}, 'user', repeat('c', 1000), sha256('c')
  FROM generate_series(1, 50) AS q, generate_series(1, {ACTIVE}) AS n
  JOIN chat_sessions AS s ON s.id = lpad((n * {SESSIONS // ACTIVE})::text, 32, '0')::uuid;
UPDATE chat_sessions SET message_count = 50 WHERE id IN (SELECT session_id FROM chat_messages);
"""
# The service's append, with neither user guard nor If-Match, and an id of its own making ("mine").
APPEND = f"""
\\set n random(1, :active) * :spread
WITH s AS (UPDATE chat_sessions SET message_count = message_count + 1, revision = revision + 1,
                                    updated_at = greatest(updated_at, now())
            WHERE id = lpad(:n::text, 32, '0')::uuid AND tenant_id = :tenant
              AND (:mine OR NOT EXISTS (SELECT FROM chat_messages WHERE id = lpad(:n::text, 32, '0')::uuid
                                           AND session_id = lpad(:n::text, 32, '0')::uuid))
           RETURNING id, message_count, revision),
     m AS (INSERT INTO chat_messages (session_id, seq, id, sender, content, fingerprint)
           SELECT s.id, s.message_count, {NEW_ID}, 'assistant', :content, sha256('c') FROM s
           RETURNING seq, created_at)
SELECT m.seq, m.created_at, s.revision FROM m CROSS JOIN s;
"""
APPEND_VALUES = {"tenant": "1", "mine": "true", "content": "c" * 1000}
LIST = """SELECT id, user_id, name, is_favorite, metadata::text, message_count, revision, created_at, updated_at
  FROM chat_sessions WHERE tenant_id = 1 {} ORDER BY updated_at DESC, id DESC LIMIT 20;"""
NIL = "00000000-0000-0000-0000-000000000000"
LISTS = {
    f"a user's {BIG_USER}": LIST.format("AND user_id = 'big'"),
    f"all of the tenant's {BIG_TENANT:,}": LIST.format(""),
    "the same, 100,000 deep": LIST.format(f"AND (updated_at, id) < (now() - interval '100000 minutes', '{NIL}')"),
}


@dataclass(frozen=True)
class Variant:
    indexes: tuple[str, ...]
    fillfactor: int = 100


NO_ACTIVITY = ("(tenant_id, user_id)",)
TENANT = ("(tenant_id, updated_at DESC, id DESC)",)
USER = ("(tenant_id, user_id, updated_at DESC, id DESC)",)
BOTH = (*TENANT, f"{USER[0]} WHERE user_id IS NOT NULL")
ASCENDING = tuple(index.replace(" DESC", "") for index in BOTH)
VARIANTS = {
    "A none": Variant(NO_ACTIVITY),
    "A, fillfactor 90": Variant(NO_ACTIVITY, 90),
    "A, fillfactor 50": Variant(NO_ACTIVITY, 50),
    "B tenant": Variant(TENANT),
    "C tenant + user": Variant(BOTH),
    "C, fillfactor 50": Variant(BOTH, 50),
    "D user": Variant(USER),
    "E = C ascending": Variant(ASCENDING),
}


@dataclass
class Turns:
    """Figures of one variant, one a turn."""

    cpu: list[float] = field(default_factory=list)
    vacuum: list[float] = field(default_factory=list)
    tps: list[float] = field(default_factory=list)
    hot: list[float] = field(default_factory=list)
    wal: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)  # MB of chat_sessions' indexes: fresh, bloated, vacuumed


def spread(values: Sequence[float], digits: int = 0) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


class WriteTest:
    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.turns = {name: Turns() for name in VARIANTS}
        self.databases = {name: f"write{number}" for number, name in enumerate(VARIANTS)}
        user = "'user-' || abs(hashint4(n)) % 2000"
        postgres.sql("postgres", "CREATE DATABASE base")
        postgres.sql("base", TABLES, SESSION_ROWS.format(user=user, count=SESSIONS, order="n"), MESSAGE_ROWS)
        for name, variant in VARIANTS.items():
            postgres.sql("postgres", f"CREATE DATABASE {self.databases[name]} TEMPLATE base")
            postgres.sql(
                self.databases[name],
                f"ALTER TABLE chat_sessions SET (fillfactor = {variant.fillfactor})",
                "VACUUM FULL chat_sessions",
                *(f"CREATE INDEX ON chat_sessions {index}" for index in variant.indexes),
                "VACUUM ANALYZE",
            )
            self.turns[name].sizes.append(self._index_size(name))

    def _index_size(self, name: str) -> float:
        return float(self.postgres.sql(self.databases[name], "SELECT pg_indexes_size('chat_sessions') / 1e6"))

    def _counters(self, name: str) -> list[float]:
        row = self.postgres.sql(
            self.databases[name],
            """SELECT pg_current_wal_insert_lsn() - '0/0', n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
                WHERE relname = 'chat_sessions'""",
        )
        return [float(value) for value in row.split("|")]

    def turn(self, name: str) -> None:
        postgres, database, turns = self.postgres, self.databases[name], self.turns[name]
        wal, updates, hot = self._counters(name)
        before = postgres.cpu()
        number, rate = postgres.pgbench(
            database,
            APPEND,
            *("-c", str(CLIENTS), "-j", "2", "-t", str(TURN // CLIENTS)),
            **APPEND_VALUES,
            active=str(ACTIVE),
            spread=str(SESSIONS // ACTIVE),
        )
        cpu = postgres.cpu() - before
        wal_now, updates_now, hot_now = self._counters(name)
        bloated = self._index_size(name)
        before = postgres.cpu()
        postgres.sql(database, "VACUUM chat_sessions")
        vacuum = postgres.cpu() - before
        turns.sizes[1:] = [bloated, self._index_size(name)]
        turns.cpu.append(cpu / number)
        turns.vacuum.append(vacuum / number)
        turns.tps.append(rate)
        turns.wal.append((wal_now - wal) / number)
        turns.hot.append(100 * (hot_now - hot) / (updates_now - updates))

    def report(self) -> None:
        counted = slice(1, None)
        baseline = self.turns[next(iter(VARIANTS))].cpu[counted]
        head = ["chat_sessions", "CPU µs/append", "over A (quartiles)", "VACUUM µs/append", "appends/s", "HOT %"]
        rows = [[*head, "WAL B/append", "indexes MB: fresh, last turn, vacuumed"]]
        for name, turns in self.turns.items():
            over = [mine - base for mine, base in zip(turns.cpu[counted], baseline, strict=True)]
            low, middle, high = statistics.quantiles(over, n=4)
            row = [name, spread(turns.cpu[counted]), f"{middle:+.0f} ({low:+.0f} to {high:+.0f})"]
            row += [spread(turns.vacuum[counted], 1), spread(turns.tps[counted])]
            row += [f"{statistics.median(turns.hot[counted]):.1f}", spread(turns.wal[counted])]
            rows.append([*row, ", ".join(f"{size:.1f}" for size in turns.sizes)])
        print_table(*rows)


class ReadTest:
    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        user = f"CASE WHEN n % {BIG_TENANT // BIG_USER} = 0 THEN 'big' ELSE 'user-' || n % 20000 END"
        rows = SESSION_ROWS.format(user=user, count=BIG_TENANT, order="random()")
        postgres.sql("postgres", "CREATE DATABASE read")
        postgres.sql("read", TABLES, rows)

    def _explain(self, statement: str, times: int) -> tuple[float, int]:
        """Median execution time in ms, and the buffers of the last execution."""
        output = self.postgres.sql("read", *[f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"] * times)
        plans = [plan for [plan] in json.loads("[" + output.replace("]\n[", "],[") + "]")]
        buffers = plans[-1]["Plan"]["Shared Hit Blocks"] + plans[-1]["Plan"]["Shared Read Blocks"]
        return statistics.median(plan["Execution Time"] for plan in plans), buffers

    def compare(self, seconds: int) -> None:
        rows = [["a list of 20", "indexes", "ms", "buffers", "CPU µs/list"]]
        for name in ("A none", "C tenant + user", "D user", "E = C ascending"):
            drop = "SELECT format('DROP INDEX %s', indexrelid::regclass) FROM pg_index"
            drop = self.postgres.sql("read", f"{drop} WHERE indrelid = 'chat_sessions'::regclass AND NOT indisprimary")
            create = [f"CREATE INDEX ON chat_sessions {index}" for index in VARIANTS[name].indexes]
            self.postgres.sql("read", *drop.splitlines(), *create, "VACUUM ANALYZE chat_sessions")
            for label, statement in LISTS.items():
                milliseconds, buffers = self._explain(statement, 9)
                before = self.postgres.cpu()
                number, _ = self.postgres.pgbench("read", statement, "-c", "1", "-T", str(seconds))
                cpu = (self.postgres.cpu() - before) / number
                rows.append([label, name, f"{milliseconds:,.3f}", f"{buffers:,}", f"{cpu:,.0f}"])
        print_table(*rows)

    def dead_entries(self) -> None:
        """List the newest sessions after one of them moved to the top very often, with the ascending indexes."""
        values = APPEND_VALUES | {"active": "1", "spread": str(BIG_TENANT // BIG_USER)}
        self.postgres.sql("read", "ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()")
        self.postgres.pgbench("read", APPEND, "-c", "1", "-t", str(ONE_SESSION), **values)
        rows = [[f"after {ONE_SESSION:,} appends to one session", "first list ms", "buffers", "second", "buffers"]]
        for vacuum in (False, True):
            if vacuum:
                self.postgres.sql("read", "VACUUM chat_sessions")
            for label, statement in list(LISTS.items())[:2]:
                figures = [self._explain(statement, 1) for _ in range(2)]
                row = [f"{milliseconds:,.3f}|{buffers:,}" for milliseconds, buffers in figures]
                rows.append([label + (", vacuumed" if vacuum else ""), *"|".join(row).split("|")])
        print_table(*rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, help="directory of postgres, psql and pgbench; default: the bundled ones")
    parser.add_argument("--quick", action="store_true", help="3 rounds: shows that it runs, proves nothing")
    parser.add_argument("--rounds", type=int, default=21, help="at least 3")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else max(3, arguments.rounds)
    with temporary(arguments.bin) as (postgres, _):
        test = WriteTest(postgres)
        names = list(VARIANTS)
        for number in range(rounds):
            first = number % len(names)  # nobody is always first
            for name in names[first:] + names[:first]:
                test.turn(name)
        test.report()
        read_test = ReadTest(postgres)
        read_test.compare(seconds=1 if arguments.quick else 2)
        read_test.dead_entries()


if __name__ == "__main__":
    main()
