"""Messages: append, read one, read a page or the messages next to a seq."""

from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from starlette.responses import Response

from app import ids, strict_json
from app.api import fields
from app.api.answers import ETAG, LOCATION, REPLAYED, answer, stored
from app.api.binding import BoundRoute
from app.api.call import CONDITIONAL, IDEMPOTENT, Call
from app.api.problems import responses
from app.errors import Fault, Invalid
from app.models import Message, MessageDraft, MessagePage, MessageSlice
from app.store import messages
from app.store.messages import BEYOND, Backward, Forward
from app.telemetry import metrics

router = APIRouter(
    route_class=BoundRoute, prefix="/chat/sessions/{session_id}/messages", tags=["messages"], responses=responses(400)
)

_EXAMPLE: dict[str, Any] = {
    "sender": "assistant",
    "content": "25 days a year.",
    "context": {
        "query": "How many days of leave?",
        "documents": [
            {
                "document_id": "hr/leave.md",
                "chunk_id": "hr/leave.md#2",
                "text": "Leave is 25 days.",
                "score": 8.1,
                "rank": 1,
            }
        ],
    },
    "metadata": {"model": "gpt-5"},
}


def _in_openapi(schema: dict[str, Any]) -> None:
    schema["example"] = _EXAMPLE
    schema["required"].remove("sender")
    schema["anyOf"] = [{"required": ["sender"]}, {"required": ["role"]}]


class NewMessage(fields.Body):
    """`role` is another name for `sender`. `context` is what was retrieved for an answer: any JSON value."""

    id: fields.Id | None = None
    sender: fields.Sender
    role: fields.Sender | None = None
    content: fields.Content
    context: fields.Context = None
    metadata: fields.Metadata = Field(default_factory=fields.no_metadata)
    created_at: fields.Moment | None = None

    model_config = ConfigDict(json_schema_extra=_in_openapi)

    @model_validator(mode="before")
    @classmethod
    def _role_is_sender(cls, sent: Any) -> Any:
        if isinstance(sent, dict) and sent.get("sender") is None and sent.get("role") is not None:
            return {**sent, "sender": sent["role"]}
        return sent

    @field_validator("role")
    @classmethod
    def _one_sender(cls, role: str | None, info: ValidationInfo) -> str | None:
        if role not in (None, info.data.get("sender")):
            fields.refuse("conflict", "differs from sender, of which it is another name")
        return role

    def draft(self, call: Call, session_id: UUID) -> MessageDraft:
        known_id = self.id or call.derived_id("message", str(session_id))
        sent: dict[str, Any] = {"sender": self.sender, "content": self.content, "metadata": self.metadata.value}
        if self.context is not None:
            sent["context"] = self.context.value
        return MessageDraft(
            id=known_id or ids.new(),
            is_new=known_id is None,
            sender=self.sender,
            content=self.content,
            context=self.context and self.context.text,
            metadata=self.metadata.text,
            created_at=self.created_at,
            fingerprint=strict_json.fingerprint(sent),
        )


class Shown(fields.Query):
    context: fields.Shown = "full"


@router.post(
    "",
    operation_id="appendMessage",
    summary="Add a message to a session",
    status_code=201,
    response_model=Message,
    responses={
        200: {"model": Message, "description": "A replay: the message as it is now", "headers": ETAG | REPLAYED},
        201: {"headers": ETAG | LOCATION},
        **responses(404, 409, 412, 413, 415, 507),
    },
    dependencies=[CONDITIONAL, IDEMPOTENT],
)
async def append(call: Call, session_id: fields.PathId, query: Annotated[Shown, Query()], body: NewMessage) -> Response:
    draft = body.draft(call, session_id)
    async with call.db.driver() as conn:
        result = await messages.append(conn, call.tenant_id, call.user, session_id, draft, call.revisions)
    if not result.replayed:
        metrics.appended.inc()
    if query.context == "none":
        result = replace(result, resource=replace(result.resource, context=None))
    return stored(result, f"/chat/sessions/{session_id}/messages/{result.resource.id}")


class MessageQuery(Shown):
    """Either `page` and `page_size`, or `after` or `before` (a seq, exclusive) and `limit`."""

    page: Annotated[fields.Whole, Field(ge=1)] = 1
    page_size: fields.Limit = 20
    after: fields.Whole | None = None
    before: fields.Whole | None = None
    limit: fields.Limit = 20
    order: Literal["asc", "desc"] = "asc"

    def by_seq(self) -> bool:
        """Whether messages next to a seq are wanted. Raises Invalid where both ways of asking are mixed."""
        given = self.model_fields_set
        paged, adjacent = given & {"page", "page_size"}, given & {"after", "before", "limit"}
        if adjacent >= {"after", "before"}:
            raise _conflict("before", "cannot be combined with after")
        if paged and adjacent:
            raise _conflict(min(adjacent), f"cannot be combined with {min(paged)}")
        return bool(adjacent)

    def place(self) -> Forward | Backward:
        """Where in the session to read."""
        if self.by_seq():
            if self.after is None and (self.before is not None or self.order == "desc"):
                return Backward(before=BEYOND if self.before is None else min(self.before, BEYOND), limit=self.limit)
            return Forward(after=min(self.after or 0, BEYOND), limit=self.limit)
        skipped = min((self.page - 1) * self.page_size, BEYOND)
        if self.order == "desc":
            return Backward(before=BEYOND, skip=skipped, limit=self.page_size)
        return Forward(after=skipped, limit=self.page_size)


def _conflict(field: str, message: str) -> Invalid:
    return Invalid(Fault("query", field, "conflicting_parameters", message))


@router.get(
    "",
    operation_id="listMessages",
    summary="Read messages by page, or those next to a seq",
    response_model=MessagePage | MessageSlice,
    responses={200: {"headers": ETAG}, **responses(404)},
)
async def find(call: Call, session_id: fields.PathId, query: Annotated[MessageQuery, Query()]) -> Response:
    place = query.place()
    async with call.db.driver() as conn:
        window = await messages.find(
            conn, call.tenant_id, call.user, session_id, place, with_context=query.context == "full"
        )
    shown = window.messages if query.order == "asc" else window.messages[::-1]
    page = (
        MessageSlice(shown, window.total, None, query.limit, window.has_more)
        if query.by_seq()
        else MessagePage(shown, window.total, query.page, query.page_size)
    )
    return answer(page, revision=window.revision)


@router.get(
    "/{message_id}",
    operation_id="getMessage",
    summary="Read a message",
    response_model=Message,
    responses=responses(404),
)
async def get(
    call: Call, session_id: fields.PathId, message_id: fields.PathId, query: Annotated[Shown, Query()]
) -> Response:
    async with call.db.driver() as conn:
        message = await messages.get(
            conn, call.tenant_id, call.user, session_id, message_id, with_context=query.context == "full"
        )
    return answer(message)
