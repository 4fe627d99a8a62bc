"""No key and no message reaches a log, whatever fails: canaries everywhere, then a look at all that was written."""

import asyncio
import contextlib
import json
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from app.db import embedded
from app.tests.harness import Chat, problem
from app.tests.process import DEADLINE, SERVE, Running, run

CANARY = "canary-7d1f"
KEY = f"{CANARY}-key"
EXAMPLE_KEY = "your-secret-api-key"
MESSAGE = {"sender": CANARY, "content": CANARY, "context": {CANARY: [CANARY]}, "metadata": {CANARY: CANARY}}


class Trouble:
    """A session of a running service, and a second connection to its database that makes its statements fail."""

    def __init__(self, client: Chat, admin: asyncpg.Connection, session: dict[str, Any]) -> None:
        self.client = client
        self.admin = admin
        self.session = session
        self.path = f"/chat/sessions/{session['id']}/messages"

    async def append(self, **other: Any) -> httpx.Response:
        return await self.client.post(self.path, json=MESSAGE | other)

    async def waiting_append(self) -> tuple["asyncio.Task[httpx.Response]", int]:
        """An append that waits for a lock, and the process of PostgreSQL that has it."""
        task = asyncio.create_task(self.append())
        async with asyncio.timeout(DEADLINE):
            while True:
                if pid := await self.admin.fetchval(WAITING):
                    return task, pid
                await asyncio.sleep(0.02)


WAITING = "SELECT pid FROM pg_locks WHERE NOT granted"  # pg_stat_activity stands still within a transaction


async def refused_requests(trouble: Trouble) -> None:
    client, path, of_session = trouble.client, trouble.path, trouble.path.removesuffix("/messages")
    taken = str(uuid.uuid4())
    assert (await trouble.append(id=taken)).status_code == 201
    json_body = {"Content-Type": "application/json"}
    problem(await client.post(path, content=f'{{"{CANARY}', headers=json_body), 400, "malformed_json")
    problem(await client.post(path, json=MESSAGE, headers={"If-Match": CANARY}), 400, "invalid_header")
    problem(await client.get("/health", headers={"X-API-Key": f"{CANARY}-wrong"}), 401, "unauthorized")
    outside = {"X-API-Key": EXAMPLE_KEY, "X-Forwarded-For": "8.8.8.8", "User-Agent": CANARY}
    problem(await client.get("/health", headers=outside), 403, "example_key")
    problem(await client.get(f"/{CANARY}%0d%0a{CANARY}?{CANARY}={CANARY}"), 404, "not_found")
    problem(await client.patch(path, json=MESSAGE), 405, "method_not_allowed")
    problem(await trouble.append(id=taken, content=f"{CANARY} too"), 409, "idempotency_conflict")
    problem(await client.post(path, json=MESSAGE, headers={"If-Match": '"99"'}), 412, "revision_mismatch")
    problem(await client.post(path, content=CANARY * 2000, headers=json_body), 413, "body_too_large")
    problem(await client.post(path, content=CANARY), 415, "unsupported_media_type")
    problem(await trouble.append(metadata=[CANARY]), 422, "validation_error")
    problem(await trouble.append(content=f"{CANARY}\0"), 422, "unstorable_text")
    problem(await client.put(of_session, json={CANARY: CANARY}), 422, "validation_error")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": CANARY}
    assert (await client.get(f"/{CANARY}?{CANARY}", headers=upgrade)).is_client_error
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(f"{CANARY} {CANARY} {CANARY}\r\n{CANARY}: {CANARY}\r\n\r\n".encode())
    assert b" 400 " in await reader.readline()
    writer.close()


