"""The same conversations in the database of every server."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
from load import KEY
from workloads import APPENDED, LENGTH, LISTED, PAGED, USER, Requests, session_id

CLIENTS = 4
START = datetime(2026, 1, 1, 0, 0, 0, 137, tzinfo=UTC)


def sessions() -> list[dict[str, Any]]:
    """The sessions of all workloads, in the order of their numbers."""
    users = ["appends"] * APPENDED + ["reads"] * PAGED + [USER] * LISTED
    return [{"id": str(session_id(number)), "user_id": user} for number, user in enumerate(users)]


def over_http(url: str) -> None:
    """Fill the service as a client would."""
    batches = (
        (f"{url}/chat/sessions/{id_}/messages/batch?context=none", {"messages": messages})
        for id_, messages in Requests().conversations()
    )
    with ThreadPoolExecutor(CLIENTS) as pool:
        for posted in ([(f"{url}/chat/sessions", session) for session in sessions()], batches):
            list(pool.map(lambda one: _post(*one), posted))


def _post(url: str, value: dict[str, Any]) -> None:
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    request = urllib.request.Request(url, orjson.dumps(value), headers)  # noqa: S310 - of this machine
    urllib.request.urlopen(request).close()  # noqa: S310


_MESSAGE = ("session_id", "id", "sender", "content", "context", "metadata", "created_at")


async def plain(url: str) -> None:
    """Fill the service's tables with a plain column for the context."""
    columns = ("id", "user_id", "tenant_id", "is_favorite", "metadata", "message_count", "revision")
    rows = [(one["id"], one["user_id"], 1, False, "{}", LENGTH * (one["user_id"] == "reads"), 1) for one in sessions()]
    await _copy(url, "chat_sessions", columns, rows, "chat_messages", (*_MESSAGE, "seq"), _messages())


async def orm(url: str) -> None:
    """Fill the tables of the ORM service."""
    columns = ("id", "user_id", "is_favorite", "created_at", "updated_at")
    times = [START + timedelta(seconds=number) for number in range(len(sessions()))]
    rows = [(one["id"], one["user_id"], False, at, at) for one, at in zip(sessions(), times, strict=True)]
    await _copy(url, "orm_sessions", columns, rows, "orm_messages", _MESSAGE, [row[:-1] for row in _messages()])


def _messages() -> list[tuple[Any, ...]]:
    return [
        (
            id_,
            uuid4(),
            one["sender"],
            one["content"],
            _text(one.get("context")),
            "{}",
            START + timedelta(seconds=seq),
            seq,
        )
        for id_, told in Requests().conversations()
        for seq, one in enumerate(told, start=1)
    ]


async def _copy(
    url: str,
    sessions_table: str,
    sessions_columns: tuple[str, ...],
    begun: list[tuple[Any, ...]],
    messages_table: str,
    messages_columns: tuple[str, ...],
    told: list[tuple[Any, ...]],
) -> None:
    connection = await asyncpg.connect(url)
    await connection.copy_records_to_table(sessions_table, columns=sessions_columns, records=begun)
    await connection.copy_records_to_table(messages_table, columns=messages_columns, records=told)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def _text(context: Any) -> str | None:
    return None if context is None else orjson.dumps(context).decode()
