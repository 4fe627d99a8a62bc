"""A list of sessions, read page by page while it changes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from app.tests.faults.model_sessions import Sessions, Who, is_listed
from app.tests.harness import problem


class Walk:
    """One caller's way through one list with its filters."""

    def __init__(self, model: Sessions, who: Who, query: dict[str, Any]) -> None:
        self._model = model
        self._who = who
        self._query = query
        self._there = {
            id_: session.revision for id_, session in model.sessions.items() if is_listed(session, who, query)
        }
        self._met: Counter[str] = Counter()
        self._cursor: str | None = None
        self._position: tuple[str, str] | None = None
        self.is_over = False

    def step(self, call: Callable[..., httpx.Response]) -> None:
        """The next page."""
        query = self._query | ({"cursor": self._cursor} if self._cursor else {})
        got = call("GET", "", self._who, params=query)
        self._position = self._model.page(self._who, self._query, self._position, got)
        self._cursor = got.json()["next_cursor"]
        self._met.update(session["id"] for session in got.json()["sessions"])
        self.is_over = self._cursor is None
        if self.is_over:
            self._nothing_was_missed()

    def _nothing_was_missed(self) -> None:
        """Every session that nobody touched was met once; one that was touched moved to the front, so once at most."""
        for id_, revision in self._there.items():
            now = self._model.sessions.get(id_)
            assert self._met[id_] == 1 or now is None or now.revision != revision, id_
        assert not [id_ for id_, times in self._met.items() if times > 1]

    def misuse(self, call: Callable[..., httpx.Response], how: str, other_key: str) -> None:
        """The cursor with another tenant, guard or filter, or cut by one: no position there."""
        cursor = self._cursor or ""
        who, query = self._who, {**self._query, "cursor": cursor}
        if how == "stranger":
            who = Who(other_key, who.user)
        elif how == "guarded":
            who = Who(who.key, "eve")
        elif how == "filtered":
            query["name"] = query.get("name", "") + "x"
        else:
            query["cursor"] = cursor[:-1]
        problem(call("GET", "", who, params=query), 422, "invalid_cursor", "cursor")
