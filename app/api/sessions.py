"""Sessions: create, read, list, change, delete."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from app import cursor, ids, strict_json
from app.api import fields
from app.api.answers import ETAG, LOCATION, REPLAYED, answer, stored
from app.api.binding import BoundRoute
from app.api.call import CONDITIONAL, IDEMPOTENT, Call
from app.api.problems import responses
from app.errors import Fault, Invalid
from app.models import Session, SessionDraft, SessionPage
from app.store import sessions
from app.store.sessions import Filter

router = APIRouter(route_class=BoundRoute, tags=["sessions"], responses=responses(400))

_EXAMPLE: dict[str, Any] = {"user_id": "ada", "name": "Parental leave", "metadata": {"channel": "web"}}


class NewSession(fields.Body):
    """All optional. With an `id`, or an Idempotency-Key, a repeat is answered with what the first call stored."""

    id: fields.Id | None = None
    user_id: fields.UserId | None = None
    name: fields.Name | None = None
    is_favorite: bool = False
    metadata: fields.Metadata = Field(default_factory=fields.no_metadata)

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    def draft(self, call: Call) -> SessionDraft:
        """The session to store: the guarded user's, if there is a guard."""
        if call.user and self.user_id not in (None, call.user):
            raise Invalid(Fault("body", "/user_id", "conflict", "differs from X-User-Id"))
        user_id = self.user_id or call.user
        derived_id = call.derived_id("session", str(call.tenant_id), call.user or "")  # in any case: it may be broken
        sent = {"user_id": user_id, "name": self.name, "is_favorite": self.is_favorite, "metadata": self.metadata.value}
        return SessionDraft(
            id=self.id or derived_id or ids.new(),
            user_id=user_id,
            name=self.name,
            is_favorite=self.is_favorite,
            metadata=self.metadata.text,
            fingerprint=strict_json.fingerprint(sent),
        )


_NOTHING = NewSession()


@router.post(
    "/chat/sessions",
    operation_id="createSession",
    summary="Create a session",
    status_code=201,
    response_model=Session,
    responses={
        200: {
            "model": Session,
            "description": "A replay: the session as it is now",
            "headers": ETAG | LOCATION | REPLAYED,
        },
        201: {"headers": ETAG | LOCATION},
        **responses(408, 409, 413, 415, 507),
    },
    dependencies=[IDEMPOTENT],
)
async def create(call: Call, body: NewSession = _NOTHING) -> Response:
    draft = body.draft(call)
    async with call.db.driver() as conn:
        result = await sessions.create(conn, call.tenant_id, call.user, draft)
    return stored(result, f"/chat/sessions/{draft.id}")


class SessionQuery(fields.Query):
    """Filters and place of a list of sessions."""

    user_id: fields.UserId | None = None
    is_favorite: Literal["true", "false"] | None = None
    name: (
        Annotated[str, Field(min_length=1, description="Part of the name; letter case makes no difference.")] | None
    ) = None
    limit: fields.Limit = 20
    cursor: fields.Cursor | None = None


@router.get(
    "/chat/sessions",
    operation_id="listSessions",
    summary="List sessions, the most recently active first",
    response_model=SessionPage,
)
async def find(call: Call, query: Annotated[SessionQuery, Query()]) -> Response:
    wanted = Filter(query.user_id, query.is_favorite and query.is_favorite == "true", query.name)
    binding = ("sessions", call.tenant_id, call.user, wanted)
    after = None if query.cursor is None else _position(*cursor.unpack(binding, query.cursor, 16))
    async with call.db.driver() as conn:
        found = await sessions.find(conn, call.tenant_id, call.user, wanted, after, query.limit)
    return answer(SessionPage(found.sessions, _next(binding, found.position)))


def _position(at: datetime, key: bytes) -> tuple[datetime, UUID]:
    return at, UUID(bytes=key)


def _next(binding: object, position: tuple[datetime, UUID] | None) -> str | None:
    return position and cursor.pack(binding, position[0], position[1].bytes)


@router.get(
    "/chat/sessions/{session_id}",
    operation_id="getSession",
    summary="Read a session",
    response_model=Session,
    responses={200: {"headers": ETAG}, **responses(404)},
)
async def get(call: Call, session_id: fields.PathId) -> Response:
    async with call.db.driver() as conn:
        session = await sessions.get(conn, call.tenant_id, call.user, session_id)
    return answer(session, revision=session.revision)


class SessionChanges(fields.Body):
    """What is absent stays; `name: null` clears the name; `metadata` replaces the whole."""

    name: fields.Name | None = None
    is_favorite: bool = False
    metadata: fields.Metadata = Field(default_factory=fields.no_metadata)

    model_config = ConfigDict(json_schema_extra={"example": {"name": "Leave, 2027", "is_favorite": True}})

    def changes(self) -> dict[str, Any]:
        """What was sent, as the store takes it."""
        sent = {name: getattr(self, name) for name in self.model_fields_set}
        return sent | ({"metadata": self.metadata.text} if "metadata" in sent else {})


@router.put(
    "/chat/sessions/{session_id}",
    operation_id="updateSession",
    summary="Rename, favorite or describe a session",
    response_model=Session,
    responses={200: {"headers": ETAG}, **responses(404, 408, 412, 413, 415, 507)},
    dependencies=[CONDITIONAL],
)
async def update(call: Call, session_id: fields.PathId, body: SessionChanges) -> Response:
    async with call.db.write() as conn:
        session = await sessions.update(conn, call.tenant_id, call.user, session_id, body.changes(), call.revisions)
    return answer(session, revision=session.revision)


@router.delete(
    "/chat/sessions/{session_id}",
    operation_id="deleteSession",
    summary="Delete a session and its messages",
    status_code=204,
    responses=responses(404, 412, 507),
    dependencies=[CONDITIONAL],
)
async def delete(call: Call, session_id: fields.PathId) -> Response:
    async with call.db.write() as conn:
        await sessions.delete(conn, call.tenant_id, call.user, call.evidence.counts, session_id, call.revisions)
    return Response(status_code=204)
