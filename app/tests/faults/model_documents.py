"""What the model knows of evidence: which answer used which document, and what each mark says of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from app.tests.faults.drawn import TITLES
from app.tests.faults.model import Model
from app.tests.faults.model_evidence import Mark, uses
from app.tests.faults.model_sessions import Message, Session, Who, answered, exact, time_of
from app.tests.harness import problem

LAGGING = ("answers", "cited", "first_used_at", "last_used_at")
"""What the service may tell late, but for the counts of one user."""


class Used(NamedTuple):
    """An answer that stood on a document, and its place among them."""

    place: tuple[str, str, int]
    session: Session
    message: Message
    uses: list[dict[str, Any]]

    @property
    def cited(self) -> bool:
        return any(use["cited"] for use in self.uses)

    def shown(self, context: str) -> dict[str, Any]:
        return self.session.shown_message(self.place[2], context=context) | {"uses": self.uses}


@dataclass
class Position:
    """How far a walk over the answers of a document has come."""

    place: tuple[str, str, int] | None = None
    cursor: str | None = None


class DocumentModel(Model):
    """What each call must answer, documents included."""

    def mark(self, who: Who, sent: Mapping[str, Any], got: httpx.Response) -> None:
        if who.user:
            problem(got, 422, "validation_error", "X-User-Id")
            return
        if sent["status"] == "current" and sent.get("version"):
            problem(got, 422, "validation_error", "/version")
            return
        marks, wanted = self.marks[who.key], (sent["status"], sent.get("version"), sent.get("reason"))
        before = marks.get(sent["document_id"])
        if wanted != (before.terms() if before else ("current", None, None)):
            told = time_of(got.json()["marked_at"], before.marked_at if before else "")
            marks[sent["document_id"]] = Mark(*wanted, told)
        assert got.status_code == 200, got.text
        self._document(who, sent["document_id"], got.json())

    def answers(
        self, who: Who, document_id: str, query: Mapping[str, Any], position: Position, got: httpx.Response
    ) -> Position:
        """The answer to a page of the answers that stood on a document; where the next one begins."""
        seen = self.used(who, document_id)
        if not seen and (who.user or document_id not in self.marks[who.key]):
            problem(got, 404, "not_found")
            return Position()
        found = [one for one in seen if _fits(one, query) and (position.place is None or one.place < position.place)]
        limit = query.get("limit", 20)
        cursor = got.json().get("next_cursor")
        assert (cursor is None) is (len(found) <= limit), got.text
        shown = [one.shown(query.get("context", "full")) for one in found[:limit]]
        answered(got, 200, {"document": got.json()["document"], "messages": shown, "next_cursor": cursor})
        self._document(who, document_id, got.json()["document"])
        if who.user:
            told = {name: got.json()["document"][name] for name in LAGGING}
            times = [one.place[0] for one in seen]
            counts = {"answers": len(seen), "cited": sum(one.cited for one in seen)}
            assert told == {**counts, "first_used_at": min(times), "last_used_at": max(times)}
        return Position(found[limit - 1].place, cursor) if cursor else Position()

    def documents(self, who: Who, query: Mapping[str, Any], got: httpx.Response) -> None:
        """The answer to a list that holds all there are: one whose answers are gone may be there still."""
        if who.user:
            problem(got, 422, "validation_error", "X-User-Id")
            return
        assert got.status_code == 200, got.text
        told = got.json()["documents"]
        names = [one["document_id"] for one in told]
        assert len(names) == len(set(names))
        wanted = {name for name in TITLES if self.used(who, name) and self._is_listed(who, name, query)}
        if name := query.get("document_id"):
            wanted |= {name} if name in self.marks[who.key] and self._is_listed(who, name, query) else set()
        assert wanted <= set(names), (wanted, names)
        assert all(self._is_listed(who, name, query) for name in names), names
        for one in told:
            self._document(who, one["document_id"], one)
        times = [one["last_used_at"] or "" for one in told]
        assert times == sorted(times, reverse=True)

    def used(self, who: Who, document_id: str) -> list[Used]:
        """All answers within sight that stood on it, newest first."""
        return sorted(self._used(who, document_id), key=lambda one: one.place, reverse=True)

    def _used(self, who: Who, document_id: str) -> Iterable[Used]:
        for session in self.sessions.values():
            if session.key == who.key and who.user in (None, session.user_id):
                for seq, message in enumerate(session.messages, start=1):
                    found = [use for use in uses(message.context) if use.pop("document_id") == document_id]
                    if found:
                        yield Used((message.created_at, session.id, seq), session, message, found)

    def _is_listed(self, who: Who, name: str, query: Mapping[str, Any]) -> bool:
        mark = self.marks[who.key].get(name)
        status = mark.status if mark else "current"
        return query.get("document_id") in (None, name) and query.get("status") in (None, status)

    def _document(self, who: Who, document_id: str, told: Mapping[str, Any]) -> None:
        """Fails unless this document is told as it is; some of it the service may tell late."""
        mark = self.marks[who.key].get(document_id)
        status, version, reason = mark.terms() if mark else ("current", None, None)
        expected = {
            "document_id": document_id,
            "url": None,
            "status": status,
            "version": version,
            "reason": reason,
            "marked_at": mark and mark.marked_at,
        }
        assert exact({name: told[name] for name in expected}) == exact(expected)
        assert told.keys() == {*expected, "title", *LAGGING}
        # The title comes with the first context that names it, stored or refused.
        allowed = (TITLES[document_id],) if self._used_by_any(who, document_id) else (TITLES[document_id], None)
        assert told["title"] in allowed

    def _used_by_any(self, who: Who, document_id: str) -> bool:
        return bool(self.used(Who(who.key), document_id))


def _fits(one: Used, query: Mapping[str, Any]) -> bool:
    uses_of_it = [
        use
        for use in one.uses
        if query.get("chunk_id") in (None, use["chunk_id"]) and query.get("version") in (None, use["version"])
    ]
    return (
        bool(uses_of_it)
        and query.get("cited") in (None, str(one.cited).lower())
        and query.get("user_id") in (None, one.session.user_id)
        and query.get("since", "") <= one.place[0]
        and one.place[0] < query.get("until", "~")
    )
