"""Messages as they are sent: the bodies of append and batch, and the drafts they make."""

from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from app import evidence, ids, strict_json
from app.api import fields
from app.api.call import Call
from app.errors import Fault, Invalid
from app.models import MessageDraft

MOST = 500
"""Messages in one batch."""

_QUESTION: dict[str, Any] = {"sender": "user", "content": "How many days of leave?"}
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
    sender = schema["properties"]["sender"]
    schema["properties"]["sender"] = {"anyOf": [sender, {"type": "null"}], "title": sender.pop("title")}
    schema["anyOf"] = [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("sender", "role")]


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

    def draft(self, call: Call, session_id: UUID, place: int | None = None) -> MessageDraft:
        """The message to store; `place` is its own in a batch, and tells it from others under one Idempotency-Key."""
        scope = [] if place is None else [str(place)]
        derived_id = call.derived_id("message", str(session_id), *scope)  # asked for in any case: it may be broken
        known_id = self.id or derived_id
        steps: evidence.Steps = ("context",) if place is None else ("messages", place, "context")
        sent: dict[str, Any] = {"sender": self.sender, "content": self.content, "metadata": self.metadata.value}
        if self.context is not None:
            sent["context"] = self.context.value
        return MessageDraft(
            id=known_id or ids.new(),
            is_new=known_id is None,
            sender=self.sender,
            content=self.content,
            context=self.context and evidence.understand(*self.context, steps),
            metadata=self.metadata.text,
            created_at=self.created_at,
            fingerprint=strict_json.fingerprint(sent),
        )


class NewMessages(fields.Body):
    """All are stored, one behind the other, or none. Idempotency-Key gives an id to those that have none."""

    messages: Annotated[list[NewMessage], Field(min_length=1, max_length=MOST)]

    model_config = ConfigDict(json_schema_extra={"example": {"messages": [_QUESTION, _EXAMPLE]}})

    limit: ClassVar = "max_batch_body_bytes"
    levels: ClassVar = 3

    @classmethod
    def forget_unknown(cls, sent: Any, left: int) -> int:
        left = super().forget_unknown(sent, left)
        messages = sent.get("messages") if isinstance(sent, dict) else None
        for message in messages[:MOST] if isinstance(messages, list) else ():
            left = NewMessage.forget_unknown(message, left)
        return left

    def drafts(self, call: Call, session_id: UUID) -> list[MessageDraft]:
        """The messages to store. Raises Invalid where two have one id."""
        drafts = [message.draft(call, session_id, place) for place, message in enumerate(self.messages)]
        seen: set[UUID] = set()
        for place, draft in enumerate(drafts):
            if draft.id in seen:
                field = strict_json.pointer(("messages", place, "id"))
                raise Invalid(Fault("body", field, "duplicate_id", "is the id of another message of this batch"))
            seen.add(draft.id)
        return drafts
