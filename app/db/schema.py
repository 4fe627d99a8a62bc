"""Every table, readable on one page: what Alembic compares the migrations with, and what Core queries name.

The distribution key of a cluster is the session id, hence no unique constraint without it, and no triggers.
`context` and `metadata` are json and not jsonb: jsonb turns 1e23 into an integer, json gives back what was sent.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEFAULT_TENANT = 1
"""The tenant that the keys of API_KEY belong to; the first migration makes it."""


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        str: Text,
        datetime: DateTime(timezone=True),
        bytes: LargeBinary,
        dict: JSON,
    }


class Tenant(Base):
    """Whoever a key belongs to. No statement of the store reaches across tenants."""

    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(Identity(start=DEFAULT_TENANT + 1), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    marks: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class ChatSession(Base):
    """A conversation. `message_count` is also the highest seq; `revision` grows with every change."""

    __tablename__ = "chat_sessions"
    __table_args__ = (
        CheckConstraint("message_count >= 0", "message_count"),
        CheckConstraint("revision >= 1", "revision"),
        # Read backwards: at equal cost ascending pages fill better, docs/decisions/0003-activity-index.md.
        Index("chat_sessions_activity_idx", "tenant_id", "updated_at", "id"),
        Index(
            "chat_sessions_user_activity_idx",
            "tenant_id",
            "user_id",
            "updated_at",
            "id",
            postgresql_where=text("user_id IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    user_id: Mapped[str | None]
    name: Mapped[str | None]
    name_folded: Mapped[str | None] = mapped_column(Text(collation="C"))
    is_favorite: Mapped[bool]
    metadata_: Mapped[dict[str, object]] = mapped_column("metadata", JSON)
    message_count: Mapped[int] = mapped_column(server_default=text("0"))
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    fingerprint: Mapped[bytes | None]


class ChatMessage(Base):
    """A message. `seq` is dense, 1..message_count of its session: a middle row is redacted, never deleted.

    `context_form` is the context with its documents replaced by their uses, `context` one that could not be split.
    `context_refs` names what it stands on: evidence.id, and documents.ref (negative) of documents without a text.
    It is NULL where nobody has looked at the context yet.
    """

    __tablename__ = "chat_messages"
    __table_args__ = (UniqueConstraint("session_id", "id"), CheckConstraint("seq >= 1", "seq"))

    session_id: Mapped[UUID] = mapped_column(ForeignKey("chat_sessions.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[UUID]
    sender: Mapped[str]
    content: Mapped[str]
    context: Mapped[dict[str, object] | None] = mapped_column(JSON)
    metadata_: Mapped[dict[str, object]] = mapped_column("metadata", JSON)
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    redacted_at: Mapped[datetime | None]
    fingerprint: Mapped[bytes | None]
    context_refs: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))
    context_form: Mapped[dict[str, object] | None] = mapped_column(JSON)


class SourceDocument(Base):
    """A source that answers stood on, and its mark. `ref` is a hash of tenant and document_id."""

    __tablename__ = "documents"
    __table_args__ = (
        CheckConstraint("status IN ('current', 'superseded', 'withdrawn')", "status"),
        Index("documents_last_used_idx", "tenant_id", "last_used", "ref"),
        Index("documents_mark_idx", "tenant_id", "mark", postgresql_where=text("mark IS NOT NULL")),
    )

    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    ref: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    document_id: Mapped[str]
    title: Mapped[str | None]
    url: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=text("'current'"))
    version: Mapped[str | None]
    reason: Mapped[str | None]
    marked_at: Mapped[datetime | None]
    mark: Mapped[int | None] = mapped_column(BigInteger)
    answers: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    cited: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    first_used: Mapped[datetime | None]
    last_used: Mapped[datetime | None]
    seen_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    counted: Mapped[str | None]


class Evidence(Base):
    """A document's text, stored once for all answers of its tenant. `digest` is its identity."""

    __tablename__ = "evidence"
    __table_args__ = (UniqueConstraint("tenant_id", "digest"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    document_ref: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes]
    body: Mapped[dict[str, object]] = mapped_column(JSON)
    seen_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class EvidenceUse(Base):
    """That an answer stood on a document: what the reverse question reads. No key costs an append anything."""

    __tablename__ = "evidence_uses"
    __table_args__ = (Index("evidence_uses_idx", "document_ref", "at"),)
    __mapper_args__ = {"primary_key": ["document_ref", "session_id", "seq"]}  # noqa: RUF012

    document_ref: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]
    session_id: Mapped[UUID]
    seq: Mapped[int]
    cited: Mapped[bool]


class Job(Base):
    """Work that goes on in the background, one instance of the service at a time; NULL: it is done."""

    __tablename__ = "jobs"

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[dict[str, object]] = mapped_column(JSON, server_default=text("'{}'"))
    next_at: Mapped[datetime | None] = mapped_column(server_default=text("now()"))
