"""The list of sessions: its order, its filters, and a walk through it while it moves."""

import re
from typing import Any
from uuid import uuid4

import pytest

from app.db.pool import Database
from app.tests.harness import Chat, problem

CURSOR = re.compile("[A-Za-z0-9_-]+")


async def make(chat: Chat, count: int, **fields: Any) -> list[str]:
    """The ids of new sessions, in the order of the list: the newest first."""
    return [(await chat.create(**fields))["id"] for _ in range(count)][::-1]


async def listed(chat: Chat, **query: Any) -> list[str]:
    return [session["id"] for session in (await chat.sessions(**query))["sessions"]]


async def page(chat: Chat, **query: Any) -> tuple[list[str], str]:
    """The ids of one page and the cursor behind it; there must be one."""
    found = await chat.sessions(**query)
    assert CURSOR.fullmatch(found["next_cursor"])
    return [session["id"] for session in found["sessions"]], found["next_cursor"]


async def walk(chat: Chat, cursor: str | None = None, **query: Any) -> list[str]:
    """The ids on all pages behind `cursor`."""
    ids = []
    while True:
        found = await chat.sessions(**query, **({"cursor": cursor} if cursor else {}))
        ids += [session["id"] for session in found["sessions"]]
        if (cursor := found["next_cursor"]) is None:
            return ids
        assert CURSOR.fullmatch(cursor)  # so it can be pasted into an address as it is


async def test_an_empty_list_ends_at_once(chat: Chat) -> None:
    assert await chat.sessions() == {"sessions": [], "next_cursor": None}


async def test_the_list_holds_whole_sessions(chat: Chat) -> None:
    session = await chat.create(user_id="ada", name="Leave", metadata={"a": [1]})
    assert (await chat.sessions())["sessions"] == [session]


async def test_the_most_recently_active_comes_first(chat: Chat) -> None:
    third, second, first = await make(chat, 3)
    assert await listed(chat) == [third, second, first]
    await chat.append({"id": first})
    await chat.put(f"/chat/sessions/{second}", json={"name": "touched"})
    assert await listed(chat) == [second, first, third]


async def test_what_changes_nothing_moves_nothing(chat: Chat) -> None:
    newer, older = await make(chat, 2)
    await chat.put(f"/chat/sessions/{older}", json={})
    assert await listed(chat) == [newer, older]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_sessions_of_one_moment_come_by_id_downwards_on_every_page(chat: Chat, db: Database, limit: int) -> None:
    ids = [(await chat.create(id=str(uuid4())))["id"] for _ in range(6)]
    async with db.driver() as conn:
        await conn.execute("UPDATE chat_sessions SET updated_at = now() WHERE tenant_id = $1", chat.tenant_id)
    assert await walk(chat, limit=limit) == sorted(ids, reverse=True)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["d", "c", "b", "a"]),
        ({"user_id": "ada"}, ["c", "a"]),
        ({"user_id": "ADA"}, []),
        ({"is_favorite": "true"}, ["d", "c"]),
        ({"is_favorite": "false"}, ["b", "a"]),
        ({"user_id": "ada", "is_favorite": "true"}, ["c"]),
        ({"user_id": "ada", "is_favorite": "true", "name": "b"}, []),
        ({"user_id": "ada", "name": "A"}, ["a"]),
    ],
    ids=repr,
)
async def test_filters_narrow_and_combine(chat: Chat, query: dict[str, str], names: list[str]) -> None:
    for name, user_id, favorite in (("a", "ada", False), ("b", "bob", False), ("c", "ada", True), ("d", None, True)):
        await chat.create(name=name, user_id=user_id, is_favorite=favorite)
    assert [session["name"] for session in (await chat.sessions(**query))["sessions"]] == names


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("%", "100% sure"),
        ("_", "snake_case"),
        ("\\", "C:\\temp\\"),
        ("C:\\", "C:\\temp\\"),
        ("p\\", "C:\\temp\\"),
        ("0% s", "100% sure"),
        ("LAI", "plain"),
        ("strasse", "Große Straße"),
        ("GROSSE", "Große Straße"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("éà", "ÉÀ"),
    ],
)
async def test_a_name_is_found_by_any_part_of_it_and_by_no_pattern(chat: Chat, part: str, name: str) -> None:
    for other in ("100% sure", "snake_case", "C:\\temp\\", "plain", "Große Straße", "σίσυφος", "ÉÀ", None):
        await chat.create(name=other)
    assert [session["name"] for session in (await chat.sessions(name=part))["sessions"]] == [name]


async def test_a_renamed_session_is_found_by_its_new_name_only(chat: Chat) -> None:
    session = await chat.create(name="old")
    await chat.put(f"/chat/sessions/{session['id']}", json={"name": "NEW"})
    assert (await listed(chat, name="new"), await listed(chat, name="old")) == ([session["id"]], [])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("name=", "name"),
        ("user_id=", "user_id"),
        ("is_favorite=", "is_favorite"),
        ("is_favorite=1", "is_favorite"),
        ("is_favorite=True", "is_favorite"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        (f"limit={10**40}", "limit"),
        ("limit=-1", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=", "limit"),
        ("page=1", "page"),
        ("limit=1&limit=1", "limit"),
    ],
)
async def test_a_parameter_that_cannot_be_is_refused_by_name(chat: Chat, query: str, field: str) -> None:
    problem(await chat.get(f"/chat/sessions?{query}"), 422, "validation_error", field)


@pytest.mark.parametrize("query", ["name=a%00b", "user_id=%00"])
async def test_text_that_cannot_be_stored_cannot_be_asked_for(chat: Chat, query: str) -> None:
    problem(await chat.get(f"/chat/sessions?{query}"), 422, "unstorable_text", query.partition("=")[0])


