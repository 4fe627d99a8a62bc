"""Two floors without a database: what the web server alone costs, and what FastAPI with a validated body costs."""

from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import FastAPI, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from starlette.types import Receive, Scope, Send

_OK = b'{"status":"ok"}'
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_OK))],
}
_BODY = {"type": "http.response.body", "body": _OK}
_MESSAGE = (
    b'{"id":"0193b5fa-06d1-7a63-b0c5-0f6f7c1de4b8","session_id":"0193b5f9-e1c2-7d0a-8a55-9d516c1f0d2a",'
    b'"sender":"assistant","content":"25 days a year.","context":null,"metadata":{},'
    b'"created_at":"2026-03-01T12:00:09.250000Z"}'
)


async def constant(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])  # so uvicorn learns that there is no lifespan
    while (await receive()).get("more_body"):
        pass
    await send(_START)
    await send(_BODY)


validating = FastAPI()

Sender = Annotated[str, Field(min_length=1, max_length=64)]


class NewMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: UUID | None = None
    sender: Sender | None = None
    role: Sender | None = None
    content: str
    context: Any = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one_sender(self) -> Self:
        if len({self.sender, self.role} - {None}) != 1:
            raise ValueError("sender, or role, which is another name for it, says who speaks")
        return self


@validating.post("/chat/sessions/{session_id}/messages", status_code=201)
async def append_message(session_id: UUID, body: NewMessage) -> Response:  # noqa: ARG001 - validated is all they are
    return Response(_MESSAGE, 201, media_type="application/json")
