"""The service that a user would write by hand: FastAPI, pydantic models and the ORM of SQLAlchemy over asyncpg."""

import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.security import APIKeyHeader
from orm_tables import Base, ChatMessage, ChatSession
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

API_KEY = os.environ["API_KEY"].encode()
POOL_SIZE = int(os.environ.get("POOL_SIZE", "8"))
_CREATING = 20_260_301  # the lock of whoever creates the tables

logging.basicConfig(
    filename=os.environ.get("LOG_FILE"), level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
)
log = logging.getLogger("orm_service")

engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"), pool_size=POOL_SIZE, max_overflow=0
)
new_db = async_sessionmaker(engine, expire_on_commit=False)

_WITHOUT_CONTEXT = (
    *(ChatMessage.id, ChatMessage.session_id, ChatMessage.sender, ChatMessage.content),
    *(ChatMessage.metadata_, ChatMessage.created_at),
)


class NewSession(BaseModel):
    user_id: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    is_favorite: bool = False


class Session(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_id: str | None
    name: str | None
    is_favorite: bool
    created_at: datetime
    updated_at: datetime


class SessionPage(BaseModel):
    sessions: list[Session]
    total: int


class NewMessage(BaseModel):
    sender: Annotated[str, Field(min_length=1, max_length=64)]
    content: str
    context: Any = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class Message(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    session_id: UUID
    sender: str
    content: str
    context: Any = None
    metadata: dict[str, Any] = Field(validation_alias="metadata_")
    created_at: datetime


class MessagePage(BaseModel):
    messages: list[Message]
    total: int
    page: int
    page_size: int


async def check_key(key: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]) -> None:
    if key is None or not secrets.compare_digest(key.encode(), API_KEY):
        raise HTTPException(401, "The API key is missing or wrong")


async def get_db() -> AsyncIterator[AsyncSession]:
    async with new_db() as db:
        yield db


Db = Annotated[AsyncSession, Depends(get_db)]
Limit = Annotated[int, Query(ge=1, le=100)]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as conn:
        await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATING})  # all workers come here
        await conn.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan, dependencies=[Depends(check_key)])


@app.middleware("http")
async def log_request(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    started = time.perf_counter()
    response = await call_next(request)
    took = (time.perf_counter() - started) * 1e3
    log.info("%s %s %d %.1f ms", request.method, request.url.path, response.status_code, took)
    return response


async def get_session(db: AsyncSession, session_id: UUID) -> ChatSession:
    session = await db.get(ChatSession, session_id)
    if session is None:
        raise HTTPException(404, "There is no such session")
    return session


@app.post("/chat/sessions", status_code=201, response_model=Session)
async def create_session(db: Db, body: NewSession) -> ChatSession:
    session = ChatSession(**body.model_dump())
    db.add(session)
    await db.commit()
    await db.refresh(session)
    return session


@app.get("/chat/sessions", response_model=SessionPage)
async def list_sessions(db: Db, user_id: str, limit: Limit = 20) -> dict[str, Any]:
    theirs = ChatSession.user_id == user_id
    total = await db.scalar(select(func.count()).select_from(ChatSession).where(theirs))
    latest = select(ChatSession).where(theirs).order_by(ChatSession.updated_at.desc(), ChatSession.id).limit(limit)
    return {"sessions": (await db.scalars(latest)).all(), "total": total}


@app.post("/chat/sessions/{session_id}/messages", status_code=201, response_model=Message)
async def append_message(db: Db, session_id: UUID, body: NewMessage) -> ChatMessage:
    session = await get_session(db, session_id)
    message = ChatMessage(
        session_id=session_id, sender=body.sender, content=body.content, context=body.context, metadata_=body.metadata
    )
    db.add(message)
    session.updated_at = datetime.now(UTC)
    await db.commit()
    await db.refresh(message)
    return message


@app.get("/chat/sessions/{session_id}/messages", response_model=MessagePage)
async def list_messages(
    db: Db,
    session_id: UUID,
    page: Annotated[int, Query(ge=1)] = 1,
    page_size: Limit = 20,
    context: Literal["full", "none"] = "full",
) -> dict[str, Any]:
    here = ChatMessage.session_id == session_id
    total = await db.scalar(select(func.count()).select_from(ChatMessage).where(here))
    if not total:
        await get_session(db, session_id)
    in_order = (ChatMessage.created_at, ChatMessage.id)
    skipped = (page - 1) * page_size
    shown: tuple[Any, ...] = _WITHOUT_CONTEXT if context == "none" else (ChatMessage,)
    found = await db.execute(select(*shown).where(here).order_by(*in_order).offset(skipped).limit(page_size))
    messages = found.all() if context == "none" else found.scalars().all()
    return {"messages": messages, "total": total, "page": page, "page_size": page_size}
