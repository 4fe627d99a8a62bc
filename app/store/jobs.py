"""Jobs: background work that one instance of the service does at a time, and another goes on with.

What a job does and how far it is are committed together, so that it goes on where it was after any crash.
"""

from typing import Any

import orjson
from sqlalchemy import text

from app.db.pool import Read, Write

IS_DUE = "SELECT EXISTS (SELECT FROM jobs WHERE name = :name AND next_at <= now())"

# Who finds it locked leaves it to the other.
TAKE = "SELECT state::text FROM jobs WHERE name = :name AND next_at <= now() FOR UPDATE SKIP LOCKED"

SAVE = """
UPDATE jobs SET state = CAST(:state AS json), next_at = now() + make_interval(secs => CAST(:seconds AS float8))
WHERE name = :name
"""

State = dict[str, Any]


async def is_due(conn: Read, name: str) -> bool:
    """Whether it is time for the job. A standby can tell, which can do none."""
    return bool((await conn.execute(text(IS_DUE), {"name": name})).scalar_one())


async def take(conn: Write, name: str) -> State | None:
    """How far the job is, and nobody else's until the transaction ends; None if it is not its time."""
    state = (await conn.execute(text(TAKE), {"name": name})).scalar_one_or_none()
    return None if state is None else orjson.loads(state)


async def save(conn: Write, name: str, state: State, seconds: float | None) -> None:
    """Go on from `state` in so many seconds; None: the job is done."""
    await conn.execute(text(SAVE), {"name": name, "state": orjson.dumps(state).decode(), "seconds": seconds})