@pytest.mark.parametrize("query", ["name=%FF", "name=%ED%A0%80", "cursor=%C3"])
async def test_a_query_that_is_not_utf_8_is_a_422(chat: Chat, query: str) -> None:
    problem(await chat.get(f"/chat/sessions?{query}"), 422, "unstorable_text")


async def test_a_page_holds_20_and_the_last_one_has_no_cursor(chat: Chat) -> None:
    made = await make(chat, 41)
    first, cursor = await page(chat)
    assert first == made[:20]
    assert (await page(chat, limit=41 - 1))[0] == made[:40]
    assert await chat.sessions(limit=41) == await chat.sessions(limit=100)
    assert (await chat.sessions(limit=41))["next_cursor"] is None
    assert await walk(chat, cursor) == made[20:]


async def test_a_walk_keeps_its_filters(chat: Chat) -> None:
    mine: list[str] = []
    for _ in range(5):
        mine = await make(chat, 1, user_id="ada", name="Leave") + mine
        await make(chat, 1, user_id="bob", name="Leave")
        await make(chat, 1, user_id="ada", name="Other")
    assert await walk(chat, user_id="ada", name="leave", limit=2) == mine


async def test_a_walk_meets_every_session_that_nobody_touched_exactly_once(chat: Chat) -> None:
    made = await make(chat, 60)
    first, cursor = await page(chat)
    touched, deleted = [made[3], made[30]], [made[5], made[25], made[45]]
    for id_ in touched:
        await chat.append({"id": id_})
    await make(chat, 5)
    for id_ in deleted:
        assert (await chat.delete(f"/chat/sessions/{id_}")).status_code == 204
    rest = await walk(chat, cursor)
    assert first == made[:20]
    assert rest == [id_ for id_ in made[20:] if id_ not in touched + deleted]


@pytest.mark.parametrize("gone", [slice(2, 3), slice(0, 3), slice(2, 5)], ids=["last row", "whole page", "next page"])
async def test_a_cursor_holds_although_its_row_is_gone(chat: Chat, gone: slice) -> None:
    made = await make(chat, 8)
    _, cursor = await page(chat, limit=3)
    for id_ in made[gone]:
        await chat.delete(f"/chat/sessions/{id_}")
    assert await walk(chat, cursor, limit=3) == made[max(3, gone.stop) :]


async def test_an_empty_filter_result_far_down_the_list_is_reached_in_bounded_steps(chat: Chat, db: Database) -> None:
    wanted = await make(chat, 1, name="needle")
    async with db.driver() as conn:
        await conn.execute(
            "INSERT INTO chat_sessions (id, tenant_id, name, name_folded, is_favorite, metadata)"
            " SELECT gen_random_uuid(), $1, 'hay', 'hay', false, '{}' FROM generate_series(1, 2500)",
            chat.tenant_id,
        )
    assert (await page(chat, name="needle"))[0] == []
    assert await walk(chat, name="needle") == wanted


@pytest.mark.parametrize("query", [{}, {"user_id": "bob"}, {"user_id": "ada", "name": "l"}, {"name": "ada"}], ids=repr)
async def test_a_cursor_with_other_filters_is_refused(chat: Chat, query: dict[str, str]) -> None:
    await make(chat, 3, user_id="ada", name="Leave")
    _, cursor = await page(chat, limit=1, user_id="ada")
    assert len(await listed(chat, user_id="ada", cursor=cursor, limit=2)) == 2  # another limit is no other filter
    problem(await chat.get("/chat/sessions", params={"cursor": cursor, **query}), 422, "invalid_cursor", "cursor")


async def test_a_cursor_of_another_tenant_or_user_is_refused(chat: Chat, stranger: Chat) -> None:
    await make(chat, 3, user_id="ada")
    _, cursor = await page(chat, limit=1)
    problem(await stranger.get(f"/chat/sessions?cursor={cursor}"), 422, "invalid_cursor", "cursor")
    guarded = await chat.get(f"/chat/sessions?cursor={cursor}", headers={"X-User-Id": "ada"})
    problem(guarded, 422, "invalid_cursor", "cursor")


async def test_a_damaged_cursor_is_refused_wherever_it_is_damaged(chat: Chat) -> None:
    await make(chat, 2)
    _, cursor = await page(chat, limit=1)
    flipped = [
        cursor[:place] + ("A" if letter != "A" else "B") + cursor[place + 1 :] for place, letter in enumerate(cursor)
    ]
    for damaged in ("", "x", "é", cursor[:-1], cursor[1:], cursor + "A", cursor + "=", f" {cursor}", *flipped):
        response = await chat.get("/chat/sessions", params={"cursor": damaged})
        problem(response, 422, "invalid_cursor", "cursor")


@pytest.mark.parametrize(("letter", "instead"), [("_", "/"), ("-", "+")])
async def test_a_cursor_in_the_other_base64_alphabet_is_refused(chat: Chat, letter: str, instead: str) -> None:
    await make(chat, 1)
    # An id whose bits spell this letter in base64; it is the newest, so the cursor stands on it.
    start = {"_": "ffffffff-ffff-4fff-bfff-", "-": "fffbefbe-fbef-4bef-bbef-"}[letter]
    await chat.create(id=start + uuid4().hex[:12])
    _, cursor = await page(chat, limit=1)
    assert letter in cursor
    response = await chat.get("/chat/sessions", params={"cursor": cursor.replace(letter, instead)})
    problem(response, 422, "invalid_cursor", "cursor")
