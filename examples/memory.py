"""The chatbot's memory: the sessions and messages of RAG Chat Storage, over HTTP."""

import email.utils
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

ATTEMPTS = 6
LONGEST_WAIT = 120.0  # seconds; whoever asks for more is down rather than busy
PAGE = 100
BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}

JSON = dict[str, Any]


class StorageError(Exception):
    """The service cannot be used. The text says why and what to do, in one line."""


class Memory:
    def __init__(self, url: str, key: str, announce: Callable[[str], None]) -> None:
        self._url = url
        self._announce = announce
        try:
            self._http = httpx.Client(base_url=url, headers={b"X-API-Key": key.encode()}, timeout=30.0)
        except httpx.InvalidURL as error:
            raise StorageError(f"{url} is not an address ({error}): set RAG_CHAT_URL") from None

    @classmethod
    def from_environment(cls, announce: Callable[[str], None]) -> Self:
        # The service takes several keys, so that they can be rotated, and may read the same .env: the first will do.
        keys = [key.strip() for key in os.environ.get("API_KEY", "").split(",") if key.strip()]
        if not keys:
            raise StorageError("API_KEY is not set: put the key of the service into the environment or into ./.env")
        return cls(os.environ.get("RAG_CHAT_URL") or "http://localhost:8000", keys[0], announce)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def create_session(self, name: str) -> JSON:
        return self._call("POST", "/chat/sessions", body={"id": str(uuid4()), "name": name})

    def session(self, session_id: str) -> JSON:
        return self._call("GET", f"/chat/sessions/{session_id}")

    def sessions(self, **filters: str) -> Iterator[JSON]:
        """All sessions, the last used first."""
        return self._pages("/chat/sessions", "sessions", filters)

    def update_session(self, session_id: str, **changes: Any) -> JSON:
        return self._call("PUT", f"/chat/sessions/{session_id}", body=changes)

    def delete_session(self, session_id: str) -> None:
        self._call("DELETE", f"/chat/sessions/{session_id}")

    def append(self, session_id: str, sender: str, content: str, context: JSON | None = None) -> JSON:
        body = {"id": str(uuid4()), "sender": sender, "content": content, "context": context}
        return self._call("POST", f"/chat/sessions/{session_id}/messages", body=body)

    def messages(self, session_id: str) -> Iterator[JSON]:
        """The whole conversation with its evidence, oldest first."""
        after = 0
        while True:
            query = {"after": str(after), "limit": str(PAGE)}
            page = self._call("GET", f"/chat/sessions/{session_id}/messages", query=query)
            yield from page["messages"]
            if not page["has_more"]:
                return
            after = page["messages"][-1]["seq"]

    def latest(self, session_id: str, count: int) -> list[JSON]:
        """The last messages, oldest first, without their evidence: it was retrieved for other questions."""
        query = {"order": "desc", "page_size": str(count), "context": "none"}
        page = self._call("GET", f"/chat/sessions/{session_id}/messages", query=query)
        return list(reversed(page["messages"]))

    def mark(self, document_id: str, status: str, reason: str | None) -> JSON:
        """Say of a source that it is withdrawn, or current again: of every answer that stood on it, past or future."""
        body = {"document_id": document_id, "status": status, "reason": reason}
        return self._call("PUT", "/chat/documents", body=body)

    def answers_from(self, document_id: str) -> Iterator[JSON]:
        """The answers that stood on a document, newest first, each with its uses of it; the texts are left out."""
        query = {"document_id": document_id, "context": "refs"}
        return self._pages("/chat/documents/messages", "messages", query)

    def _pages(self, path: str, name: str, filters: dict[str, str]) -> Iterator[JSON]:
        """What all pages of a cursor list hold under `name`."""
        query = {**filters, "limit": str(PAGE)}
        while True:
            page = self._call("GET", path, query=query)
            yield from page[name]
            if not page["next_cursor"]:
                return
            query["cursor"] = page["next_cursor"]

    def _call(self, method: str, path: str, *, body: JSON | None = None, query: dict[str, str] | None = None) -> JSON:
        """Repeats the call, unchanged, while the service is busy: the id in the body keeps a repeat from doubling."""
        manner = "the same id, so that nothing is stored twice" if body and "id" in body else "the same request"
        problem = ""
        for _ in range(ATTEMPTS):
            response = self._send(method, path, body, query)
            if response is not None and response.status_code not in BUSY:
                return _content(response)
            problem = "the answer got lost" if response is None else _explain(response)
            wait = 1.0 if response is None else _retry_after(response)
            if wait > LONGEST_WAIT:
                break
            self._announce(f"{problem}; trying again in {wait:.0f} s with {manner}")
            time.sleep(wait)
        raise StorageError(f"{problem}; not trying any longer")

    def _send(self, method: str, path: str, body: JSON | None, query: dict[str, str] | None) -> httpx.Response | None:
        """None: the request was sent, but its answer got lost, so it may or may not have been carried out."""
        try:
            return self._http.request(method, path, json=body, params=query)
        except (httpx.ReadError, httpx.WriteError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.RemoteProtocolError):
            return None
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise StorageError(f"cannot use {self._url} with this API_KEY: {error}") from None
        except httpx.TransportError as error:
            raise StorageError(
                f"cannot reach {self._url} ({error}): start the service with `python -m app serve`, or set RAG_CHAT_URL"
            ) from None


def _retry_after(response: httpx.Response) -> float:
    """Seconds to wait. Retry-After holds a number or a date; where it is missing, one second is polite."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 1.0


def _content(response: httpx.Response) -> JSON:
    if not response.is_success:
        raise StorageError(_explain(response))
    if response.status_code == HTTPStatus.NO_CONTENT:
        return {}
    if (content := _json_object(response)) is None:
        raise StorageError(f"{response.url.copy_with(path='/', query=None)} is not RAG Chat Storage: set RAG_CHAT_URL")
    return content


def _explain(response: httpx.Response) -> str:
    status = response.status_code
    problem = _json_object(response) or {}
    if status == HTTPStatus.UNAUTHORIZED:
        return f"the service refused the key ({status}): set API_KEY (environment or ./.env) to the one it runs with"
    if status == HTTPStatus.NOT_FOUND and problem:
        if response.request.url.path.startswith("/chat/documents"):
            return f"no answer stood on this document ({status})"
        return f"there is no such session ({status}): `python examples/rag_bot.py sessions` lists them"
    detail = str(problem.get("detail", "no reason given")).rstrip(".")
    return f"the service answered {status} {problem.get('code', response.reason_phrase)}: {detail}"


def _json_object(response: httpx.Response) -> JSON | None:
    try:
        value = response.json()
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
