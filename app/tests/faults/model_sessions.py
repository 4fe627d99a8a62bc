"""The service as a few lists in memory: what each call must answer, by the contract and nothing else.

Every method takes one call and the answer that came; it fails where they do not belong together, and does to
the lists what the service did. What only the service can know (its ids, its times) is taken from the answer
that tells it first, and held against every later one.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from app.tests.faults import model_evidence
from app.tests.faults.model_evidence import Mark
from app.tests.harness import problem

BROKEN = ("7", '"1", "2"')
"""What If-Match does not take: an unquoted tag and a list."""

Scope = tuple[str | int | None, ...]
"""Within what an Idempotency-Key stands for one id."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[57][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Who(NamedTuple):
    """A caller: the key that names the tenant, and the user in X-User-Id."""

    key: str
    user: str | None = None


class Terms(NamedTuple):
    """The conditions of a write."""

    idempotency_key: str | None = None
    if_match: str | None = None


@dataclass(eq=False)
class Message:
    sent: str
    sender: str
    content: str
    context: Any
    metadata: dict[str, Any]
    id: str
    created_at: str
    redacted_at: str | None = None

    def redact(self, at: str) -> None:
        self.content, self.context, self.metadata, self.redacted_at = "", None, {}, at


@dataclass(eq=False)
class Session:
    key: str
    sent: str
    user_id: str | None
    name: str | None
    is_favorite: bool
    metadata: dict[str, Any]
    id: str = ""
    revision: int = 1
    created_at: str = ""
    updated_at: str = ""
    looked_at: int = 0  # the revision that `updated_at` belongs to
    messages: list[Message] = field(default_factory=list)
    marks: Mapping[str, Mark] = field(default_factory=dict)
    """Of its tenant's documents."""

    def find(self, id_: str | None) -> Message | None:
        return next((message for message in self.messages if message.id == id_), None)

    def shown(self) -> dict[str, Any]:
        names = ("id", "user_id", "name", "is_favorite", "metadata", "revision", "created_at", "updated_at")
        return {name: getattr(self, name) for name in names} | {"message_count": len(self.messages)}

    def shown_message(self, seq: int, *, context: str = "full") -> dict[str, Any]:
        message = self.messages[seq - 1]
        names = ("id", "sender", "content", "metadata", "created_at", "redacted_at")
        shown = {name: getattr(message, name) for name in names} | {"session_id": self.id, "seq": seq}
        judged = model_evidence.judged(message.context, self.marks)
        return shown | {"context": model_evidence.shown(message.context, context)} | judged


def exact(value: Any) -> str:
    """`value` as text in which 1, 1.0 and true differ and the order of keys makes no difference."""
    return json.dumps(value, sort_keys=True)


def answered(
    got: httpx.Response, status: int, body: Any, revision: int | None = None, *, replayed: bool = False
) -> None:
    """Fails unless `got` is this answer."""
    assert (got.status_code, exact(got.json())) == (status, exact(body))
    assert got.headers.get("etag") == (None if revision is None else f'"{revision}"')
    assert got.headers.get("idempotent-replayed") == ("true" if replayed else None)


def time_of(told: str, not_before: str = "") -> str:
    assert _TIME.fullmatch(told), told
    assert told >= not_before, (told, not_before)
    return told


