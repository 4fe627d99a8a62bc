"""What the search for the answers of a document reads."""

from app.db.pool import Database
from app.evidence import document_ref
from app.store.uses import EVER, NEWEST, USES
from app.tests.harness import Chat


async def test_a_search_that_asks_nothing_of_contexts_reads_none(chat: Chat, db: Database) -> None:
    await chat.answer(await chat.create(), {"document_id": "without a text"}, {"text": "split"})
    document = document_ref(chat.tenant_id, "without a text")
    async with db.driver() as conn:
        for reads in (True, False):
            search = (None, chat.tenant_id, None, reads, document, EVER, None, *NEWEST, 1000)
            [row] = await conn.fetch(USES, *search)
            assert (row["matches"], tuple(row)[6] is not None) == (True, reads)
