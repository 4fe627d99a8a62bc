"""Showing messages: their contexts put together from what is stored, and what became of their sources."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import orjson

from app import splitting
from app.db.pool import Driver
from app.evidence import Document, document_ref, read
from app.models import Message
from app.splitting import GONE, StoredDocument
from app.store.evidence import Evidence
from app.store.marks import NO_EVIDENCE, Use
from app.store.rows import Seen, to_message
from app.strict_json import dumps, loads

Shown = Literal["full", "refs", "none"]


async def messages(
    conn: Driver, tenant_id: int, evidence: Evidence, seen: Seen, rows: Sequence[Any], shown: Shown
) -> list[Message]:
    """The messages in `rows` of the columns MESSAGE; `seen` is what the same statement saw."""
    await evidence.hear(conn, tenant_id, seen)
    stored = await evidence.load(conn, {ref for row in rows for ref in row[6] or () if ref > 0})
    return [_message(tenant_id, evidence, row, stored, shown) for row in rows]


async def retrieved(conn: Driver, evidence: Evidence, rows: Sequence[Any]) -> list[list[Document]]:
    """The documents that are understood in the contexts of `rows` of context, context_refs and context_form."""
    stored = await evidence.load(conn, {ref for row in rows for ref in row[1] or () if ref > 0})
    found = []
    for context, refs, form in rows:
        value = splitting.restore(orjson.loads(form), _used(refs, stored)) if form else context and loads(context)
        found.append(read(value)[0])
    return found


def _message(tenant_id: int, evidence: Evidence, row: Any, stored: dict[int, StoredDocument], shown: Shown) -> Message:
    context, refs, form = row[5:8]
    if context is None and not refs:
        return to_message(row, None, NO_EVIDENCE)
    used = _used(refs, stored)
    verdict = evidence.marks.judge(tenant_id, _uses(tenant_id, context, refs, form, used))
    return to_message(row, _shown(context, form, used, shown), verdict)


def _uses(
    tenant_id: int,
    context: str | None,
    refs: Sequence[int] | None,
    form: str | None,
    used: Sequence[StoredDocument],
) -> Iterator[Use | StoredDocument]:
    """The uses of the documents that have an id; most verdicts ask for one."""
    yield from (one for one in used if one.document_id)
    if refs is None or min(refs, default=0) < 0:
        items = splitting.unsplit(orjson.loads(form)) if form else context and loads(context)
        yield from uses_of(tenant_id, read(items)[0])


def _used(refs: Sequence[int] | None, stored: dict[int, StoredDocument]) -> list[StoredDocument]:
    """The stored documents that a message names; in the place of one without a text is GONE."""
    return [stored.get(ref, GONE) for ref in refs or ()]


def uses_of(tenant_id: int, documents: Iterable[Document]) -> list[Use]:
    """The uses of those documents that have an id."""
    return [
        Use(document_ref(tenant_id, one.document_id), one.document_id, one.version)
        for one in documents
        if one.document_id
    ]


def _shown(context: str | None, form: str | None, used: Sequence[StoredDocument], shown: Shown) -> Any:
    if shown == "none":
        return None
    if form is not None:
        return splitting.rendered(orjson.loads(form), used, with_texts=shown == "full")
    if context is None or shown == "full":
        return context and orjson.Fragment(context)
    return orjson.Fragment(dumps(splitting.without_texts(loads(context))))
