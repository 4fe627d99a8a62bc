"""What PostgreSQL alone takes for the same: the service's own statements, sent by pgbench.

Parameters travel as a client's would: as those of a prepared statement, contexts and contents included.
"""

import re
from typing import Any

import orjson
from evidence_variants import PAGE as PLAIN_PAGE
from postgres import Postgres
from workloads import APPENDED, LISTED, PAGED, USER

from app.store.append import APPEND_WITH_CONTEXT
from app.store.messages import FORWARD

_SESSION = "('01930000-0000-7000-8000-' || lpad(to_hex(:session::int), 12, '0'))::uuid"

# What SQLAlchemy makes of store/sessions.py for a user's first page.
LIST = """
SELECT id, user_id, name, is_favorite, metadata::text, message_count, revision, created_at, updated_at
FROM chat_sessions WHERE tenant_id = 1 AND user_id = $1 ORDER BY updated_at DESC, id DESC LIMIT 21
"""


def _script(statement: str, values: dict[int, str], sets: str = "") -> str:
    """`statement` with `values` in the place of its parameters."""
    return sets + re.sub(r"\$(\d+)", lambda found: values[int(found[1])], statement).strip().replace("\n", " ") + ";\n"


def _random(first: int, count: int) -> str:
    return f"\\set session random({first}, {first + count - 1})\n"


def append(postgres: Postgres, database: str) -> tuple[str, dict[str, str]]:
    """A script for APPEND_WITH_CONTEXT, and the variables that it takes: a message of the workload as it is stored."""
    column = """SELECT json_build_object('content', content, 'form', context_form::text, 'refs', context_refs::text,
        'uses', (SELECT array_agg(coalesce(e.document_ref, r.ref)) FROM unnest(context_refs) r(ref)
                 LEFT JOIN evidence e ON e.id = r.ref)::text)
        FROM chat_messages WHERE cardinality(context_refs) = 5 LIMIT 1"""
    found: dict[str, Any] = orjson.loads(postgres.sql(database, column))
    cited = ",".join(["f"] * found["uses"].count(","))
    variables = {name: found[name] for name in ("content", "form", "refs", "uses")} | {"cited": "{" + cited + ",f}"}
    values = {1: _SESSION, 2: "1", 3: "NULL", 4: "NULL", 5: "true", 6: "gen_random_uuid()", 7: "'assistant'"}
    values |= {8: ":content", 9: "'{}'", 10: "NULL::timestamptz", 11: r"'\x00112233445566778899aabbccddeeff'::bytea"}
    values |= {12: "NULL", 13: ":form", 14: ":refs", 15: "NULL", 16: "NULL::timestamptz", 17: ":uses", 18: ":cited"}
    return _script(APPEND_WITH_CONTEXT, values, _random(0, APPENDED)), variables


def page(*, plain: bool, context: bool) -> str:
    """A page of 50 as the service asks for it, or as it would of a plain column."""
    values = {1: _SESSION, 2: "1", 3: "NULL", 4: str(context).lower(), 5: ":page * 50", 6: "50"}
    sets = _random(APPENDED, PAGED) + "\\set page random(0, 3)\n"
    return _script(PLAIN_PAGE if plain else FORWARD, values, sets)


def sessions() -> str:
    return _script(LIST, {1: f"'{USER}'"}, _random(0, LISTED))
