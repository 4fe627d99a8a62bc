"""Many messages, made inside PostgreSQL: sessions of a length, and stores of a size.

They stand in the service's own tables, in the order in which conversations that go on at the same time are stored.
"""

from postgres import Postgres
from workloads import LENGTH, in_store

AT_ONCE = 100  # conversations that go on at the same time

_ID = """
CREATE FUNCTION pg_temp.id_of(kind text, number bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
RETURN ('01930000-0000-7000-' || kind || '-' || lpad(to_hex(number), 12, '0'))::uuid
"""

_SESSIONS = """
INSERT INTO chat_sessions (id, tenant_id, user_id, is_favorite, metadata, message_count, revision)
SELECT pg_temp.id_of('8000', n), 1, 'user ' || n % 1000, false, '{{}}', {length}, 1
FROM generate_series({first}, {last}) AS n
"""

_MESSAGES = """
INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata)
SELECT pg_temp.id_of('8000', {first} + n / ({at_once} * {length}) * {at_once} + n % {at_once}),
       n / {at_once} % {length} + 1, pg_temp.id_of('9000', n),
       CASE n / {at_once} % 2 WHEN 0 THEN 'user' ELSE 'assistant' END, repeat('0123456789', 10), '{{}}'
FROM generate_series(0, {messages} - 1) AS n
"""


def fill(postgres: Postgres, database: str, numbers: range, length: int) -> None:
    """Make sessions of these numbers, each with so many messages of 100 bytes."""
    at_once = min(AT_ONCE, len(numbers))
    if len(numbers) % at_once:
        raise ValueError(f"{len(numbers)} sessions are no multiple of {AT_ONCE}")
    sizes = {"length": length, "messages": len(numbers) * length, "at_once": at_once}
    postgres.sql(
        database,
        "SET session_replication_role = replica",  # no foreign key is checked: half of the time
        _ID,
        _SESSIONS.format(first=numbers[0], last=numbers[-1], **sizes),
        _MESSAGES.format(first=numbers[0], **sizes),
        "UPDATE jobs SET next_at = NULL WHERE name = 'backfill'",  # it would walk over all of them meanwhile
        "VACUUM ANALYZE",
    )


def make_store(postgres: Postgres, messages: int) -> str:
    """A store of so many messages, as a copy of the empty one; the name of its database."""
    name = f"store_{messages}"
    postgres.sql("postgres", f"CREATE DATABASE {name} TEMPLATE service_")
    fill(postgres, name, in_store(messages), LENGTH)
    return name
