"""The model of the whole service: the sessions with their messages."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from app.tests.faults import model_evidence
from app.tests.faults.model_sessions import (
    Message,
    Scope,
    Session,
    Sessions,
    Terms,
    Who,
    answered,
    exact,
    time_of,
)
from app.tests.harness import problem

INSTANTS = {  # sent as, answered as
    "2026-03-01T17:30:00+05:30": "2026-03-01T12:00:00.000000Z",
    "1969-12-31T23:59:59.1234569Z": "1969-12-31T23:59:59.123456Z",
    "9999-12-31T23:59:59Z": "9999-12-31T23:59:59.000000Z",
}


class Model(Sessions):
    """What each call must answer, messages included."""

    def append(
        self,
        who: Who,
        terms: Terms,
        session_id: str,
        sent: Mapping[str, Any],
        got: httpx.Response,
        *,
        context: str = "full",
    ) -> None:
        session = self.allowed(who, terms, session_id, got)
        if session is None:
            return
        scope = _scope(session_id, sent, terms)
        id_ = self.expected_id(scope, sent.get("id"))
        known = session.find(id_)
        if known is not None:
            if not _equal(known, sent):
                problem(got, 409, "idempotency_conflict")
                return
        elif self.stale(terms, session, got):
            return
        else:
            self._store(session, sent, scope, id_, got.json())
            session.revision += 1
        seq = session.messages.index(known) + 1 if known else len(session.messages)
        body = session.shown_message(seq, context=context) | _warned(sent, "/context")
        answered(got, 200 if known else 201, body, session.revision, replayed=known is not None)
        assert got.headers["location"] == f"/chat/sessions/{session_id}/messages/{body['id']}"

    def batch(
        self, who: Who, terms: Terms, session_id: str, items: Sequence[Mapping[str, Any]], got: httpx.Response
    ) -> None:
        named = [item["id"] for item in items if item.get("id")]
        if len(named) != len(set(named)):  # the body is read before the conditions
            problem(got, 422, "duplicate_id")
            return
        session = self.allowed(who, terms, session_id, got)
        if session is None:
            return
        scopes = [_scope(session_id, item, terms, n) for n, item in enumerate(items)]
        wanted = [self.expected_id(scope, item.get("id")) for item, scope in zip(items, scopes, strict=True)]
        found = [message for message in map(session.find, wanted) if message is not None]
        if not found and self.stale(terms, session, got):
            return
        if not found:
            assert got.status_code == 201, got.text
            told = got.json()["messages"]
            for item, scope, id_, one in zip(items, scopes, wanted, told, strict=True):
                self._store(session, item, scope, id_, one)
            session.revision += 1
            found = session.messages[-len(items) :]
            answered(got, 201, _shown(session, found, items), session.revision)
        elif len(found) < len(items) or not all(map(_equal, found, items)):
            assert problem(got, 409, "idempotency_conflict")["known"] == [message.id for message in found]
        else:
            answered(got, 200, _shown(session, found, items), session.revision, replayed=True)

    def redact(self, who: Who, terms: Terms, session_id: str, message_id: str, got: httpx.Response, at: str) -> None:
        """`at`: `redacted_at` as the message tells it after this call, where it does."""
        session = self.allowed(who, terms, session_id, got)
        if session is None:
            return
        message = session.find(message_id)
        if message is None:
            problem(got, 404, "not_found")
            return
        if message.redacted_at is None:
            if self.stale(terms, session, got):
                return
            message.redact(time_of(at))
            session.revision += 1
        assert (got.status_code, got.content, got.headers["etag"]) == (204, b"", f'"{session.revision}"')

    def rewind(self, who: Who, terms: Terms, session_id: str, after: int, got: httpx.Response) -> None:
        session = self.allowed(who, terms, session_id, got)
        if session is None:
            return
        gone = session.messages[after:]
        if gone:
            if self.stale(terms, session, got):
                return
            del session.messages[after:]
            session.revision += 1
        left = {"deleted": len(gone), "message_count": len(session.messages), "revision": session.revision}
        answered(got, 200, left, session.revision)

    def message(self, who: Who, session_id: str, message_id: str, got: httpx.Response, *, context: str) -> None:
        session = self.visible(who, session_id)
        message = session.find(message_id) if session else None
        if session is None or message is None:
            problem(got, 404, "not_found")
        else:
            answered(got, 200, session.shown_message(session.messages.index(message) + 1, context=context))

    def message_page(self, who: Who, session_id: str, query: Mapping[str, Any], got: httpx.Response) -> None:
        """The answer to `page`, `page_size` and `order`."""
        session = self.visible(who, session_id)
        if session is None:
            problem(got, 404, "not_found")
            return
        total, page, size = len(session.messages), query.get("page", 1), query.get("page_size", 20)
        seqs = list(range(1, total + 1))[:: -1 if query.get("order") == "desc" else 1][(page - 1) * size :][:size]
        how = query.get("context", "full")
        shown = {"messages": [session.shown_message(seq, context=how) for seq in seqs]}
        answered(got, 200, shown | {"total": total, "page": page, "page_size": size}, session.revision)

    def message_slice(self, who: Who, session_id: str, query: Mapping[str, Any], got: httpx.Response) -> None:
        """The answer to `after` or `before` with `limit` and `order`."""
        session = self.visible(who, session_id)
        if session is None:
            problem(got, 404, "not_found")
            return
        total, limit, descending = len(session.messages), query.get("limit", 20), query.get("order") == "desc"
        backward = "before" in query or (descending and "after" not in query)
        if backward:
            there = [seq for seq in range(1, total + 1) if seq < query.get("before", total + 1)]
            seqs, more = there[-limit:], len(there) > limit
        else:
            there = [seq for seq in range(1, total + 1) if seq > query.get("after", 0)]
            seqs, more = there[:limit], len(there) > limit
        how = query.get("context", "full")
        shown = [session.shown_message(seq, context=how) for seq in (seqs[::-1] if descending else seqs)]
        body = {"messages": shown, "total": total, "page": None, "page_size": limit, "has_more": more}
        answered(got, 200, body, session.revision)

    def _store(
        self, session: Session, sent: Mapping[str, Any], scope: Scope | None, id_: str | None, told: Mapping[str, Any]
    ) -> None:
        session.messages.append(
            Message(
                _as_sent(sent),
                sent["sender"],
                sent["content"],
                sent.get("context"),
                sent.get("metadata") or {},
                self.learned_id(scope, id_, told),
                INSTANTS[sent["created_at"]] if sent.get("created_at") else time_of(told["created_at"]),
            )
        )


def _scope(session_id: str, sent: Mapping[str, Any], terms: Terms, place: int | None = None) -> Scope | None:
    return None if sent.get("id") or not terms.idempotency_key else (session_id, terms.idempotency_key, place)


def _as_sent(sent: Mapping[str, Any]) -> str:
    return exact([sent["sender"], sent["content"], sent.get("context"), sent.get("metadata") or {}])


def _equal(known: Message, sent: Mapping[str, Any]) -> bool:
    """Whether a repeat is one; a redacted message equals anything."""
    return known.redacted_at is not None or known.sent == _as_sent(sent)


def _shown(session: Session, messages: Sequence[Message], sent: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shown = [session.shown_message(session.messages.index(message) + 1) for message in messages]
    warned = [_warned(one, f"/messages/{place}/context") for place, one in enumerate(sent)]
    return {"messages": [one | more for one, more in zip(shown, warned, strict=True)]}


def _warned(sent: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    found = model_evidence.warnings(sent.get("context"), pointer)
    return {"context_warnings": found} if found else {}
