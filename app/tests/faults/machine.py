"""Random sequences of calls, sent to a live service and told to the model, which knows what each must answer."""

import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from app.tests.faults import drawn
from app.tests.faults.model_documents import DocumentModel, Position
from app.tests.faults.model_sessions import BROKEN, Session, Terms, Who
from app.tests.faults.walk import Walk
from app.tests.harness import problem

UNCONDITIONAL = Terms()
DOCUMENTS = "/chat/documents"
Audit = Callable[[list[str]], list[str]]  # what is wrong in SQL with these sessions, which are there or deleted


class Machine(RuleBasedStateMachine):
    """Two tenants that are new, every operation, and a list that is walked while it changes."""

    def __init__(self, http: httpx.Client, new_key: Callable[[], str], audit: Audit, calls: Counter[str]) -> None:
        super().__init__()
        self.audit = audit
        self.http = http
        self.keys = [new_key(), new_key()]
        self.calls = calls
        self.ids = [str(uuid.uuid4()) for _ in drawn.IDS]  # another machine's tenants would meet the same ones
        self.model = DocumentModel()
        self.seen: list[tuple[str, str]] = []  # session ids, deleted ones too, each with its tenant
        self.repeats: list[Callable[[], None]] = []
        self.walks: list[Walk] = []

    def call(
        self,
        method: str,
        path: str,
        who: Who,
        terms: Terms = UNCONDITIONAL,
        at: str = "/chat/sessions",
        **options: Any,
    ) -> httpx.Response:
        sent = {"X-API-Key": who.key, "X-User-Id": who.user, "If-Match": terms.if_match}
        sent["Idempotency-Key"] = terms.idempotency_key
        headers = {name: value for name, value in sent.items() if value is not None}
        got = self.http.request(method, f"{at}{path}", headers=headers, **options)
        self.calls[f"{method} {got.status_code}"] += 1
        assert got.status_code < 500, got.text
        return got

    def named(self, sent: dict[str, Any]) -> dict[str, Any]:
        """`sent` with the id that its number stands for."""
        return sent if sent.get("id") is None else {**sent, "id": self.ids[sent["id"]]}

    def session(self, at: int, *, stranger: bool = False) -> tuple[str, str, Session | None]:
        """A session that there is or was, its tenant's key (the other's for a `stranger`), and its state."""
        id_, key = self.seen[at % len(self.seen)]
        return id_, (self.keys[self.keys.index(key) - 1] if stranger else key), self.model.sessions.get(id_)

    def message_id(self, session: Session | None, nth: int) -> str:
        """A message that there is in `session`, or an id that may be known nowhere."""
        known = [message.id for message in session.messages] if session else []
        return [*known, *self.ids][nth % (len(known) + len(self.ids))]

    def look(self, id_: str, key: str, after: httpx.Response | None = None) -> None:
        """The session as it is now: `after` each write, so that the model knows its place in the list."""
        if after is None or after.is_success:
            self.model.get(Who(key), id_, self.call("GET", f"/{id_}", Who(key)))

    @initialize(sessions=drawn.first_sessions, messages=drawn.first_messages)
    def begin(self, sessions: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
        for sent in sessions:
            self._create(Who(self.keys[0]), UNCONDITIONAL, self.named(sent))
        for number, sent in enumerate(messages):
            id_, key = self.seen[number % len(self.seen)]
            self._append(id_, Who(key), UNCONDITIONAL, sent)

    @rule(key=st.sampled_from([0, 0, 0, 1]), user=drawn.guards, idempotency_key=drawn.keys, sent=drawn.new_sessions)
    def create(self, key: int, user: str | None, idempotency_key: str | None, sent: dict[str, Any]) -> None:
        self._create(Who(self.keys[key], user), Terms(idempotency_key), self.named(sent))

    def _create(self, who: Who, terms: Terms, sent: dict[str, Any]) -> None:
        got = self.call("POST", "", who, terms, json=sent)
        self.model.create(who, terms, sent, got)
        self.repeats.append(lambda: self._create(who, terms, sent))
        if got.status_code == 201:
            place = (got.json()["id"], who.key)
            self.seen = [*(other for other in self.seen if other[0] != place[0]), place]

    @rule(at=drawn.places, stranger=drawn.rarely, user=drawn.guards)
    def get(self, at: int, stranger: bool, user: str | None) -> None:
        id_, key, _ = self.session(at, stranger=stranger)
        who = Who(key, user)
        self.model.get(who, id_, self.call("GET", f"/{id_}", who))

    @rule(at=drawn.places, user=drawn.guards, tag=drawn.tags, sent=drawn.changes)
    def update(self, at: int, user: str | None, tag: str, sent: dict[str, Any]) -> None:
        id_, key, session = self.session(at)
        who, terms = Who(key, user), Terms(None, if_match(tag, session))
        got = self.call("PUT", f"/{id_}", who, terms, json=sent)
        self.model.update(who, terms, id_, sent, got)
        self.look(id_, key, got)

    @rule(at=drawn.places, user=drawn.guards, tag=drawn.removal_tags, stranger=drawn.rarely)
    @precondition(lambda self: len(self.seen) > 3)
    def delete(self, at: int, user: str | None, tag: str, stranger: bool) -> None:
        id_, key, session = self.session(at, stranger=stranger)
        who, terms = Who(key, user), Terms(None, if_match(tag, session))
        got = self.call("DELETE", f"/{id_}", who, terms)
        self.model.delete(who, terms, id_, got)
        self.look(id_, key, got)

    @rule(
        at=drawn.places,
        user=drawn.guards,
        idempotency_key=drawn.keys,
        tag=drawn.tags,
        sent=drawn.new_messages,
        context=drawn.shown,
        more=st.lists(drawn.unnamed_messages, max_size=2),
    )
    def append(
        self,
        at: int,
        user: str | None,
        idempotency_key: str | None,
        tag: str,
        sent: dict[str, Any],
        context: str,
        more: list[dict[str, Any]],
    ) -> None:
        id_, key, session = self.session(at)
        terms = Terms(idempotency_key, if_match(tag, session))
        self._append(id_, Who(key, user), terms, self.named(sent), context=context)
        for one in more:
            self._append(id_, Who(key), UNCONDITIONAL, one)

    def _append(self, id_: str, who: Who, terms: Terms, sent: dict[str, Any], *, context: str = "full") -> None:
        query = {} if context == "full" else {"context": context}
        got = self.call("POST", f"/{id_}/messages", who, terms, json=sent, params=query)
        self.model.append(who, terms, id_, sent, got, context=context)
        self.repeats.append(lambda: self._append(id_, who, terms, sent))
        self.look(id_, who.key, got)

    @rule(
        at=drawn.places,
        user=drawn.guards,
        idempotency_key=drawn.keys,
        tag=drawn.tags,
        items=st.lists(drawn.new_messages, min_size=1, max_size=4),
    )
    def batch(
        self, at: int, user: str | None, idempotency_key: str | None, tag: str, items: list[dict[str, Any]]
    ) -> None:
        id_, key, session = self.session(at)
        terms = Terms(idempotency_key, if_match(tag, session))
        self._batch(id_, Who(key, user), terms, [self.named(item) for item in items])

    def _batch(self, id_: str, who: Who, terms: Terms, items: list[dict[str, Any]]) -> None:
        got = self.call("POST", f"/{id_}/messages/batch", who, terms, json={"messages": items})
        self.model.batch(who, terms, id_, items, got)
        self.repeats.append(lambda: self._batch(id_, who, terms, items))
        self.look(id_, who.key, got)

    @rule(at=drawn.places, nth=drawn.places, user=drawn.guards, tag=drawn.removal_tags, stranger=drawn.rarely)
    def redact(self, at: int, nth: int, user: str | None, tag: str, stranger: bool) -> None:
        id_, key, session = self.session(at, stranger=stranger)
        self._redact(id_, self.message_id(session, nth), Who(key, user), Terms(None, if_match(tag, session)))

    def _redact(self, id_: str, message_id: str, who: Who, terms: Terms) -> None:
        got = self.call("DELETE", f"/{id_}/messages/{message_id}", who, terms)
        now = self.call("GET", f"/{id_}/messages/{message_id}", who)
        self.model.redact(who, terms, id_, message_id, got, now.json().get("redacted_at"))
        self.repeats.append(lambda: self._redact(id_, message_id, who, terms))
        self.look(id_, who.key, got)

    @rule(at=drawn.places, user=drawn.guards, tag=drawn.removal_tags, after=drawn.stays, stranger=drawn.rarely)
    def rewind(self, at: int, user: str | None, tag: str, after: int | None, stranger: bool) -> None:
        id_, key, session = self.session(at, stranger=stranger)
        if after is None:
            problem(self.call("DELETE", f"/{id_}/messages", Who(key)), 422, "validation_error", "after")
        else:
            self._rewind(id_, after, Who(key, user), Terms(None, if_match(tag, session)))

    def _rewind(self, id_: str, after: int, who: Who, terms: Terms) -> None:
        got = self.call("DELETE", f"/{id_}/messages", who, terms, params={"after": after})
        self.model.rewind(who, terms, id_, after, got)
        self.repeats.append(lambda: self._rewind(id_, after, who, terms))
        self.look(id_, who.key, got)

    @rule(at=st.integers(0, 40))
    @precondition(lambda self: self.repeats)
    def repeat(self, at: int) -> None:
        """Any earlier write once more, as a client does that heard no answer."""
        self.repeats[at % len(self.repeats)]()

    @rule(at=drawn.places, nth=drawn.places, user=drawn.guards, context=drawn.shown, stranger=drawn.rarely)
    def message(self, at: int, nth: int, user: str | None, context: str, stranger: bool) -> None:
        id_, key, session = self.session(at, stranger=stranger)
        message_id = self.message_id(session, nth)
        who, query = Who(key, user), {"context": context}
        got = self.call("GET", f"/{id_}/messages/{message_id}", who, params=query)
        self.model.message(who, id_, message_id, got, context=context)

    @rule(
        at=drawn.places,
        user=drawn.guards,
        page=st.integers(1, 4),
        size=st.sampled_from([1, 2, 3, 100]),
        order=drawn.orders,
        context=drawn.shown,
    )
    def page(self, at: int, user: str | None, page: int, size: int, order: dict[str, str], context: str) -> None:
        id_, key, _ = self.session(at)
        who, query = Who(key, user), {"page": page, "page_size": size, "context": context, **order}
        self.model.message_page(who, id_, query, self.call("GET", f"/{id_}/messages", who, params=query))

    @rule(
        at=drawn.places,
        user=drawn.guards,
        bound=drawn.bounds,
        limit=st.sampled_from([1, 2, 3, 100]),
        order=drawn.orders,
    )
    def slice(self, at: int, user: str | None, bound: dict[str, int], limit: int, order: dict[str, str]) -> None:
        id_, key, _ = self.session(at)
        who, query = Who(key, user), {"limit": limit, **bound, **order}
        self.model.message_slice(who, id_, query, self.call("GET", f"/{id_}/messages", who, params=query))

    @rule(user=drawn.guards, query=drawn.filters)
    def begin_walk(self, user: str | None, query: dict[str, Any]) -> None:
        walk = Walk(self.model, Who(self.keys[0], user), query)
        self.walks = [*self.walks[-2:], walk]
        walk.step(self.call)

    @rule(at=drawn.places)
    @precondition(lambda self: any(not walk.is_over for walk in self.walks))
    def go_on(self, at: int) -> None:
        under_way = [walk for walk in self.walks if not walk.is_over]
        under_way[at % len(under_way)].step(self.call)

    @rule(at=drawn.places, who=st.sampled_from(["stranger", "guarded", "filtered", "damaged"]))
    @precondition(lambda self: any(not walk.is_over for walk in self.walks))
    def misuse_a_cursor(self, at: int, who: str) -> None:
        under_way = [walk for walk in self.walks if not walk.is_over]
        under_way[at % len(under_way)].misuse(self.call, who, self.keys[1])

    @rule(key=st.sampled_from([0, 0, 0, 1]), user=drawn.rare_guards, sent=drawn.marks)
    def mark(self, key: int, user: str | None, sent: dict[str, Any]) -> None:
        who = Who(self.keys[key], user)
        self.model.mark(who, sent, self.call("PUT", "", who, at=DOCUMENTS, json=sent))
        self.repeats.append(lambda: self.mark(key, user, sent))

    @rule(key=st.sampled_from([0, 0, 0, 1]), user=drawn.rare_guards, query=drawn.document_filters)
    def documents(self, key: int, user: str | None, query: dict[str, Any]) -> None:
        who = Who(self.keys[key], user)
        self.model.documents(who, query, self.call("GET", "", who, at=DOCUMENTS, params=query))

    @rule(
        key=st.sampled_from([0, 0, 0, 1]),
        user=drawn.guards,
        name=st.sampled_from(list(drawn.TITLES)),
        query=drawn.use_filters,
    )
    def answers(self, key: int, user: str | None, name: str, query: dict[str, Any]) -> None:
        """All pages of them."""
        who, position = Who(self.keys[key], user), Position()
        while True:
            more = {"cursor": position.cursor} if position.cursor else {}
            asked = {"document_id": name, **query, **more}
            got = self.call("GET", "/messages", who, at=DOCUMENTS, params=asked)
            position = self.model.answers(who, name, query, position, got)
            if position.cursor is None:
                return

    def teardown(self) -> None:
        """All that there is now, once more and whole."""
        assert self.audit([id_ for id_, _ in self.seen]) == []
        for id_, key in self.seen:
            self.look(id_, key)
            got = self.call("GET", f"/{id_}/messages", Who(key), params={"page_size": 100})
            self.model.message_page(Who(key), id_, {"page_size": 100}, got)
        for name in drawn.TITLES:
            for number, user in ((0, None), (0, drawn.USERS[0]), (1, None)):
                self.answers(number, user, name, {"limit": 2, "context": "refs" if user else "full"})
        for key in self.keys:
            walk = Walk(self.model, Who(key), {"limit": 3})
            while not walk.is_over:
                walk.step(self.call)


def if_match(tag: str, session: Session | None) -> str | None:
    revision = session.revision if session else 1
    headers = {"now": f'"{revision}"', "weak": f'W/"{revision}"', "any": "*", "odd": '"abc"'}
    near = {"next": f'"{revision + 1}"', "before": f'"{revision - 1}"', "bare": BROKEN[0], "list": BROKEN[1]}
    return (headers | near).get(tag)
