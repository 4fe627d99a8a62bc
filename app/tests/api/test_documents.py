"""The list of documents that answers stood on: its order, its filters, a walk through it, and the ids it takes."""

import re
from typing import Any

import pytest

from app.db.pool import Database
from app.models import EXAMPLES
from app.tests.harness import Chat, problem

CURSOR = re.compile("[A-Za-z0-9_-]+")
GLASS = "\U0001f378"
IDS = [
    *("R\u00e9sum\u00e9.pdf", "Re\u0301sume\u0301.pdf"),  # in NFC and in NFD
    *("folder/file.md", "folder%2Ffile.md", "folder%252Ffile.md", "https://kb.example.org/a?b=1#c", "a/b/messages"),
    *("messages", "..", "../..", ".", "/", "//a", "a b", "a+b", "a%20b", "a&b=c", "a;b", " ", "%", "\\", '"', "\n"),
    *("HR", "hr", GLASS * 2_048, "\x7f", "\u202e", "null", "0"),
]


async def ids(chat: Chat, **query: Any) -> list[str]:
    return [document["document_id"] for document in (await chat.documents(**query))["documents"]]


async def walk(chat: Chat, **query: Any) -> list[str]:
    """The ids on all pages."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await chat.documents(**query, **({"cursor": cursor} if cursor else {}))
        found += [document["document_id"] for document in page["documents"]]
        cursor = page["next_cursor"]
        assert cursor is None or CURSOR.fullmatch(cursor)
    return found


async def used(chat: Chat, *documents: str, second: int = 0) -> None:
    """An answer on these documents, given at this second."""
    time = f"2026-03-01T12:00:{second:02}Z"
    await chat.answer(await chat.create(), *({"document_id": one} for one in documents), created_at=time)


async def test_a_document_is_listed_with_its_first_use_and_whole(chat: Chat) -> None:
    assert await chat.documents() == {"documents": [], "next_cursor": None}
    documents = [{"document_id": "a", "title": "A", "url": "https://example.org/a"}, {"text": "without an id"}]
    at = (await chat.answer(await chat.create(), *documents))["created_at"]
    [document] = (await chat.documents())["documents"]
    expected = {"document_id": "a", "title": "A", "url": "https://example.org/a", "status": "current", "version": None}
    counts = {"answers": 0, "cited": 0}  # they may lag
    times = {"first_used_at": at, "last_used_at": at}
    assert document | counts == {**expected, "reason": None, "marked_at": None, **counts, **times}


async def test_the_most_recently_used_comes_first(chat: Chat) -> None:
    for document, second in (("b", 2), ("c", 1), ("a", 3)):
        await used(chat, document, second=second)
    assert await ids(chat) == ["a", "b", "c"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_a_walk_meets_each_document_once_also_those_of_one_moment(chat: Chat, limit: int) -> None:
    await used(chat, *"abcd", second=1)
    await used(chat, *"efg", second=2)
    await chat.mark("c")
    await chat.mark("f")
    await chat.mark("never used")
    found = await walk(chat, limit=limit)
    assert ("".join(sorted(found[:3])), "".join(sorted(found[3:]))) == ("efg", "abcd")
    assert await walk(chat, limit=limit, status="withdrawn") == ["f", "c"]
    assert await walk(chat, limit=limit, status="current") == [one for one in found if one not in "cf"]


async def test_a_walk_passes_the_first_and_the_last_moment(chat: Chat) -> None:
    times = ["9999-12-31T23:59:59.999999Z", "2026-03-01T12:00:00.000000Z", "0001-01-01T00:00:00.000000Z"]
    for time in times:
        await chat.answer(await chat.create(), {"document_id": time}, created_at=time)
    assert await walk(chat, limit=1) == times


async def test_a_filter_finds_what_lies_under_2500_others(chat: Chat, db: Database) -> None:
    await used(chat, "needle")
    await chat.mark("needle", "superseded")
    async with db.driver() as conn:
        await conn.execute(
            "INSERT INTO documents (tenant_id, ref, document_id, last_used)"
            " SELECT $1, -n, 'hay ' || n, now() + n % 7 * interval '1 s' FROM generate_series(1, 2500) n",
            chat.tenant_id,
        )
    first = await chat.documents(status="superseded")
    assert (first["documents"], bool(first["next_cursor"])) == ([], True)
    assert await walk(chat, status="superseded") == ["needle"]
    everything = await walk(chat, limit=100)
    assert len(everything) == len(set(everything)) == 2501


async def test_one_document_is_found_by_its_id_used_or_marked(chat: Chat) -> None:
    await used(chat, "used", "other")
    await chat.mark("marked")
    assert [await ids(chat, document_id=one) for one in ("used", "marked", "USED", "use")] == [
        ["used"],
        ["marked"],
        [],
        [],
    ]
    assert await ids(chat, document_id="marked", status="withdrawn") == ["marked"]
    assert await ids(chat, document_id="used", status="withdrawn") == []
    assert await chat.mark("nobody's", "current") == (await chat.mark("nobody's", "current"))
    assert await ids(chat, document_id="nobody's") == []  # current it was, so nothing was marked


async def test_every_id_names_one_document_everywhere(chat: Chat) -> None:
    session = await chat.create()
    for id_ in IDS:
        await chat.answer(session, {"document_id": id_, "text": "the same"}, content=id_)
    for id_ in IDS:
        assert await ids(chat, document_id=id_) == [id_]
        found = await chat.answers_on(id_)
        assert (found["document"]["document_id"], [one["content"] for one in found["messages"]]) == (id_, [id_])
    for id_ in (IDS[0], "folder/file.md", "..", GLASS * 2_048):
        assert (await chat.mark(id_))["document_id"] == id_
    messages = (await chat.messages(session, page_size=100))["messages"]
    withdrawn = [one["content"] for one in messages if one["evidence_status"] == "withdrawn"]
    assert withdrawn == [IDS[0], "folder/file.md", "..", GLASS * 2_048]
    assert all(one["evidence_documents"] == [one["content"]] for one in messages if one["content"] in withdrawn)
    assert sorted(await ids(chat, limit=100)) == sorted(IDS)


@pytest.mark.parametrize("raw", ["a+b", "a%20b", "%61+b", "a%2520b"])
async def test_an_id_is_decoded_once(chat: Chat, raw: str) -> None:
    for id_ in ("a b", "a+b", "a%20b"):
        await chat.mark(id_)
    [document] = (await chat.get(f"/chat/documents?document_id={raw}")).json()["documents"]
    assert document["document_id"] == ("a%20b" if raw == "a%2520b" else "a b")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *(("status=", "status"), ("status=Withdrawn", "status"), ("status=stale", "status"), ("limit=0", "limit")),
        *(("limit=101", "limit"), ("limit=1.5", "limit"), ("page=1", "page"), ("user_id=ada", "user_id")),
        *(("document_id=", "document_id"), (f"document_id={'x' * 2_049}", "document_id"), ("order=asc", "order")),
        *(("limit=1&limit=1", "limit"), ("context=none", "context"), ("chunk_id=c", "chunk_id")),
    ],
)
async def test_a_parameter_that_cannot_be_is_refused_by_name(chat: Chat, query: str, field: str) -> None:
    problem(await chat.get(f"/chat/documents?{query}"), 422, "validation_error", field)


async def test_an_id_that_cannot_be_stored_cannot_be_asked_for(chat: Chat) -> None:
    for target in ("/chat/documents", "/chat/documents/messages"):
        for raw in ("a%00", "%FF", "%ED%A0%80"):
            problem(await chat.get(f"{target}?document_id={raw}"), 422, "unstorable_text", "document_id")


async def test_a_cursor_goes_on_in_its_own_list_only(chat: Chat, stranger: Chat) -> None:
    for client in (chat, stranger):
        await used(client, "a", "b", "c")
    cursor = (await chat.documents(limit=1))["next_cursor"]
    assert len(await ids(chat, limit=5, cursor=cursor)) == 2
    filtered = (await chat.documents(limit=1, status="current"))["next_cursor"]
    sessions = [await chat.create() for _ in range(2)]
    foreign = (await chat.sessions(limit=1))["next_cursor"]
    answered = (await chat.answers_on("a", limit=1))["next_cursor"]
    assert (len(sessions), answered) == (2, None)
    broken = ("", "x", cursor[:-1], cursor + "A", f"{cursor}=", cursor[::-1], filtered, foreign)
    for damaged in broken:
        response = await chat.get("/chat/documents", params={"cursor": damaged})
        problem(response, 422, "invalid_cursor", "cursor")
    problem(await stranger.get("/chat/documents", params={"cursor": cursor}), 422, "invalid_cursor", "cursor")
    for query in ({"status": "current"}, {"document_id": "a"}):
        response = await chat.get("/chat/documents", params={"cursor": cursor, **query})
        problem(response, 422, "invalid_cursor", "cursor")


async def test_a_document_has_the_first_title_and_url_that_any_of_its_chunks_has(chat: Chat) -> None:
    chunks = [{"document_id": "d"}, {"document_id": "d", "title": "T", "url": "u"}, {"document_id": "d", "title": "X"}]
    await chat.answer(await chat.create(), *chunks, {"document_id": "d", "text": "t"})
    [document] = (await chat.documents())["documents"]
    assert (document["title"], document["url"]) == ("T", "u")


async def test_documents_belong_to_no_user(chat: Chat) -> None:
    guard = {"X-User-Id": "ada"}
    body = {"document_id": "d", "status": "withdrawn"}
    problem(await chat.get("/chat/documents", headers=guard), 422, "validation_error", "X-User-Id")
    problem(await chat.put("/chat/documents", json=body, headers=guard), 422, "validation_error", "X-User-Id")
    assert await ids(chat, document_id="d") == []


async def test_one_id_in_two_tenants_is_two_documents(chat: Chat, stranger: Chat) -> None:
    for client in (chat, stranger):
        await client.answer(await client.create(), {"document_id": "shared", "text": "t", "title": client.key})
    await used(chat, "only here")
    await chat.mark("shared", reason="wrong")
    [theirs] = (await stranger.documents())["documents"]
    assert (theirs["title"], theirs["status"], theirs["reason"]) == (stranger.key, "current", None)
    assert [one["evidence_status"] for one in (await stranger.answers_on("shared"))["messages"]] == ["current"]
    assert [one["evidence_status"] for one in (await chat.answers_on("shared"))["messages"]] == ["withdrawn"]
    unknown = [
        await stranger.get("/chat/documents/messages", params={"document_id": one}) for one in ("only here", "nowhere")
    ]
    bodies = [problem(response, 404, "not_found") | {"request_id": ""} for response in unknown]
    assert bodies[0] == bodies[1]


async def test_the_examples_of_openapi_look_like_real_answers(chat: Chat) -> None:
    message = await chat.answer(await chat.create(), {"document_id": "d", "text": "t"})
    marked = await chat.mark("d")
    found, listed = await chat.answers_on("d"), await chat.documents()
    for name, real in (
        ("Message", message),
        ("Document", marked),
        ("DocumentPage", listed),
        ("DocumentMessages", found),
    ):
        assert shape(EXAMPLES[name]) == shape(real)


def shape(value: Any) -> Any:
    """The names in an answer, whatever they hold; of a context, which is the caller's, nothing."""
    if isinstance(value, dict):
        return {name: None if name == "context" else shape(member) for name, member in value.items()}
    return [shape(item) for item in value if not isinstance(item, str)] if isinstance(value, list) else None


async def test_head_answers_as_get_does(chat: Chat) -> None:
    await used(chat, "d")
    for target, status in (("", 200), ("/messages?document_id=d", 200), ("/messages?document_id=no", 404)):
        response = await chat.head(f"/chat/documents{target}")
        assert (response.status_code, response.content) == (status, b"")
    wrong = await chat.delete("/chat/documents")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, PUT")
