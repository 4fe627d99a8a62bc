"""The nouns, as the store returns them and the API answers them. orjson writes them as they stand.

`metadata` and `context` are JSON text from PostgreSQL that travels on unparsed; times are as times.render made them.
The annotations are what OpenAPI shows.
"""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from pydantic import Field, WithJsonSchema

from app.evidence import Context, ContextWarning, DocumentStatus, EvidenceStatus
from app.strict_json import JsonText

Noun = TypeVar("Noun")
Id = Annotated[UUID | str, WithJsonSchema({"type": "string", "format": "uuid"})]
Time = Annotated[str | datetime, WithJsonSchema({"type": "string", "format": "date-time"})]
Object = Annotated[Any, WithJsonSchema({"type": "object", "additionalProperties": True})]
AnyJson = Annotated[Any, Field(description="Any JSON value, as it was sent.")]

_SESSION: dict[str, Any] = {
    "id": "0193b5f9-e1c2-7d0a-8a55-9d516c1f0d2a",
    "user_id": "ada",
    "name": "Parental leave",
    "is_favorite": False,
    "metadata": {"channel": "web"},
    "message_count": 2,
    "revision": 3,
    "created_at": "2026-03-01T12:00:00.000000Z",
    "updated_at": "2026-03-01T12:00:09.250000Z",
}
_MESSAGE: dict[str, Any] = {
    "id": "0193b5fa-06d1-7a63-b0c5-0f6f7c1de4b8",
    "session_id": "0193b5f9-e1c2-7d0a-8a55-9d516c1f0d2a",
    "seq": 2,
    "sender": "assistant",
    "content": "25 days a year.",
    "context": {"documents": [{"document_id": "hr/leave.md", "text": "Leave is 25 days.", "score": 8.1}]},
    "metadata": {},
    "created_at": "2026-03-01T12:00:09.250000Z",
    "redacted_at": None,
    "evidence_status": "current",
    "evidence_documents": [],
}
_DOCUMENT: dict[str, Any] = {
    "document_id": "hr/leave.md",
    "title": "Leave",
    "url": None,
    "status": "withdrawn",
    "version": None,
    "reason": "The rules of 2024",
    "marked_at": "2026-03-02T08:00:00.000000Z",
    "answers": 1,
    "cited": 1,
    "first_used_at": "2026-03-01T12:00:09.250000Z",
    "last_used_at": "2026-03-01T12:00:09.250000Z",
}
_USE: dict[str, Any] = {
    "chunk_id": "hr/leave.md#2",
    "version": None,
    "rank": 1,
    "score": 8.1,
    "cited": True,
    "in_prompt": True,
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "Session": _SESSION,
    "SessionPage": {"sessions": [_SESSION], "next_cursor": None},
    "Message": _MESSAGE,
    "StoredMessage": _MESSAGE,
    "Document": _DOCUMENT,
    "DocumentPage": {"documents": [_DOCUMENT], "next_cursor": None},
    "DocumentMessages": {
        "document": _DOCUMENT,
        "messages": [
            {**_MESSAGE, "evidence_status": "withdrawn", "evidence_documents": ["hr/leave.md"], "uses": [_USE]}
        ],
        "next_cursor": None,
    },
    "MessagePage": {"messages": [_MESSAGE], "total": 2, "page": 1, "page_size": 20},
    "MessageBatch": {"messages": [_MESSAGE]},
    "Rewound": {"deleted": 2, "message_count": 4, "revision": 9},
    "MessageSlice": {"messages": [_MESSAGE], "total": 2, "page": None, "page_size": 20, "has_more": False},
}


@dataclass(slots=True)  # what a list has many of is not frozen: to make one would take three times as long
class Session:
    """A conversation. `revision` grows by one with every change of the session or its messages."""

    id: Id
    user_id: str | None
    name: str | None
    is_favorite: bool
    metadata: Object
    message_count: int
    revision: int
    created_at: Time
    updated_at: Time


@dataclass(frozen=True, slots=True)
class SessionPage:
    """One page of sessions, the most recently active first. `next_cursor` is null at the end."""

    sessions: list[Session]
    next_cursor: str | None


@dataclass(slots=True)
class Message:
    """A message. `seq` is its place in the session, from 1; `context` is what was retrieved for it."""

    id: Id
    session_id: Id
    seq: int
    sender: str
    content: str
    context: AnyJson
    metadata: Object
    created_at: Time
    redacted_at: Time | None
    evidence_status: EvidenceStatus | None
    evidence_documents: list[str]

    def members(self) -> dict[str, Any]:
        """Its fields by name: what a message of a wider kind begins with."""
        return {field.name: getattr(self, field.name) for field in fields(Message)}


@dataclass(slots=True)
class StoredMessage(Message):
    """A message as a write answers it: `context_warnings` tells what of the context was kept and not understood."""

    context_warnings: list[ContextWarning] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A page of messages with the total at that moment."""

    messages: list[Message]
    total: int
    page: int | None
    page_size: int


@dataclass(frozen=True, slots=True)
class MessageSlice:
    """The messages next to a seq. `has_more`: there are more in that direction."""

    messages: list[Message]
    total: int
    page: None
    page_size: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """The messages of a batch, in its order."""

    messages: list[Message | StoredMessage]


@dataclass(frozen=True, slots=True)
class Rewound:
    """What a rewind left: how many messages it removed, and the session's count and revision now."""

    deleted: int
    message_count: int
    revision: int


@dataclass(slots=True)
class Document:
    """A source that answers stood on. `status` is its mark; `answers` and `cited` may lag by a minute."""

    document_id: str
    title: str | None
    url: str | None
    status: DocumentStatus
    version: str | None
    reason: str | None
    marked_at: Time | None
    answers: int
    cited: int
    first_used_at: Time | None
    last_used_at: Time | None


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """One page of documents, the most recently used first. `next_cursor` is null at the end."""

    documents: list[Document]
    next_cursor: str | None


@dataclass(slots=True)
class DocumentUse:
    """How an answer used a document: as the retriever said it, null where it did not."""

    chunk_id: str | None
    version: str | None
    rank: float | None
    score: float | None
    cited: bool | None
    in_prompt: bool | None


@dataclass(slots=True)
class UsedMessage(Message):
    """A message that stood on a document, with each of its uses of it."""

    uses: list[DocumentUse]


@dataclass(frozen=True, slots=True)
class DocumentMessages:
    """A document and one page of the answers that stood on it, newest first."""

    document: Document
    messages: list[UsedMessage]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """What is said of a source. `version`: of superseded the one that is now current, of withdrawn the one meant."""

    status: DocumentStatus
    version: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class SessionDraft:
    """A session as it was sent. `fingerprint` tells a repeat from another session under the same id."""

    id: UUID
    user_id: str | None
    name: str | None
    is_favorite: bool
    metadata: JsonText
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class MessageDraft:
    """A message as it was sent. `is_new`: the id was made here, so no earlier message can have it."""

    id: UUID
    is_new: bool
    sender: str
    content: str
    context: Context | None
    metadata: JsonText
    created_at: datetime | None
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Stored(Generic[Noun]):
    """What a write left behind: the resource as it is now, its session's revision, and whether it was a replay."""

    resource: Noun
    revision: int
    replayed: bool = False
