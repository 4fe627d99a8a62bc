"""What was acknowledged is there, once, whatever was killed; and the ledger that says so can tell."""

import copy
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.tests.faults.crashes import Crashes, torture
from app.tests.faults.ledger import Account, Stored, Verdict, Write, judge, strangers
from app.tests.faults.stand import VICTIMS

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
async def test_nothing_acknowledged_is_lost_or_doubled_when_any_of_the_processes_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    held = await torture(tmp_path, said.append, rounds=len(VICTIMS))
    assert held, "\n".join(said)
    assert [line.split()[0] for line in said if "    1 rounds" in line] == list(VICTIMS)
    assert ", 0 lost, 0 doubled, " in said[-1]


@linux
async def test_a_database_that_takes_back_what_it_committed_is_noticed(tmp_path: Path) -> None:
    """Messages, and texts of others, go with the commit that stored them, after their row was returned."""
    crashes = Crashes(tmp_path, secrets.randbelow(10**6))
    await crashes.start()
    try:
        async with crashes.stand.sql() as connection:
            await connection.execute(TAKE_BACK)
        await crashes.round("backend")
        verdict = await crashes.audit()
    finally:
        await crashes.stand.stop()
    assert verdict.lost > 0, verdict
    assert any("is lost" in sentence for sentence in verdict.broken)


TAKE_BACK = """
CREATE FUNCTION take_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM evidence e USING chat_messages m
    WHERE m.session_id = new.session_id AND m.seq = new.seq AND e.id = ANY (m.context_refs) AND new.seq % 20 = 0;
    DELETE FROM chat_messages WHERE session_id = new.session_id AND seq = new.seq AND seq % 20 = 10;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER take_back AFTER INSERT ON chat_messages
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.seq % 10 = 0) EXECUTE FUNCTION take_back();
"""


def message(seq: int, content: str) -> dict[str, Any]:
    return {"id": f"id-{content}", "seq": seq, "content": content, "metadata": {"n": seq}}


A, B, C, D = (message(number, content) for number, content in enumerate("abcd", 1))
SESSION = {"id": "s", "name": "n", "message_count": 0, "revision": 1}


def ledger() -> Account:
    """Two appends and a batch that were acknowledged, an append and a batch that were not."""
    unsure = [{"content": content, "metadata": {}} for content in "xyz"]
    return Account(
        SESSION, [*(Write([m], [m]) for m in (A, B)), Write([C, D], [C, D]), Write(unsure[:1]), Write(unsure[1:])]
    )


def stored() -> Stored:
    return Stored({**SESSION, "message_count": 4, "revision": 4}, copy.deepcopy([A, B, C, D]))


def more(found: Stored, *contents: str, revision: int) -> None:
    for content in contents:
        seq = len(found.messages) + 1
        found.messages = [*found.messages, {"id": content, "seq": seq, "content": content, "metadata": {}}]
    found.session = {**found.session, "message_count": len(found.messages), "revision": revision}


def without(found: Stored, seq: int) -> None:
    found.messages = [m for m in found.messages if m["seq"] != seq]


def changed(found: Stored, **fields: Any) -> None:
    found.messages = [{**found.messages[0], **fields}, *found.messages[1:]]


@pytest.mark.parametrize(
    ("unsure", "revision", "there"), [("", 4, 0), ("x", 5, 1), ("yz", 5, 2), ("xyz", 6, 3), ("yzx", 6, 3)]
)
def test_what_was_not_acknowledged_may_be_there_or_not(unsure: str, revision: int, there: int) -> None:
    found = stored()
    more(found, *unsure, revision=revision)
    assert judge(ledger(), found) == Verdict(acknowledged=4, unacknowledged=3, found=there)


@pytest.mark.parametrize(
    ("damage", "sentence", "counts"),
    [
        (lambda found: without(found, 4), "'d' is lost", (1, 0)),
        (lambda found: without(found, 2), "seq is not dense", (1, 0)),
        (lambda found: more(found, "a", revision=4), "'a' is there 2 times", (0, 1)),
        (lambda found: more(found, "x", "x", revision=5), "'x' is there 2 times", (0, 1)),
        (lambda found: more(found, "y", revision=5), "1 of a batch of 2 are there", (0, 0)),
        (lambda found: more(found, "q", revision=5), "nobody sent 'q'", (0, 0)),
        (lambda found: changed(found, id="other"), "'a': id is 'other'", (0, 0)),
        (lambda found: changed(found, seq=5), "'a': seq is '5'", (0, 0)),
        (lambda found: changed(found, metadata={}), "'a': metadata is", (0, 0)),
        (lambda found: more(found, "x", revision=4), "revision is '4' and was '5'", (0, 0)),
        (lambda found: found.session.update(message_count=5), "message_count is '5' and was '4'", (0, 0)),
        (lambda found: found.session.update(name="m"), "name is 'm'", (0, 0)),
    ],
)
def test_every_kind_of_damage_is_noticed(
    damage: Callable[[Stored], None], sentence: str, counts: tuple[int, int]
) -> None:
    found = stored()
    damage(found)
    verdict = judge(ledger(), found)
    assert (verdict.lost, verdict.doubled) == counts
    assert any(sentence in broken for broken in verdict.broken), verdict


def test_what_was_erased_may_not_be_there_and_the_rest_must() -> None:
    account = ledger()
    account.writes = account.writes[:3]
    account.redact(B["id"])
    account.rewind(3)
    account.rewind(2)
    erased = Stored({**SESSION, "message_count": 2, "revision": 7}, [A, {**B, "content": "", "metadata": {}}])
    assert judge(account, erased) == Verdict(acknowledged=2)
    for found in (stored(), Stored(erased.session, [A, B]), Stored(erased.session, [A])):
        assert judge(account, found).broken


@pytest.mark.parametrize("there", [["s", "s"], [], ["s", "t"]])
def test_a_session_too_many_or_too_few_is_noticed(there: list[str]) -> None:
    assert strangers({"s": ledger()}, ["s"]) == []
    assert len(strangers({"s": ledger()}, there)) == 1
