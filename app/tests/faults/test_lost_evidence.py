"""Evidence that the database has lost: a failover to a copy that is behind, and a text that somebody deleted."""

import pytest

from app.db.pool import Database
from app.tests.faults.servers import MISSING, server
from app.tests.harness import KEY, Chat, Service, settings


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
async def test_what_is_known_of_one_server_is_not_believed_of_the_next() -> None:
    """The copy lacks what was stored last, and gives its ids to other texts."""
    first, second, third = ({"document_id": f"d{n}", "text": f"text {n}"} for n in range(3))
    async with server() as primary, server() as behind:
        behind.port = primary.port
        await primary.make()
        await primary.start()
        chosen = settings(database_url=f"postgresql://postgres@{primary.host}/postgres", run_migrations=True)
        async with Service.running(chosen) as service, Chat(service.url, KEY) as chat:
            session = await chat.create()
            await behind.copy(primary)
            (behind.data / "standby.signal").unlink()
            for _ in range(2):
                await chat.answer(session, first)
                await chat.answer(session, second)
            await primary.end()
            await behind.start()
            after = [await chat.answer(session, one) for one in (second, third, first, third, second)]
            read = (await chat.messages(session))["messages"]
    assert read == after
    assert [message["context"]["documents"][0] for message in read] == [second, third, first, third, second]


async def test_a_text_that_is_gone_fails_no_page(chat: Chat, db: Database, database_url: str) -> None:
    session = await chat.create()
    await chat.answer(session, {"document_id": "d", "text": "gone", "score": 0.5}, {"document_id": "e", "text": "kept"})
    async with db.driver() as conn:
        await conn.execute("DELETE FROM evidence WHERE body->>'text' = 'gone' AND tenant_id = $1", chat.tenant_id)
    async with Service.running(settings(database_url=database_url)) as service:
        service.state.keyring.add(chat.key, chat.tenant_id)
        async with Chat(service.url, chat.key) as other:
            [message] = (await other.messages(session))["messages"]
    assert message["context"]["documents"] == [{"score": 0.5}, {"document_id": "e", "text": "kept"}]
