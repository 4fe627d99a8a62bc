"""Roles that may use the tables and not make them, and schemas of another release."""

import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from app.db import migrate
from app.db.start import start
from app.errors import Refused
from app.store import backfill, sweep
from app.tests.db.postgres import PASSWORD, Postgres, needs_postgres, postgres
from app.tests.harness import KEY, Chat, Service, settings
from app.tests.process import ROOT

pytestmark = needs_postgres

GRANTS = [
    line.replace("rag_chat_app", "app")
    for line in (ROOT / "docs/operations/deploy.md").read_text().splitlines()
    if line.startswith("GRANT ")
]
OF_THE_RELEASE_BEFORE = (
    "GRANT SELECT ON tenants, alembic_version TO app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON chat_sessions, chat_messages TO app",
)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        for role in ("owner", "app"):
            await running.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        yield running


@pytest.fixture
async def owned(server: Postgres) -> AsyncIterator[Postgres]:
    """A server with a database of the role `owner`, which another role, `app`, may connect to."""
    await server.execute("CREATE DATABASE rag_chat OWNER owner")
    yield server
    await server.execute("DROP DATABASE rag_chat WITH (FORCE)")


async def migrated(server: Postgres, user: str) -> None:
    async with start(settings(database_url=server.url("rag_chat", user))) as database:
        await migrate.upgrade(database)


@pytest.mark.parametrize("run_migrations", [False, True])
async def test_a_role_with_the_documented_grants_serves_everything(owned: Postgres, run_migrations: bool) -> None:
    await migrated(owned, "owner")
    await owned.execute(*GRANTS, database="rag_chat")
    chosen = settings(database_url=owned.url("rag_chat", "app"), run_migrations=run_migrations)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        session = await client.create(name="granted")
        path = f"/chat/sessions/{session['id']}"
        message = await client.append(session, context=[{"document_id": "a.md", "text": "granted"}])
        assert (await client.put(path, json={"name": "renamed"})).status_code == 200
        assert (await client.messages(session))["messages"] == [message]
        assert (await client.get(f"{path}/messages/{message['id']}")).status_code == 200
        assert len((await client.sessions(name="renamed"))["sessions"]) == 1
        assert (await client.put("/chat/documents", json={"document_id": "a.md", "status": "withdrawn"})).is_success
        assert (await client.get("/chat/documents/messages?document_id=a.md")).json()["messages"][0]["uses"]
        assert (await client.delete(path)).status_code == 204
        await owned.execute("UPDATE jobs SET next_at = '-infinity'", database="rag_chat")
        evidence = service.state.evidence
        await backfill.batch(service.db, evidence)
        async with service.db.write() as conn:
            await sweep.batch(conn, 3600)
            await evidence.counts.write(conn, evidence.counts.take())


@pytest.mark.parametrize("run_migrations", [False, True])
@pytest.mark.parametrize("granted", [(), OF_THE_RELEASE_BEFORE], ids=["nothing", "what an older release needs"])
async def test_a_role_without_grants_is_told_them(
    owned: Postgres, granted: Sequence[str], run_migrations: bool
) -> None:
    await migrated(owned, "owner")
    await owned.execute(*granted, database="rag_chat")
    async with start(settings(database_url=owned.url("rag_chat", "app"))) as database:
        with pytest.raises(Refused, match="as their owner run  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"):
            await (migrate.upgrade if run_migrations else migrate.check)(database)


@pytest.mark.parametrize("schema", ["absent", "older"])
async def test_without_migrations_an_old_schema_is_refused_in_one_line(owned: Postgres, schema: str) -> None:
    if schema == "older":  # of a release before the first one that there was
        await migrated(owned, "owner")
        await owned.execute("DELETE FROM alembic_version", database="rag_chat")
    async with start(settings(database_url=owned.url("rag_chat", "owner"))) as database:
        with pytest.raises(Refused, match="python -m app migrate") as refused:
            await migrate.check(database)
    assert "\n" not in str(refused.value)


async def test_without_migrations_a_newer_schema_is_served_with_a_warning(
    owned: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    await migrated(owned, "owner")
    await owned.execute("UPDATE alembic_version SET version_num = '29990101_0000'", database="rag_chat")
    with caplog.at_level(logging.WARNING, logger="app"):
        async with start(settings(database_url=owned.url("rag_chat", "owner"))) as database:
            await migrate.check(database)
    assert "made by a newer release (29990101_0000)" in caplog.text
