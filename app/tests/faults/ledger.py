"""The ledger: what writers sent, what was acknowledged of it, and whether a database holds exactly that."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]


@dataclass
class Write:
    """One append or batch: the messages as they were sent, and as they were acknowledged, if they were.

    No two messages of a ledger have the same content, so that one that is doubled is seen whatever its id. Only what
    was redacted is known by its id.
    """

    sent: Sequence[Message]
    acknowledged: Sequence[Message] | None = None


@dataclass
class Account:
    """A session that was acknowledged, and every attempt to write to it."""

    session: Message
    writes: list[Write] = field(default_factory=list)
    erasures: int = 0
    """How many revisions came of erasing, or of writes of which nothing is left."""

    def messages(self) -> list[Message]:
        """All that was acknowledged, and not removed."""
        return [message for write in self.writes for message in write.acknowledged or ()]

    def redact(self, message_id: str) -> None:
        """Enter a redaction that was acknowledged."""
        for write in self.writes:
            write.acknowledged = [_tombstone(m) if m["id"] == message_id else m for m in write.acknowledged or ()]
        self.erasures += 1

    def rewind(self, after: int) -> None:
        """Enter a rewind that was acknowledged."""
        for write in self.writes:
            write.acknowledged = [message for message in write.acknowledged or () if message["seq"] <= after]
        left = [write for write in self.writes if write.acknowledged]
        self.erasures += 1 + len(self.writes) - len(left)
        self.writes = left


def _tombstone(message: Message) -> Message:
    left = {name: value for name, value in message.items() if name != "redacted_at"}
    gone: dict[str, Any] = {
        "content": "",
        "context": None,
        "metadata": {},
        "evidence_status": None,
        "evidence_documents": [],
    }
    return left | {name: value for name, value in gone.items() if name in left}


def _name(message: Message) -> str:
    return str(message["content"] or message["id"])


@dataclass
class Stored:
    """A session as it was found; of its messages, by seq, any number of fields, `content` among them."""

    session: Message
    messages: Sequence[Message]


@dataclass
class Verdict:
    """Counts of messages, and a sentence for every broken promise, counted or not."""

    acknowledged: int = 0
    unacknowledged: int = 0
    found: int = 0
    """How many of the unacknowledged are there all the same, as they may be."""
    lost: int = 0
    doubled: int = 0
    broken: list[str] = field(default_factory=list)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            self.acknowledged + other.acknowledged,
            self.unacknowledged + other.unacknowledged,
            self.found + other.found,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.broken + other.broken,
        )


def judge(account: Account, stored: Stored) -> Verdict:
    """Compare what was acknowledged in a session with what is there."""
    verdict = Verdict()
    rows = defaultdict(list)
    for message in stored.messages:
        rows[_name(message)].append(message)
    writes = 0
    for write in account.writes:
        expected = write.sent if write.acknowledged is None else write.acknowledged
        found = [rows.pop(_name(message), []) for message in expected]
        writes += any(found)
        _judge_write(expected, found, verdict, acknowledged=write.acknowledged is not None)
    verdict.broken += [f"nobody sent {name[:20].strip()!r}, or it was erased" for name in rows]
    seqs = [message["seq"] for message in stored.messages]
    if seqs != list(range(1, len(seqs) + 1)):
        verdict.broken.append(f"seq is not dense: {seqs}")
    session = {**account.session, "message_count": len(seqs), "revision": 1 + writes + account.erasures}
    verdict.broken += _differences(session, stored.session, ignored={"updated_at"})
    session_id = account.session["id"]
    verdict.broken = [f"session {session_id}: {sentence}" for sentence in verdict.broken]
    return verdict


def _judge_write(
    expected: Sequence[Message], found: Sequence[Sequence[Message]], verdict: Verdict, *, acknowledged: bool
) -> None:
    there = sum(1 for rows in found if rows)
    if acknowledged:
        verdict.acknowledged += len(expected)
    else:
        verdict.unacknowledged += len(expected)
        verdict.found += there
        if there not in (0, len(expected)):
            verdict.broken.append(f"{there} of a batch of {len(expected)} are there")
    for message, rows in zip(expected, found, strict=True):
        name = _name(message)[:20].strip()
        if acknowledged and not rows:
            verdict.lost += 1
            verdict.broken.append(f"{name!r} is lost")
        if len(rows) > 1:
            verdict.doubled += len(rows) - 1
            verdict.broken.append(f"{name!r} is there {len(rows)} times")
        for row in rows[:1]:
            verdict.broken += [f"{name!r}: {difference}" for difference in _differences(message, row)]


def _differences(expected: Message, found: Message, ignored: Iterable[str] = ()) -> list[str]:
    common = (expected.keys() & found.keys()) - set(ignored)
    return [
        f"{name} is {str(found[name])[:80]!r} and was {str(expected[name])[:80]!r}"
        for name in sorted(common)
        if found[name] != expected[name]
    ]


def strangers(accounts: Mapping[str, Account], sessions: Iterable[str]) -> list[str]:
    """A sentence for each session that is missing, there more than once, or of nobody."""
    there = Counter(sessions)
    return [
        f"session {session_id} is there {there[session_id]} times"
        for session_id in accounts.keys() | there.keys()
        if there[session_id] != (session_id in accounts)
    ]
