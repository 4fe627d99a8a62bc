"""Messages: append one or a batch, read one, read a page or the messages next to a seq, redact, rewind."""

from dataclasses import replace
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.api import fields
from app.api.answers import ETAG, LOCATION, REPLAYED, answer, etag, stored
from app.api.binding import BoundRoute
from app.api.call import CONDITIONAL, IDEMPOTENT, Call
from app.api.drafts import NewMessage, NewMessages
from app.api.problems import responses
from app.errors import Fault, Invalid
from app.models import Message, MessageBatch, MessageDraft, MessagePage, MessageSlice, Rewound, Stored, StoredMessage
from app.store import append as appending
from app.store import messages
from app.store.messages import BEYOND, Backward, Forward
from app.telemetry import metrics

router = APIRouter(
    route_class=BoundRoute, prefix="/chat/sessions/{session_id}/messages", tags=["messages"], responses=responses(400)
)


class Shown(fields.Query):
    context: fields.Shown = "full"


@router.post(
    "",
    operation_id="appendMessage",
    summary="Add a message to a session",
    status_code=201,
    response_model=StoredMessage,
    responses={
        200: {
            "model": StoredMessage,
            "description": "A replay: the message as it is now",
            "headers": ETAG | LOCATION | REPLAYED,
        },
        201: {"headers": ETAG | LOCATION},
        **responses(404, 408, 409, 412, 413, 415, 507),
    },
    dependencies=[CONDITIONAL, IDEMPOTENT],
)
async def append(call: Call, session_id: fields.PathId, query: Annotated[Shown, Query()], body: NewMessage) -> Response:
    result = await _append(call, session_id, query, [body.draft(call, session_id)])
    [message] = result.resource
    return stored(
        Stored(message, result.revision, result.replayed), f"/chat/sessions/{session_id}/messages/{message.id}"
    )


@router.post(
    "/batch",
    operation_id="appendMessages",
    summary="Add up to 500 messages to a session, all of them or none",
    status_code=201,
    response_model=MessageBatch,
    responses={
        200: {
            "model": MessageBatch,
            "description": "A replay: the messages as they are now",
            "headers": ETAG | REPLAYED,
        },
        201: {"headers": ETAG},
        **responses(404, 408, 409, 412, 413, 415, 507),
    },
    dependencies=[CONDITIONAL, IDEMPOTENT],
)
async def append_batch(
    call: Call, session_id: fields.PathId, query: Annotated[Shown, Query()], body: NewMessages
) -> Response:
    result = await _append(call, session_id, query, body.drafts(call, session_id))
    return stored(Stored(MessageBatch(result.resource), result.revision, result.replayed))


async def _append(call: Call, session_id: UUID, query: Shown, drafts: list[MessageDraft]) -> Stored[list[Message]]:
    async with call.db.driver() as conn:
        result = await appending.append(
            conn, call.tenant_id, call.user, call.evidence, session_id, drafts, call.revisions, query.context
        )
    if not result.replayed:
        metrics.appended.inc(len(drafts))
    return replace(result, resource=[_warned(*both) for both in zip(result.resource, drafts, strict=True)])


def _warned(message: Message, draft: MessageDraft) -> Message:
    """The message with what of its context is not understood, if there is anything."""
    if draft.context is None or not draft.context.warnings:
        return message
    return StoredMessage(**message.members(), context_warnings=draft.context.warnings)


class MessageQuery(Shown):
    """Either `page` and `page_size`, or `after` or `before` (a seq, exclusive) and `limit`."""

    page: fields.Counted = 1
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
        window = await messages.find(conn, call.tenant_id, call.user, call.evidence, session_id, place, query.context)
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
            conn, call.tenant_id, call.user, call.evidence, session_id, message_id, query.context
        )
    return answer(message)


@router.delete(
    "/{message_id}",
    operation_id="redactMessage",
    summary="Remove what a message says",
    description=(
        "The message keeps its seq; content, context and metadata are gone from the row at once, from the disk after "
        "vacuum and the recycling of the WAL, and from backups with the next one."
    ),
    status_code=204,
    responses={204: {"headers": ETAG}, **responses(404, 412, 507)},
    dependencies=[CONDITIONAL],
)
async def redact(call: Call, session_id: fields.PathId, message_id: fields.PathId) -> Response:
    async with call.db.write() as conn:
        revision = await messages.redact(
            conn, call.tenant_id, call.user, call.evidence.counts, session_id, message_id, call.revisions
        )
    return Response(status_code=204, headers=etag(revision))


class RewindQuery(fields.Query):
    """`after` is the seq of the last message that stays; 0 removes all."""

    after: fields.Whole


@router.delete(
    "",
    operation_id="rewindSession",
    summary="Remove every message behind a seq",
    description="The next message gets the seq that follows `after`. Gone as with redaction: row, disk, next backup.",
    response_model=Rewound,
    responses={200: {"headers": ETAG}, **responses(404, 412, 507)},
    dependencies=[CONDITIONAL],
)
async def rewind(call: Call, session_id: fields.PathId, query: Annotated[RewindQuery, Query()]) -> Response:
    after = min(query.after, BEYOND)
    async with call.db.write() as conn:
        rewound = await messages.rewind(
            conn, call.tenant_id, call.user, call.evidence.counts, session_id, after, call.revisions
        )
    return answer(rewound, revision=rewound.revision)
