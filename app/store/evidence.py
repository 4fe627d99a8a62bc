"""Evidence: each text stored once per tenant, and what this process knows of what is stored.

An append looks nothing up that this process has seen lately; what it has not is stored first, in statements of its
own. What nothing references is swept (sweep.py) once it was unseen for longer than `grace`. So what a process
believes to be stored holds for half of that, its lease, and the append's own statement asks whether it still runs:
a process that was stalled for hours stores its evidence anew.
"""

import logging
import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from app import splitting
from app.db.pool import Driver
from app.evidence import Context, Document, digest_ref, document_ref
from app.splitting import GONE, StoredDocument
from app.store.counts import Counts
from app.store.marks import Marks
from app.store.memory import Memory
from app.store.rows import DURABLE, Seen

_log = logging.getLogger("app.store")

MOST_KNOWN = 100_000
MOST_BYTES = 64 * 1024 * 1024

# Sorted, so that two appends lock what both name in one order.
STORE_TEXTS = f"""
INSERT INTO evidence (tenant_id, document_ref, digest, body, seen_at)
SELECT $1, t.document_ref, t.digest, t.body::json, now()
FROM unnest($2::bigint[], $3::bytea[], $4::text[]) AS t(document_ref, digest, body) ORDER BY t.digest
ON CONFLICT (tenant_id, digest) DO UPDATE SET seen_at = excluded.seen_at
RETURNING id, document_ref, body::text, digest, seen_at, pg_postmaster_start_time(), {DURABLE}
"""

STORE_SOURCES = f"""
INSERT INTO documents (tenant_id, ref, document_id, title, url, seen_at)
SELECT $1, d.ref, d.document_id, d.title, d.url, now()
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[]) AS d(ref, document_id, title, url) ORDER BY d.ref
ON CONFLICT (tenant_id, ref) DO UPDATE
SET seen_at = excluded.seen_at, title = coalesce(documents.title, excluded.title),
    url = coalesce(documents.url, excluded.url)
RETURNING ref, document_id, last_used IS NULL, seen_at, pg_postmaster_start_time(), {DURABLE}
"""

BODIES = "SELECT id, document_ref, body::text FROM evidence WHERE id = ANY ($1)"


class Lease(NamedTuple):
    """Until when something is stored without doubt, and on which server, by its start.

    `ends` says the same by this process's clock, in seconds: nearly, but without asking the server.
    """

    until: datetime
    server: datetime
    ends: float


class _Text(NamedTuple):
    id: int
    lease: Lease


class Source(NamedTuple):
    """A document that is stored. `is_new`: no answer stood on it before."""

    document_id: str
    is_new: bool
    lease: Lease


class Stored(NamedTuple):
    """What contexts stand on: documents by ref, texts by digest."""

    sources: dict[int, Source]
    texts: dict[bytes, tuple[StoredDocument, Lease]]


