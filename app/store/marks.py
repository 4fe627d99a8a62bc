"""Marks: which sources are superseded or withdrawn, and what that says of the answers that stood on them.

A mark touches no message. Every statement that reads messages also reads the number of the tenant's last mark;
a process that has seen fewer reads the new ones first. So an answer is never judged by old marks, and where nobody
marks anything that costs a comparison.
"""

from collections.abc import Iterable
from typing import NamedTuple

from app.db.pool import Driver
from app.evidence import EvidenceStatus
from app.splitting import StoredDocument

NUMBER = "SELECT marks FROM tenants WHERE id = $1"

NEW_MARKS = "SELECT ref, status, version, mark FROM documents WHERE tenant_id = $1 AND mark > $2"


class Use(NamedTuple):
    """One use of an identified document."""

    ref: int
    document_id: str
    version: str | None


class Verdict(NamedTuple):
    """The worst of what an answer stands on, and the documents that cause it."""

    status: EvidenceStatus | None
    documents: list[str]


NO_EVIDENCE = Verdict(None, [])
CURRENT = Verdict("current", [])


class Mark(NamedTuple):
    status: str
    version: str | None
    number: int

    def verdict(self, version: str | None) -> EvidenceStatus:
        """What it says of the use of this version."""
        if self.status == "current":
            return "current"
        if self.status == "withdrawn":
            return "withdrawn" if self.version in (None, version) else "current"
        return "stale" if self.version is None or self.version != version else "current"


class Marks:
    """The marks of each tenant that this process has served."""

    def __init__(self) -> None:
        self._marks: dict[int, dict[int, Mark]] = {}
        self._seen: dict[int, int] = {}

    async def refresh(self, conn: Driver, tenant_id: int, number: int) -> None:
        """Know at least the first `number` marks of the tenant.

        Calls overlap: who was told of fewer marks than are known is late, and what was read late replaces nothing.
        """
        seen = self._seen.get(tenant_id, 0)
        # Of another database: a failover lost the last ones, or a backup was restored.
        is_other = number < seen and await conn.fetchval(NUMBER, tenant_id) < seen
        if number <= seen and not is_other:
            return
        rows = await conn.fetch(NEW_MARKS, tenant_id, 0 if is_other else seen)
        if is_other:
            self._marks[tenant_id], self._seen[tenant_id] = {}, 0
        known = self._marks.setdefault(tenant_id, {})
        for ref, status, version, mark in rows:
            if ref not in known or known[ref].number < mark:
                known[ref] = Mark(status, version, mark)
        self._seen[tenant_id] = max(self._seen.get(tenant_id, 0), number, *(row["mark"] for row in rows))

    def judge(self, tenant_id: int, uses: Iterable[Use | StoredDocument]) -> Verdict:
        """What became of the sources of an answer that used these; withdrawn is worse than stale.

        Where nothing is marked the first use is all that is asked for.
        """
        marks, first = self._marks.get(tenant_id), next(iterator := iter(uses), None)
        if first is None:
            return NO_EVIDENCE
        if not marks:
            return CURRENT
        causes: dict[EvidenceStatus, set[str]] = {}
        for use in (first, *iterator):
            mark = marks.get(use.ref)
            if mark and use.document_id and (verdict := mark.verdict(use.version)) != "current":
                causes.setdefault(verdict, set()).add(use.document_id)
        worst: tuple[EvidenceStatus, ...] = ("withdrawn", "stale")
        for status in worst:
            if status in causes:
                return Verdict(status, sorted(causes[status]))  # the same for a write and a read
        return CURRENT
