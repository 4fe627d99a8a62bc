"""How many answers use each document: kept beside it, and brought up to date some seconds after the answers.

An append touches no row that others share. It leaves here what it added, with the number of its transaction, and
`write` adds up what was committed and is not counted yet: `documents.counted` is the snapshot of the last full
count (sweep.py), which has all that it saw. So counts are exact once everything is flushed, and after a crash the
next full count makes them so.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text

from app.db.pool import Driver, Write

MOST = 50_000
"""Uses that are remembered; what comes beyond them waits for the next full count."""

FIRST_USE = """
UPDATE documents SET first_used = least(first_used, $3), last_used = greatest(last_used, $3)
WHERE tenant_id = $1
  AND ref IN (SELECT ref FROM documents WHERE tenant_id = $1 AND ref = ANY ($2) ORDER BY ref FOR UPDATE)
"""

_ADDED = """
unnest(CAST(:tenants AS int[]), CAST(:refs AS bigint[]), CAST(:transactions AS bigint[]),
       CAST(:answers AS int[]), CAST(:cited AS int[]), CAST(:times AS timestamptz[]))
    AS a(tenant_id, ref, transaction, answers, cited, at)"""

# A transaction of the future is one of another server, which this one has replaced. Not compared with the xmax of a
# snapshot: the newest of those that run is no less than that.
_STATUS = "CASE WHEN {0}::text::xid8 < pg_current_xact_id() THEN pg_xact_status({0}::text::xid8) END"

RUNNING = f"""
SELECT t FROM unnest(CAST(:transactions AS bigint[])) AS t WHERE {_STATUS.format("t")} = 'in progress'
"""

# Counted, since a row is one to read here.
LOCK = """
SELECT count(*) FROM (
    SELECT FROM documents
    WHERE (tenant_id, ref) IN (SELECT * FROM unnest(CAST(:tenants AS int[]), CAST(:refs AS bigint[])))
    ORDER BY tenant_id, ref FOR UPDATE
) locked
"""

# Likewise a snapshot: a backup was restored that has the counts of another server.
ADD = f"""
UPDATE documents d
SET answers = d.answers + a.answers, cited = d.cited + a.cited,
    first_used = least(d.first_used, a.first), last_used = greatest(d.last_used, a.last)
FROM (
    SELECT a.tenant_id, a.ref, sum(a.answers) AS answers, sum(a.cited) AS cited, min(a.at) AS first, max(a.at) AS last
    FROM {_ADDED} JOIN documents k USING (tenant_id, ref)
    WHERE {_STATUS.format("a.transaction")} = 'committed'
      AND NOT (
          k.counted IS NOT NULL
          AND pg_snapshot_xmax(k.counted::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
          AND pg_visible_in_snapshot(a.transaction::text::xid8, k.counted::pg_snapshot)
      )
    GROUP BY a.tenant_id, a.ref
) a
WHERE d.tenant_id = a.tenant_id AND d.ref = a.ref
"""


class Added(NamedTuple):
    """What a transaction added to the answers of a document, or removed where negative; `at` of an answer."""

    tenant_id: int
    ref: int
    transaction: int
    answers: int
    cited: int
    at: datetime | None


class Counts:
    """What this process has added and not flushed."""

    def __init__(self) -> None:
        self._added: list[Added] = []

    def add(self, added: Iterable[Added]) -> None:
        """Remember to count this, if its transaction commits."""
        if len(self._added) < MOST:
            self._added.extend(added)

    async def first(self, conn: Driver, tenant_id: int, refs: list[int], at: datetime) -> None:
        """List documents with their first use: everything else about them may come later."""
        await conn.execute(FIRST_USE, tenant_id, refs, at)

    def take(self, most: int = MOST) -> list[Added]:
        """The oldest of what is not flushed yet, and now the caller's."""
        added, self._added = self._added[:most], self._added[most:]
        return added

    async def write(self, conn: Write, added: list[Added]) -> list[Added]:
        """Count those of `added` whose transaction has committed; returns those whose transaction still runs."""
        if not added:
            return []
        transactions = list({one.transaction for one in added})
        running = set((await conn.execute(text(RUNNING), {"transactions": transactions})).scalars())
        parameters = _parameters([one for one in added if one.transaction not in running])
        await conn.execute(text(LOCK), parameters)
        await conn.execute(text(ADD), parameters)
        return [one for one in added if one.transaction in running]


def _parameters(added: list[Added]) -> Mapping[str, Any]:
    names = ("tenants", "refs", "transactions", "answers", "cited", "times")
    return dict(zip(names, map(list, zip(*added, strict=True)), strict=True)) if added else {name: [] for name in names}