class Evidence:
    """What this process knows of the evidence of all tenants. `grace` is in seconds."""

    def __init__(self, grace: float) -> None:
        self._lease = timedelta(seconds=grace / 2)
        self._texts: Memory[tuple[int, bytes], _Text] = Memory(MOST_KNOWN)
        self._sources: Memory[tuple[int, int], Source] = Memory(MOST_KNOWN)
        self._bodies: Memory[int, StoredDocument] = Memory(MOST_BYTES, lambda stored: stored.size)
        self._server: datetime | None = None
        self.marks = Marks()
        self.counts = Counts()

    async def store(self, conn: Driver, tenant_id: int, contexts: Sequence[Context | None], *, anew: bool) -> Stored:
        """Store of `contexts` what is not stored yet, or all of it `anew`."""
        now = math.inf if anew else time.monotonic()
        sources = await self._store_sources(conn, tenant_id, contexts, now)
        return Stored(sources, await self._store_texts(conn, tenant_id, contexts, now))

    async def _store_sources(
        self, conn: Driver, tenant_id: int, contexts: Iterable[Context | None], now: float
    ) -> dict[int, Source]:
        found: dict[int, Source] = {}
        missing: dict[int, list[Document]] = {}
        for document in _documents(contexts):
            if document.document_id:
                ref = document_ref(tenant_id, document.document_id)
                known = self._sources.get((tenant_id, ref))
                if known and known.lease.ends > now:
                    found[ref] = known
                else:
                    missing.setdefault(ref, []).append(document)
        if missing:
            columns = zip(*((ref, *_source(documents)) for ref, documents in missing.items()), strict=True)
            for ref, document_id, is_new, seen_at, server, _ in await conn.fetch(STORE_SOURCES, tenant_id, *columns):
                found[ref] = Source(document_id, is_new, self._new_lease(seen_at, server))
                self._sources.keep((tenant_id, ref), found[ref])
        return found

    async def _store_texts(
        self, conn: Driver, tenant_id: int, contexts: Iterable[Context | None], now: float
    ) -> dict[bytes, tuple[StoredDocument, Lease]]:
        found: dict[bytes, tuple[StoredDocument, Lease]] = {}
        missing: dict[bytes, tuple[int, str]] = {}
        for context in filter(None, contexts):
            for place, digest in context.digests.items():
                known = self._texts.get((tenant_id, digest))
                stored = self._bodies.get(known.id) if known and known.lease.ends > now else None
                if known and stored:
                    found[digest] = stored, known.lease
                elif digest not in missing:
                    document = context.at(place)
                    missing[digest] = ref_of(tenant_id, document, digest), splitting.body(document)
        if missing:
            columns = zip(*((ref, digest, body) for digest, (ref, body) in missing.items()), strict=True)
            for id_, ref, body, digest, seen_at, server, _ in await conn.fetch(STORE_TEXTS, tenant_id, *columns):
                found[digest] = self._remember(server, id_, ref, body), self._new_lease(seen_at, server)
                self._texts.keep((tenant_id, digest), _Text(id_, found[digest][1]))
        return found

    def _new_lease(self, seen_at: datetime, server: datetime) -> Lease:
        return Lease(seen_at + self._lease, server, time.monotonic() + self._lease.total_seconds())

    async def load(self, conn: Driver, ids: set[int]) -> dict[int, StoredDocument]:
        """The stored documents of these ids, all on the server that was heard last."""
        found = {id_: stored for id_ in ids if (stored := self._bodies.get(id_))}
        missing = list(ids - found.keys())
        server = self._server
        for id_, ref, body in await conn.fetch(BODIES, missing) if missing else ():
            found[id_] = self._remember(server, id_, ref, body)
        for id_ in ids - found.keys():  # no page may fail for one text that somebody deleted
            _log.error("the text %d is gone, which a message names", id_)
            found[id_] = GONE
        return found

    def _remember(self, server: datetime | None, id_: int, ref: int, body: str) -> StoredDocument:
        stored = StoredDocument.parse(id_, ref, body)
        if server == self._server:
            self._bodies.keep(id_, stored)
        return stored

    async def used_first(self, conn: Driver, tenant_id: int, refs: list[int], at: datetime) -> None:
        """List documents with their first use."""
        await self.counts.first(conn, tenant_id, refs, at)
        for ref in refs:
            if known := self._sources.get((tenant_id, ref)):
                self._sources.keep((tenant_id, ref), known._replace(is_new=False))

    async def hear(self, conn: Driver, tenant_id: int, seen: Seen) -> None:
        """Know what a statement saw; what is known of another server is forgotten."""
        if seen.server != self._server:
            self._server = seen.server
            for memory in (self._texts, self._sources, self._bodies):
                memory.clear()
        await self.marks.refresh(conn, tenant_id, seen.marks)


def _source(chunks: Sequence[Document]) -> tuple[str | None, str | None, str | None]:
    """The id, title and url of the document that these are of, as the first says that has one."""
    title = next((one.title for one in chunks if one.title), None)
    return chunks[0].document_id, title, next((one.url for one in chunks if one.url), None)


def _documents(contexts: Iterable[Context | None]) -> Iterable[Document]:
    return (document for context in contexts if context for document in context.documents)


def ref_of(tenant_id: int, document: Document, digest: bytes | None) -> int:
    if document.document_id:
        return document_ref(tenant_id, document.document_id)
    return digest_ref(digest or b"")
