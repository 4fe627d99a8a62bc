"""What is asked of a service, as the same requests for every one of them.

Append: 1 KB of content and a context of 5 chunks of about 600 characters, Zipf over 20,000, to one of 1,000 sessions.
Page: 50 messages of a session of 200. List: 20 sessions of a user with 500. Mixed: 70 % page, 25 % append, 5 % list.
What tells a session's length or a store's size from another has no contexts.
"""

import random
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from evidence_workload import Workload

APPENDED, PAGED, LENGTH, LISTED = 1_000, 50, 200, 500
"""Sessions to append to, sessions to read, their messages, and the sessions of the user who lists them."""

USER = "lists"
KINDS = 500  # different requests of a workload: enough that nothing is answered from a cache of one
KINDS_OF_A_STORE = 10_000  # enough to get to every session of the largest one


class Request(NamedTuple):
    """One HTTP request; the path has no host."""

    method: str
    path: str
    body: bytes = b""


def session_id(number: int) -> UUID:
    """The session of this number: sessions to append to, then those to read, then those of USER."""
    return UUID(f"01930000-0000-7000-8000-{number:012x}")


def of_length(length: int) -> range:
    """Numbers of the sessions of so many messages: 500, or fewer once they have 50,000 messages together."""
    first = length * 1_000  # behind all others
    return range(first, first + min(500, max(1, 50_000 // length)))


def in_store(messages: int) -> range:
    """Numbers of the sessions of a store of so many messages, LENGTH in each."""
    return range(messages // LENGTH)


class Requests:
    """The same requests each time it is made."""

    def __init__(self) -> None:
        self.dice = random.Random(11)  # noqa: S311 - repeatable, no secret
        self._made = Workload(self.dice)
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._made.chunks) + 1)))
        self._chunks = [{**chunk, "text": chunk["text"][:600]} for chunk in self._made.chunks]

    def message(self) -> dict[str, Any]:
        """An answer that stands on 5 chunks."""
        chunks = self.dice.choices(self._chunks, cum_weights=self._weights, k=5)
        documents = [
            {**chunk, "score": round(self.dice.random(), 4), "rank": rank} for rank, chunk in enumerate(chunks, 1)
        ]
        content = self._content()
        return {"sender": "assistant", "content": content, "context": {"query": content[:80], "documents": documents}}

    def _content(self) -> str:
        content: str = self._made.answer()["content"]
        return (content * 3)[:1024]

    def append(self) -> Request:
        number = self.dice.randrange(APPENDED)
        return Request("POST", f"/chat/sessions/{session_id(number)}/messages", orjson.dumps(self.message()))

    def page(self, context: str = "full") -> Request:
        number = APPENDED + self.dice.randrange(PAGED)
        return _page(number, self.dice.randrange(LENGTH // 50) + 1, context)

    def session(self) -> Request:
        return Request("GET", f"/chat/sessions/{session_id(self.dice.randrange(APPENDED))}")

    def sessions(self) -> Request:
        return Request("GET", f"/chat/sessions?user_id={USER}&limit=20")

    def create(self) -> Request:
        return Request("POST", "/chat/sessions", orjson.dumps({"user_id": "creates", "name": "A conversation"}))

    def mixed(self) -> Request:
        [kind] = self.dice.choices([self.page, self.append, self.sessions], [70, 25, 5])
        return kind()

    def appends_by_length(self, length: int) -> list[Request]:
        """1 KB to each session of this length in turn, so that short ones stay short."""
        numbers = of_length(length)
        return [_append(numbers[at % len(numbers)], self._content()) for at in range(KINDS)]

    def appends_in_store(self, messages: int) -> list[Request]:
        return [_append(self.dice.choice(in_store(messages)), _SHORT) for _ in range(KINDS_OF_A_STORE)]

    def pages_in_store(self, messages: int) -> list[Request]:
        numbers, pages = in_store(messages), range(1, LENGTH // 50 + 1)
        return [_page(self.dice.choice(numbers), self.dice.choice(pages)) for _ in range(KINDS_OF_A_STORE)]

    def of(self, kind: Callable[[], Request]) -> list[Request]:
        return [kind() for _ in range(KINDS)]

    def conversations(self) -> Iterator[tuple[UUID, list[dict[str, Any]]]]:
        """The sessions to read and their messages, question and answer in turn."""
        for number in range(PAGED):
            messages = [self.message() if at % 2 else self._made.question() for at in range(LENGTH)]
            yield session_id(APPENDED + number), messages


_SHORT = "0123456789" * 10


def deep(length: int, page: int) -> Request:
    """A page of a session of this length."""
    return _page(of_length(length)[0], page)


def _append(number: int, content: str) -> Request:
    body = orjson.dumps({"sender": "user", "content": content})
    return Request("POST", f"/chat/sessions/{session_id(number)}/messages", body)


def _page(number: int, page: int, context: str = "full") -> Request:
    path = f"/chat/sessions/{session_id(number)}/messages"
    return Request("GET", f"{path}?page={page}&page_size=50&context={context}")
