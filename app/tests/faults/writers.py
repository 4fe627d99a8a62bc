"""Writers: clients that append without pause, enter what they were told into a ledger, and repeat what they may."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from app.tests.faults import evidence
from app.tests.faults.ledger import Account, Write
from app.tests.faults.line import Body, Line

WAYS = ("plain", "id", "key", "newcomer key", "plain batch", "id batch", "key batch", "eraser key batch")
"""How each of the writers of a round works; all but the plain ones repeat what was not acknowledged."""

NO_HEADERS: Mapping[str, str] = {}
FEW = 12  # messages in the largest batch; an eraser erases only where there are more
PAUSE = 0.1  # seconds between a failure and the next attempt


class Broken(Exception):  # noqa: N818 - a promise, entered in `Crowd.broken`
    """The answer is neither of those that a client has to expect: it gives up."""


class Crowd:
    """The writers of a ledger, and what they have in common."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.lines: list[Line] = []
        self.shared: Sequence[str] = evidence.SHARED
        """Documents that many messages stand on."""
        self.url = ""
        """Of the server; meaningless unless `up` is set."""
        self.up = asyncio.Event()
        self.may_hang_up = False
        """Whether the server has been killed, so that a connection may end without an answer."""
        self.outcomes: Counter[str] = Counter()
        self.broken: list[str] = []

    async def send(
        self, line: Line, method: str, path: str, body: Body, headers: Mapping[str, str], done: Collection[int]
    ) -> dict[str, Any] | None:
        """The answer if its status is one of `done`; None, after a pause, for no answer or a 503. Raises Broken."""
        await self.up.wait()
        try:
            answer = await line.request(self.url, method, path, body, headers)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            self.outcomes["no answer"] += 1
            if not self.may_hang_up or isinstance(error, TimeoutError):
                self.broken.append(f"{method} {path} was not answered, though the server lives: {error!r}")
        else:
            self.outcomes[str(answer.status)] += 1
            if answer.status in done:
                return answer.body
            if answer.status != 503 or not answer.may_be_repeated:
                self.broken.append(f"{method} {path} was answered {answer.status}: {str(answer.body)[:200]}")
                raise Broken
        await asyncio.sleep(PAUSE)
        return None


class Writer:
    """One client: `run` it until it has been served after the outage."""

    def __init__(self, crowd: Crowd, name: str, way: str, rng: random.Random, sessions: Sequence[Account]) -> None:
        self._crowd = crowd
        self._name = name
        self._way = set(way.split())
        self._rng = rng
        self._sessions = sessions
        self._own: Account | None = None
        self._sent = 0
        self._line = Line()
        self.served = asyncio.Event()

    async def run(self, over: asyncio.Event) -> None:
        """Write until a write that was begun after the end of the outage is acknowledged, and none is left open."""
        self._crowd.lines.append(self._line)
        try:
            while True:
                last = over.is_set()
                if await self._write():
                    self.served.set()
                    if last:
                        return
        except Broken:
            self.served.set()  # nobody has to wait for it
        finally:
            self._crowd.lines.remove(self._line)
            self._line.close()

    async def _write(self) -> bool:
        if "newcomer" in self._way:
            if self._own is None or self._rng.random() < 0.2:
                self._own = await self._new_session()
            return await self._append(self._own)
        if "eraser" in self._way:
            self._own = self._own or await self._new_session()
            if len(self._own.messages()) > FEW and self._rng.random() < 0.5:
                return await self._erase(self._own)
            return await self._append(self._own)
        return await self._append(self._rng.choice(self._sessions))

    async def _new_session(self) -> Account:
        self._sent += 1
        key = {"Idempotency-Key": f"{self._name}-{self._sent}"}
        session = await self._until_done("POST", "/chat/sessions", {"name": self._name}, key)
        account = self._crowd.accounts[session["id"]] = Account(session)
        return account

    async def _append(self, account: Account) -> bool:
        batch = "batch" in self._way
        sent = [self._message() for _ in range(self._rng.randint(1, FEW) if batch else 1)]
        account.writes.append(write := Write(sent))
        path, body = f"/chat/sessions/{account.session['id']}/messages", sent[0]
        if batch:
            path, body = f"{path}/batch", {"messages": sent}
        headers = {"Idempotency-Key": sent[0]["content"].split()[0]} if "key" in self._way else {}
        if "plain" in self._way:
            answer = await self._crowd.send(self._line, "POST", path, body, headers, (201,))
        else:
            answer = await self._until_done("POST", path, body, headers)
        if answer is None:
            return False
        write.acknowledged = answer["messages"] if batch else [answer]
        self._crowd.broken += [
            f"{message['content'][:20]!r} was acknowledged with another {name}"
            for message, stored in zip(sent, write.acknowledged, strict=True)
            for name in message
            if stored[name] != message[name]
        ]
        return True

    async def _erase(self, account: Account) -> bool:
        """Redact a message, rewind or delete the session, of which this is the only writer."""
        path, messages = f"/chat/sessions/{account.session['id']}", account.messages()
        readable = [message["id"] for message in messages if message["content"]]
        way = self._rng.random()
        if way < 0.5 and readable:
            message_id = self._rng.choice(readable)
            await self._until_done("DELETE", f"{path}/messages/{message_id}", done=(204,))
            account.redact(message_id)
        elif way < 0.9:
            after = self._rng.randrange(len(messages))
            await self._until_done("DELETE", f"{path}/messages?after={after}", done=(200,))
            account.rewind(after)
        else:
            await self._until_done("DELETE", path, done=(204, 404))  # 404 where the first went unanswered
            del self._crowd.accounts[account.session["id"]]
            self._own = None
        return True

    async def _until_done(
        self,
        method: str,
        path: str,
        body: Body = None,
        headers: Mapping[str, str] = NO_HEADERS,
        done: Collection[int] = (200, 201),
    ) -> dict[str, Any]:
        while (answer := await self._crowd.send(self._line, method, path, body, headers, done)) is None:
            pass
        return answer

    def _message(self) -> dict[str, Any]:
        self._sent += 1
        rng = self._rng
        name = f"{self._name}-{self._sent}"
        message: dict[str, Any] = {
            "sender": rng.choice(("user", "assistant")),
            "content": f"{name:20}" + "x" * rng.randrange(2_000),
            "context": evidence.context(rng, name, self._crowd.shared),
            "metadata": {"n": self._sent},
        }
        if "id" in self._way:
            message["id"] = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        return message