class Sessions:
    """Every session of every tenant."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.marks: defaultdict[str, dict[str, Mark]] = defaultdict(dict)
        self._derived: dict[Scope, str] = {}

    def create(self, who: Who, terms: Terms, sent: Mapping[str, Any], got: httpx.Response) -> None:
        if who.user and sent.get("user_id") not in (None, who.user):
            problem(got, 422, "validation_error", "/user_id")
            return
        fields = {
            "name": None,
            "is_favorite": False,
            "metadata": {},
            **sent,
            "user_id": sent.get("user_id") or who.user,
        }
        id_ = fields.pop("id", None)
        scope = None if id_ or not terms.idempotency_key else (who.key, who.user, terms.idempotency_key)
        id_ = self.expected_id(scope, id_)
        known = self.sessions.get(id_ or "")
        if known is None:
            session = Session(who.key, exact(fields), marks=self.marks[who.key], **fields)
            session.id = self.learned_id(scope, id_, got.json())
            self.sessions[session.id] = session
            self.learn_times(session, got.json())
            answered(got, 201, session.shown(), 1)
            assert got.headers["location"] == f"/chat/sessions/{session.id}"
        elif known is not self.visible(who, known.id):
            problem(got, 409, "id_taken")
        elif known.sent != exact(fields):
            problem(got, 409, "idempotency_conflict")
        else:
            answered(got, 200, known.shown(), known.revision, replayed=True)

    def get(self, who: Who, session_id: str, got: httpx.Response) -> None:
        session = self.visible(who, session_id)
        if session is None:
            problem(got, 404, "not_found")
            return
        self.learn_times(session, got.json())
        answered(got, 200, session.shown(), session.revision)

    def update(self, who: Who, terms: Terms, session_id: str, changes: Mapping[str, Any], got: httpx.Response) -> None:
        session = self.allowed(who, terms, session_id, got)
        if session is None:
            return
        wanted = dict(changes)
        if wanted.get("metadata", {}) is None:
            wanted["metadata"] = {}
        if exact(session.shown()) != exact(session.shown() | wanted):
            if self.stale(terms, session, got):
                return
            for name, value in wanted.items():
                setattr(session, name, value)
            session.revision += 1
            self.learn_times(session, got.json())
        answered(got, 200, session.shown(), session.revision)

    def delete(self, who: Who, terms: Terms, session_id: str, got: httpx.Response) -> None:
        session = self.allowed(who, terms, session_id, got)
        if session is not None and not self.stale(terms, session, got):
            assert (got.status_code, got.content) == (204, b"")
            del self.sessions[session_id]

    def page(
        self, who: Who, query: Mapping[str, Any], position: tuple[str, str] | None, got: httpx.Response
    ) -> tuple[str, str] | None:
        """The answer to a list that goes on behind `position`; where the next page goes on, None at the end."""
        limit = query.get("limit", 20)
        listed = sorted(
            ((session.updated_at, session.id) for session in self.sessions.values() if is_listed(session, who, query)),
            reverse=True,
        )
        left = [place for place in listed if position is None or place < position]
        next_cursor = got.json().get("next_cursor")
        assert (next_cursor is None) is (len(left) <= limit)
        shown = [self.sessions[id_].shown() for _, id_ in left[:limit]]
        answered(got, 200, {"sessions": shown, "next_cursor": next_cursor})
        return left[limit - 1] if next_cursor else None

    def visible(self, who: Who, session_id: str) -> Session | None:
        session = self.sessions.get(session_id)
        return session if session and session.key == who.key and who.user in (None, session.user_id) else None

    def allowed(self, who: Who, terms: Terms, session_id: str, got: httpx.Response) -> Session | None:
        """The session of a write; None where the answer had to be a 400 or a 404, and was."""
        session = self.visible(who, session_id)
        if terms.if_match in BROKEN:
            problem(got, 400, "invalid_header", "If-Match")
            return None
        if session is None:
            problem(got, 404, "not_found")
        return session

    def stale(self, terms: Terms, session: Session, got: httpx.Response) -> bool:
        """Whether the answer to a change had to be a 412, and was."""
        tag = str(session.revision)
        if terms.if_match in (None, "*", f'"{tag}"', f'W/"{tag}"'):
            return False
        assert problem(got, 412, "revision_mismatch")["revision"] == session.revision
        return True

    def expected_id(self, scope: Scope | None, named: str | None) -> str | None:
        """The id that a resource will have, where that is known: named by the call, or by its key before."""
        return named or (self._derived.get(scope) if scope else None)

    def learned_id(self, scope: Scope | None, expected: str | None, told: Mapping[str, Any]) -> str:
        """The id that a new resource was given."""
        id_ = str(told["id"])
        assert id_ == expected if expected else _ID.fullmatch(id_), (id_, expected)
        if scope:
            self._derived[scope] = id_
        return id_

    @staticmethod
    def learn_times(session: Session, told: Mapping[str, Any]) -> None:
        """Believe `updated_at` once for each revision: it may not go back, nor move without a change."""
        session.created_at = session.created_at or time_of(told["created_at"])
        if session.looked_at != session.revision:
            session.updated_at = time_of(told["updated_at"], session.updated_at)
            session.looked_at = session.revision


def is_listed(session: Session, who: Who, query: Mapping[str, Any]) -> bool:
    name = query.get("name")
    return (
        session.key == who.key
        and who.user in (None, session.user_id)
        and query.get("user_id") in (None, session.user_id)
        and query.get("is_favorite") in (None, str(session.is_favorite).lower())
        and (name is None or name.casefold() in (session.name or "").casefold())
    )
