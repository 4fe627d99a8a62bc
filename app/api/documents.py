"""Documents: the sources that answers stood on, the answers that stood on one, and its mark."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from app import cursor
from app.api import fields
from app.api.answers import answer
from app.api.binding import BoundRoute
from app.api.call import Call, CallContext, CallOfNoUser
from app.api.problems import responses
from app.errors import Fault, Invalid
from app.evidence import DocumentStatus
from app.models import Document, DocumentMessages, DocumentPage, Mark
from app.store import documents, uses
from app.store.uses import Filter, Position

router = APIRouter(route_class=BoundRoute, prefix="/chat/documents", tags=["documents"], responses=responses(400))

MOST_VERSION = 2_048
MOST_REASON = 2_000
"""Characters: a list shows a hundred of them."""

_EXAMPLE: dict[str, Any] = {"document_id": "hr/leave.md", "status": "withdrawn", "reason": "The rules of 2024"}


class DocumentQuery(fields.Query):
    """Filters and place of a list of documents."""

    document_id: fields.DocumentId | None = None
    status: DocumentStatus | None = None
    limit: fields.Limit = 20
    cursor: fields.Cursor | None = None


@router.get(
    "",
    operation_id="listDocuments",
    summary="List the documents that answers stood on, the most recently used first",
    response_model=DocumentPage,
)
async def find(call: CallOfNoUser, query: Annotated[DocumentQuery, Query()]) -> Response:
    _refuse_guard(call)
    binding = ("documents", call.tenant_id, query.document_id, query.status)
    after = None if query.cursor is None else _place(*cursor.unpack(binding, query.cursor, 8))
    async with call.db.driver() as conn:
        found = await documents.find(conn, call.tenant_id, query.document_id, query.status, after, query.limit)
    return answer(DocumentPage(found.documents, _next(binding, found.position)))


_Name = Annotated[str, Field(min_length=1)]


class UseQuery(fields.Query):
    """Which uses of a document are wanted; `since` is inclusive, `until` exclusive."""

    document_id: fields.DocumentId
    chunk_id: _Name | None = None
    version: _Name | None = None
    cited: Literal["true", "false"] | None = None
    user_id: fields.UserId | None = None
    since: fields.Moment | None = None
    until: fields.Moment | None = None
    context: fields.Shown = "full"
    limit: fields.Limit = 20
    cursor: fields.Cursor | None = None

    def wanted(self) -> Filter:
        cited = self.cited and self.cited == "true"
        return Filter(self.chunk_id, self.version, cited, self.user_id, self.since, self.until)


@router.get(
    "/messages",
    operation_id="listDocumentMessages",
    summary="List the answers that stood on a document, newest first",
    description="A document that is neither marked nor used is a 404; under X-User-Id one without a use of that user.",
    response_model=DocumentMessages,
    responses=responses(404),
)
async def find_messages(call: Call, query: Annotated[UseQuery, Query()]) -> Response:
    wanted = query.wanted()
    binding = ("uses", call.tenant_id, call.user, query.document_id, wanted)
    after = None if query.cursor is None else _position(*cursor.unpack(binding, query.cursor, 20))
    who = (call.tenant_id, call.user)
    async with call.db.driver() as conn:
        document = await documents.get(conn, *who, query.document_id)
        found = await uses.find(conn, *who, call.evidence, query.document_id, wanted, after, query.limit, query.context)
    position = found.position
    next_cursor = position and cursor.pack(
        binding, position[0], position[1].bytes + position[2].to_bytes(4, "big", signed=True)
    )
    return answer(DocumentMessages(document, found.messages, next_cursor))


class NewMark(fields.Body):
    """`version`: with `superseded` the one that is now current, with `withdrawn` the one that is meant."""

    document_id: fields.DocumentId
    status: DocumentStatus
    version: Annotated[_Name, Field(max_length=MOST_VERSION)] | None = None
    reason: Annotated[str, Field(max_length=MOST_REASON)] | None = None

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})


@router.put(
    "",
    operation_id="markDocument",
    summary="Mark a document as superseded, withdrawn or current again",
    description=(
        "Every stored answer that stood on it then shows so in `evidence_status`, and every later one. "
        "A document has one mark: the last. An id that was never seen may be marked."
    ),
    response_model=Document,
    responses=responses(408, 413, 415, 507),
)
async def mark(call: CallOfNoUser, body: NewMark) -> Response:
    _refuse_guard(call)
    if body.status == "current" and body.version is not None:
        raise Invalid(Fault("body", "/version", "conflict", "does not go with the status current"))
    async with call.db.write() as conn:
        wanted = Mark(body.status, body.version, body.reason)
        return answer(await documents.mark(conn, call.tenant_id, body.document_id, wanted))


def _refuse_guard(call: CallContext) -> None:
    """Documents belong to all users of a tenant."""
    if call.user is not None:
        raise Invalid(Fault("header", "X-User-Id", "not_allowed", "does not go with this call: documents have no user"))


def _place(at: datetime, key: bytes) -> tuple[datetime, int]:
    return at, int.from_bytes(key, "big", signed=True)


def _next(binding: object, position: tuple[datetime, int] | None) -> str | None:
    return position and cursor.pack(binding, position[0], position[1].to_bytes(8, "big", signed=True))


def _position(at: datetime, key: bytes) -> Position:
    return at, UUID(bytes=key[:16]), int.from_bytes(key[16:], "big", signed=True)
