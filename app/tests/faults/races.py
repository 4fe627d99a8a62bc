"""Every kind of write to one session at once, and the check that they happened one after another.

Each change of a session answers with a revision of its own. Put in that order, the answers must be those of a
conversation to which they were made one by one, and the conversation read at the end must be its outcome.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from app.db.embedded import attach
from app.tests.faults import evidence
from app.tests.harness import Chat
from app.tests.process import SERVE, run

KINDS = {"append": 6, "batch": 2, "repeat": 2, "redact": 2, "rewind": 1, "rename": 1, "conditional": 1}
"""How often each is done, of 15."""

ROUNDS = 50
"""Sessions of one torture."""


@dataclass
class Write:
    """A write and its answer."""

    kind: str
    answer: httpx.Response
    sent: dict[str, Any] = field(default_factory=dict)

    @property
    def revision(self) -> int:
        return int(self.answer.headers["etag"].strip('"'))


class Race:
    """Clients that write to one session at a time of their own choosing."""

    def __init__(self, chat: Chat, chance: random.Random) -> None:
        self._chat = chat
        self._chance = chance
        self._known: list[dict[str, Any]] = []  # messages that were sent, acknowledged or not
        self.writes: list[Write] = []

    async def run(self, *, clients: int, each: int) -> dict[str, Any]:
        """The session as it is when all clients have made their writes, each message with evidence."""
        self._at = f"/chat/sessions/{(await self._chat.create())['id']}"

        async def client() -> None:
            for kind in self._chance.choices(list(KINDS), list(KINDS.values()), k=each):
                self.writes.append(await getattr(self, f"_{kind}")())

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        return dict((await self._chat.get(self._at)).json())

    def _message(self) -> dict[str, Any]:
        content = str(self._chance.random())
        context = evidence.context(self._chance, content)
        message = {"id": str(uuid4()), "sender": "user", "content": content, "context": context}
        self._known.append(message)
        return message

    async def _append(self, **headers: str) -> Write:
        message = self._message()
        answer = await self._chat.post(f"{self._at}/messages", json=message, headers=headers)
        return Write("append", answer, {"messages": [message]})

    async def _conditional(self) -> Write:
        tag = (await self._chat.get(self._at)).headers["etag"]
        return await self._append(**{"If-Match": tag})

    async def _batch(self) -> Write:
        messages = [self._message() for _ in range(self._chance.randint(2, 6))]
        answer = await self._chat.post(f"{self._at}/messages/batch", json={"messages": messages})
        return Write("batch", answer, {"messages": messages})

    async def _repeat(self) -> Write:
        if not self._known:
            return await self._append()
        message = self._chance.choice(self._known)
        return Write("append", await self._chat.post(f"{self._at}/messages", json=message), {"messages": [message]})

    async def _redact(self) -> Write:
        if not self._known:
            return await self._append()
        id_ = self._chance.choice(self._known)["id"]
        return Write("redact", await self._chat.delete(f"{self._at}/messages/{id_}"), {"id": id_})

    async def _rewind(self) -> Write:
        after = max(0, len(self._known) // 2 - self._chance.randint(0, 4))
        return Write(
            "rewind", await self._chat.delete(f"{self._at}/messages", params={"after": after}), {"after": after}
        )

    async def _rename(self) -> Write:
        name = str(self._chance.random())
        return Write("rename", await self._chat.put(self._at, json={"name": name}), {"name": name})

    async def history(self) -> list[dict[str, Any]]:
        """Every message of the session."""
        messages: list[dict[str, Any]] = []
        more = True
        while more:
            page = await self._chat.get(f"{self._at}/messages", params={"after": len(messages), "limit": 100})
            messages += page.json()["messages"]
            more = page.json()["has_more"]
        return messages


def verify(writes: list[Write], session: dict[str, Any], history: list[dict[str, Any]]) -> Counter[str]:
    """Raises AssertionError unless the writes happened one after another; how many of each kind changed something."""
    # 409: of a batch some messages are stored already, by a repeat that was faster.
    expected = {"append": {200, 201, 412}, "batch": {201, 409}, "redact": {204, 404}, "rewind": {200}, "rename": {200}}
    for write in writes:
        assert write.answer.status_code in expected[write.kind], write.answer.text
    by_revision: dict[int, list[Write]] = {}
    for write in writes:
        if "etag" in write.answer.headers:
            by_revision.setdefault(write.revision, []).append(write)
    replay = _Replay()
    for revision in range(1, session["revision"] + 1):
        replay.step(by_revision.get(revision, []), is_first=revision == 1)
    assert (session["name"], session["message_count"]) == (replay.name, len(replay.messages))
    told = [{name: message[name] for name in ("seq", "id", "content", "context")} for message in history]
    assert told == [_shown(seq, message) for seq, message in enumerate(replay.messages, 1)]
    return replay.changes


def _shown(seq: int, message: dict[str, Any]) -> dict[str, Any]:
    return {"seq": seq, **{name: message[name] for name in ("id", "content", "context")}}


class _Replay:
    """The conversation to which the writes are made one by one."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.messages: list[dict[str, Any]] = []
        self.changes = Counter[str]()

    def step(self, writes: list[Write], *, is_first: bool) -> None:
        """One revision: the write that made it, and those that were answered with it and changed nothing."""
        changes = [write for write in writes if self._is_change(write)]
        redacted = {write.sent["id"] for write in changes if write.kind == "redact"}
        others = [write for write in changes if write.kind != "redact"]
        assert len(redacted) + len(others) == (0 if is_first else 1), writes
        for write in [*others, *changes][:1]:
            getattr(self, f"_{write.kind}")(write)
            self.changes[write.kind] += 1
        for write in writes:
            if write not in others:
                self._check_unchanged(write)

    def _is_change(self, write: Write) -> bool:
        if write.kind == "redact":  # its answer does not tell the first from a repeat
            return any(m["id"] == write.sent["id"] and not m.get("redacted") for m in self.messages)
        if write.kind == "rewind":
            return bool(write.answer.json()["deleted"])
        return write.kind == "rename" or write.answer.status_code == 201

    def _append(self, write: Write) -> None:
        self._store(write, [write.answer.json()])

    def _batch(self, write: Write) -> None:
        self._store(write, write.answer.json()["messages"])

    def _store(self, write: Write, stored: list[dict[str, Any]]) -> None:
        assert [message["seq"] for message in stored] == [len(self.messages) + n + 1 for n in range(len(stored))]
        assert [message["id"] for message in stored] == [message["id"] for message in write.sent["messages"]]
        self.messages += [dict(message) for message in write.sent["messages"]]

    def _redact(self, write: Write) -> None:
        [message] = [message for message in self.messages if message["id"] == write.sent["id"]]
        message.update(content="", context=None, redacted=True)

    def _rewind(self, write: Write) -> None:
        answer = write.answer.json()
        assert answer["message_count"] == write.sent["after"]
        assert answer["deleted"] == len(self.messages) - write.sent["after"]
        del self.messages[write.sent["after"] :]

    def _rename(self, write: Write) -> None:
        self.name = write.sent["name"]

    def _check_unchanged(self, write: Write) -> None:
        if write.kind == "append":
            told = write.answer.json()
            here = self.messages[told["seq"] - 1]
            assert [here[name] for name in ("id", "content", "context")] == [
                told[name] for name in ("id", "content", "context")
            ]
        elif write.kind == "redact":
            assert [message["id"] for message in self.messages if message.get("redacted")].count(write.sent["id"]) == 1
        else:
            assert write.answer.json()["message_count"] == len(self.messages) <= write.sent["after"]


async def torture(place: Path, say: Callable[[str], None]) -> bool:
    """Writes of 16 clients to one session after another, over two workers; then the uses of what is left."""
    messages: list[dict[str, Any]] = []
    done, chance = Counter[str](), random.Random()  # noqa: S311 - chance, no secret
    database = await attach(place / "data")
    async with run(*SERVE, "--workers=2", cwd=place, DATABASE_URL=database.dsn) as server, server.client() as chat:
        await server.ready()
        for number in range(ROUNDS):
            race = Race(chat, chance)
            session = await race.run(clients=16, each=40)
            messages += (history := await race.history())
            done += verify(race.writes, session, history)
            say(f"{number + 1} of {ROUNDS} sessions: {done.total()} changes")
        broken = await evidence.unlisted(chat, evidence.SHARED, messages)
        broken += await evidence.audit(database.dsn)
    database.release()
    say(f"races: {dict(done)}, each at its own revision, every conversation as if written one by one")
    say(f"uses of {len(messages)} messages: {broken[:5] or 'each there once, and no other'}")
    return not broken
