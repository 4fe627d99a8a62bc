"""Placing contexts: what a message stores of its context, once what it stands on is stored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from app import splitting
from app.db.pool import Driver
from app.evidence import Context, Document, document_ref
from app.splitting import StoredDocument
from app.store.evidence import Evidence, Lease, Source, Stored, ref_of
from app.strict_json import JsonText


@dataclass(slots=True)
class Placed:
    """What a message stores of its context: the whole of it or a form, and what it stands on."""

    context: JsonText | None = None
    form: JsonText | None = None
    refs: list[int] | None = None
    cited: dict[int, bool] = field(default_factory=dict)
    """Of each document that it stands on, by ref, whether it cites it."""
    new: list[int] = field(default_factory=list)
    """Documents that no answer stood on before."""
    leases: list[Lease] = field(default_factory=list)
    """Of all that it names."""


def shortest_lease(placed: Iterable[Placed]) -> Lease | None:
    """How long all that these messages name is there; long past where no one server is known to have it all."""
    leases = [lease for one in placed for lease in one.leases]
    if len({lease.server for lease in leases}) > 1:
        return Lease(datetime.min.replace(tzinfo=UTC), leases[0].server, 0)
    return min(leases, default=None)


async def place(
    conn: Driver, tenant_id: int, evidence: Evidence, contexts: Sequence[Context | None], *, anew: bool
) -> list[Placed]:
    """Store of `contexts` what is not stored yet, or all of it `anew`; what each message then stores."""
    stored = await evidence.store(conn, tenant_id, contexts, anew=anew)
    return [_placed(tenant_id, context, stored) for context in contexts]


def _placed(tenant_id: int, context: Context | None, stored: Stored) -> Placed:
    if context is None:
        return Placed()
    placed = Placed(refs=[])
    foreign = {one.place for one in context.documents if _is_foreign(tenant_id, one, stored.sources)}
    split: dict[int, tuple[int, StoredDocument]] = {}
    names: dict[int, int] = {}  # the index of each
    for document in context.documents:
        digest = None if foreign else context.digests.get(document.place)
        if document.place in foreign or not (document.document_id or digest):
            continue
        ref = ref_of(tenant_id, document, digest)
        placed.cited[ref] = placed.cited.get(ref, False) or bool(document.cited)
        if digest:
            first, lease = stored.texts[digest]
            placed.leases.append(lease)
            split[document.place] = names.setdefault(first.id, len(names)), first
        else:
            names.setdefault(ref, len(names))
        if source := stored.sources.get(ref):
            placed.leases.append(source.lease)
            if source.is_new:
                placed.new.append(ref)
    placed.refs = list(names)
    if split:
        placed.form = splitting.split(context.value, split)
    else:
        placed.context = context.text
    return placed


def _is_foreign(tenant_id: int, document: Document, sources: dict[int, Source]) -> bool:
    """Whether another document has the hash of this one's id, which is then not understood."""
    if not document.document_id:
        return False
    return sources[document_ref(tenant_id, document.document_id)].document_id != document.document_id