async def failing_statements(trouble: Trouble) -> None:
    admin = trouble.admin
    await admin.execute("ALTER TABLE chat_messages RENAME TO elsewhere")
    problem(await trouble.append(), 500, "internal_error")
    await admin.execute("ALTER TABLE elsewhere RENAME TO chat_messages")
    await admin.execute("ALTER TABLE chat_messages ADD CONSTRAINT never CHECK (content = '') NOT VALID")
    problem(await trouble.append(), 500, "internal_error")  # with the whole row in its DETAIL
    await admin.execute("ALTER TABLE chat_messages DROP CONSTRAINT never")
    await admin.execute(FULL)
    problem(await trouble.append(), 507, "disk_full")
    await admin.execute("DROP FUNCTION full_disk CASCADE")


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full', DETAIL = NEW.content; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON chat_messages FOR EACH ROW EXECUTE FUNCTION full_disk();
"""


async def interrupted_statements(trouble: Trouble) -> None:
    admin = trouble.admin
    for end, code in (("pg_cancel_backend", "timeout"), ("pg_terminate_backend", "database_unavailable")):
        async with admin.transaction():
            await admin.execute("LOCK TABLE chat_messages IN ACCESS EXCLUSIVE MODE")
            append, pid = await trouble.waiting_append()
            await admin.fetchval(f"SELECT {end}($1)", pid)
            problem(await append, 503, code)
    ours = admin.transaction()
    await ours.start()
    await admin.execute(NEXT, uuid.UUID(trouble.session["id"]))
    append, _ = await trouble.waiting_append()
    with contextlib.suppress(asyncpg.DeadlockDetectedError):  # one of the two is its victim
        await admin.execute("UPDATE chat_sessions SET revision = revision")
    await ours.rollback()
    assert (await append).status_code in (201, 503)


NEXT = """
INSERT INTO chat_messages (session_id, seq, id, sender, content, metadata)
SELECT id, message_count + 1, gen_random_uuid(), 'x', 'x', '{}' FROM chat_sessions WHERE id = $1
"""


async def killed_database(trouble: Trouble) -> None:
    """Killing one process makes PostgreSQL end all others, and name the statement that it was running."""
    await trouble.admin.execute("BEGIN; LOCK TABLE chat_messages IN ACCESS EXCLUSIVE MODE")
    append, pid = await trouble.waiting_append()
    os.kill(pid, signal.SIGKILL)
    problem(await append, 503, "database_unavailable")


async def limited_requests(trouble: Trouble) -> None:
    while (response := await trouble.append()).status_code != 429:
        assert response.status_code in (201, 503)
    problem(response, 429, "rate_limited")


async def provoke(server: Running, data_dir: Path) -> None:
    database = await embedded.attach(data_dir, guest=True)
    admin = await asyncpg.connect(database.dsn)
    try:
        async with Chat(server.url, KEY) as client:
            session = await client.create(name=CANARY, user_id=CANARY, metadata={CANARY: CANARY})
            trouble = Trouble(client, admin, session)
            await refused_requests(trouble)
            await failing_statements(trouble)
            await interrupted_statements(trouble)
            await killed_database(trouble)
            await limited_requests(trouble)
    finally:
        admin.terminate()
        database.release()


async def test_no_key_and_no_message_reaches_a_log_whatever_fails(tmp_path: Path) -> None:
    settings = {
        "API_KEY": f"{KEY},{EXAMPLE_KEY}",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "LOG_FILE": "app.log",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
        "MAX_BODY_BYTES": "16384",
        "PYTHONASYNCIODEBUG": "1",
        "RATE_LIMIT": "60/minute",
    }
    async with run(*SERVE, cwd=tmp_path, **settings) as server:
        await server.ready()
        await provoke(server, tmp_path / "data")
    postgres = (tmp_path / "data/postgres.log").read_text()
    for expected in ("violates check constraint", "deadlock detected", "was terminated by signal 9", "STATEMENT:"):
        assert expected in postgres
    written = (tmp_path / "app.log").read_text()
    statuses = {json.loads(line).get("status") for line in written.splitlines()}
    assert statuses >= {201, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429, 500, 503, 507}
    assert not [line for line in server.output.splitlines() if CANARY in line or "Traceback" in line]
    assert CANARY not in written + postgres
