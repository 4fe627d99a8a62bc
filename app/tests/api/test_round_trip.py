"""What is stored comes back equal, on every route that returns it; what could not is refused at once.

Equal is judged by the text of the JSON: 1, 1.0 and true differ, and so do 0.0 and -0.0.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.tests.harness import Chat, Service, problem

JSON_TYPE = {"Content-Type": "application/json"}
STORABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
PRINTED = st.characters(exclude_categories=["Cs", "Cc"])
BIG = 10**1000 - 1
EXACT = [2**53 + 1, 2**63, -(2**63) - 1, 2**64, 1234567890123456789, 18446744073709551616, 10**19 - 1, 10**300]
INTEGERS = st.sampled_from([*EXACT, BIG, -BIG]) | st.integers(-(10**40), 10**40) | st.integers(-BIG, BIG)
SCALARS = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(STORABLE, max_size=9)
)
OBJECTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(STORABLE, max_size=5), inner, max_size=3),
    max_leaves=12,
)


def nested(depth: int, kinds: str) -> Any:
    """Lists (`l`) and objects (`o`) in turn, `depth` of them, the innermost empty."""
    value: Any = [] if kinds[(depth - 1) % len(kinds)] == "l" else {}
    for level in range(depth - 2, -1, -1):
        value = [value] if kinds[level % len(kinds)] == "l" else {"k": value}
    return value


VALUES = OBJECTS | st.builds(nested, st.integers(90, 100), st.sampled_from(["l", "o", "lo"]))
METADATA = st.dictionaries(st.text(STORABLE, max_size=5), OBJECTS, max_size=3)
many = settings(max_examples=30)


@pytest.fixture(scope="module")
async def tenant(service: Service) -> AsyncIterator[Chat]:
    """One client for all examples of a test."""
    async with await service.new_tenant() as client:
        yield client


def exact(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def message_of(response: httpx.Response) -> Any:
    assert response.is_success, response.text
    body = response.json()
    return body["messages"][0] if "messages" in body else body


async def everywhere(chat: Chat, sent: dict[str, Any], *, escaped: bool = False) -> list[Any]:
    """The message as each route returns it, once it is stored."""
    path = f"/chat/sessions/{(await chat.create())['id']}/messages"
    appended = await chat.post(path, content=json.dumps(sent, ensure_ascii=escaped), headers=JSON_TYPE)
    assert appended.status_code == 201, appended.text
    id_ = appended.json()["id"]
    reads = ("", "?order=desc", "?after=0", "?before=2", f"/{id_}")
    replay = await chat.post(path, json=sent | {"id": id_})
    other = f"/chat/sessions/{(await chat.create())['id']}/messages"
    batch = {"messages": [sent | {"id": id_}]}
    batches = [await chat.post(f"{other}/batch", json=batch) for _ in range(2)]
    assert [answer.status_code for answer in batches] == [201, 200]
    reading = [await chat.get(path + read) for read in reads]
    return [message_of(answer) for answer in (appended, replay, *batches, await chat.get(other), *reading)]


@many
@given(VALUES.filter(lambda value: value is not None), METADATA, st.booleans())
@example(EXACT, {"document": {"big": EXACT}}, False)
@example([BIG, -BIG], {}, False)
@example([0.0, -0.0, 1e23, 5e-324, 1.7976931348623157e308, 0.1, 1, 1.0], {}, False)
async def test_any_context_and_metadata_come_back_equal(
    tenant: Chat, context: Any, metadata: dict[str, Any], escaped: bool
) -> None:
    sent = {"sender": "bot", "content": "", "context": context, "metadata": metadata}
    found = await everywhere(tenant, sent, escaped=escaped)
    assert len(found) == 10
    for message in found:
        assert exact(message["context"]) == exact(context)
        assert exact(message["metadata"]) == exact(metadata)


@many
@given(st.text(STORABLE), st.text(STORABLE, min_size=1, max_size=64), st.booleans())
@example("\\u0000", "\r\n\t\x01\x7f\x85", True)
@example("\ufeff\u2028\ufdd0\U0010ffff", " ", False)
async def test_any_text_comes_back_equal_in_a_message(tenant: Chat, content: str, sender: str, escaped: bool) -> None:
    found = await everywhere(tenant, {"sender": sender, "content": content}, escaped=escaped)
    assert {(message["sender"], message["content"]) for message in found} == {(sender, content)}


@many
@given(st.text(PRINTED, min_size=1, max_size=255), st.text(STORABLE, min_size=1, max_size=255), METADATA)
async def test_any_text_comes_back_equal_in_a_session(
    tenant: Chat, name: str, user_id: str, metadata: dict[str, Any]
) -> None:
    created = await tenant.create(user_id=user_id, metadata=metadata)
    path = f"/chat/sessions/{created['id']}"
    named = (await tenant.put(path, json={"name": name})).json()
    assert (named["name"], named["user_id"], exact(named["metadata"])) == (name, user_id, exact(metadata))
    assert exact(created | {"name": name}) == exact({**named, "revision": 1, "updated_at": created["updated_at"]})
    assert exact((await tenant.get(path)).json()) == exact(named)
    assert exact((await tenant.sessions(limit=1, user_id=user_id, name=name))["sessions"]) == exact([named])


@many
@given(METADATA | st.builds(lambda depth: {"": nested(depth, "ol")}, st.integers(90, 99)), METADATA)
@example({"big": EXACT, "": [BIG, -BIG], "zero": [0, 0.0, -0.0]}, {"big": 1, "zero": [0.0, 0, -0.0]})
async def test_any_metadata_of_a_session_comes_back_equal(
    tenant: Chat, metadata: dict[str, Any], other: dict[str, Any]
) -> None:
    created = await tenant.create(metadata=metadata)
    path = f"/chat/sessions/{created['id']}"
    replay = await tenant.post("/chat/sessions", json={"id": created["id"], "metadata": metadata})
    equal = await tenant.put(path, json={"metadata": dict(reversed(metadata.items()))})
    (listed,) = (await tenant.sessions(limit=1))["sessions"]
    assert (replay.status_code, equal.status_code) == (200, 200)
    for session in (replay.json(), equal.json(), listed, (await tenant.get(path)).json()):
        assert exact(session) == exact(created)  # its revision too: an equal PUT changed nothing
    assert exact(created["metadata"]) == exact(metadata)
    changed = (await tenant.put(path, json={"metadata": other})).json()
    assert exact(changed["metadata"]) == exact(other)
    assert changed["revision"] == (1 if exact(other) == exact(metadata) else 2)


@many
@given(st.lists(st.tuples(st.sampled_from(["", "a", "\u00e9", "e\u0301"]), OBJECTS), min_size=2, max_size=6))
@example([("a", BIG), ("a", 1)])
@example([("a", 1), ("a", BIG)])
async def test_of_duplicate_keys_the_last_wins_at_any_depth(tenant: Chat, pairs: list[tuple[str, Any]]) -> None:
    raw = "{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs) + "}"
    whole = f'{{"sender":"bot","content":"","metadata":1,"context":[{raw}],"metadata":{raw}}}'
    path = f"/chat/sessions/{(await tenant.create())['id']}/messages"
    appended = await tenant.post(path, content=whole, headers=JSON_TYPE)
    for message in (message_of(appended), message_of(await tenant.get(path))):
        assert exact(message["context"]) == exact([dict(pairs)])
        assert exact(message["metadata"]) == exact(dict(pairs))


async def refused(chat: Chat, raw: str, status: int, code: str, field: str) -> None:
    """`raw` as a message is refused by field, and its session can still be read."""
    session = await chat.create()
    path = f"/chat/sessions/{session['id']}/messages"
    problem(await chat.post(path, content=raw, headers=JSON_TYPE), status, code, field)
    assert await chat.messages(session) == {"messages": [], "total": 0, "page": 1, "page_size": 20}


async def test_an_escaped_pair_is_one_character(chat: Chat) -> None:
    raw = r'{"sender":"user","content":"\ud83c\udf78","context":{"\ud83c\udf78":1}}'
    path = f"/chat/sessions/{(await chat.create())['id']}/messages"
    message = (await chat.post(path, content=raw, headers=JSON_TYPE)).json()
    assert (message["content"], message["context"]) == ("\U0001f378", {"\U0001f378": 1})
    assert (await chat.get(path)).json()["messages"] == [message]


SCORES: list[Any] = [None, 0, 1, -0.25, 1.7, 0.8300000429153442, 12, "0.83", "", True, [], {}]
INSTANTS = {  # sent as, answered as
    "2026-03-01T12:00:00Z": "2026-03-01T12:00:00.000000Z",
    "2026-03-01T12:00:00.000000+00:00": "2026-03-01T12:00:00.000000Z",
    "2026-03-01T17:30:00+05:30": "2026-03-01T12:00:00.000000Z",
    "2026-03-01T12:00:00-00:00": "2026-03-01T12:00:00.000000Z",
    "2026-03-01 12:00:00Z": "2026-03-01T12:00:00.000000Z",
    "2026-03-01T12:00:00.1234569Z": "2026-03-01T12:00:00.123456Z",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00.000000Z",
    "1969-12-31T23:59:59.999999Z": "1969-12-31T23:59:59.999999Z",
    "2026-10-25T02:30:00+01:00": "2026-10-25T01:30:00.000000Z",
    "2026-10-25T02:30:00+02:00": "2026-10-25T00:30:00.000000Z",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59.999999Z",
}
NO_INSTANTS: list[Any] = [
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z"),
    *("2026-03-01T12:00:00", "2026-03-01", "2026-03-01T12:00Z", "2026-03-01T12:00:00 +05:30", "2026-03-01T24:00:00Z"),
    *("2016-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "infinity", "now", "yesterday", "", "1772366400"),
    *(1772366400, 1772366400123, 1772366400.285031, 1e20, -1e20, True, []),
]


@pytest.mark.parametrize("sent", INSTANTS)
async def test_an_instant_is_answered_in_utc(chat: Chat, sent: str) -> None:
    for message in await everywhere(chat, {"sender": "bot", "content": "", "created_at": sent}):
        assert message["created_at"] == INSTANTS[sent]


@pytest.mark.parametrize("sent", NO_INSTANTS, ids=repr)
async def test_what_is_no_instant_is_refused(chat: Chat, sent: Any) -> None:
    raw = json.dumps({"sender": "user", "content": "", "created_at": sent})
    await refused(chat, raw, 422, "validation_error", "/created_at")


HALVES = [r"\udf78\ud83c", r"x\udb8d", r"\ud83c", r"\u0000", r"\ud83c\u0041"]


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ('{"sender":"user","content":"%s"}', "/content"),
        ('{"sender":"%s","content":""}', "/sender"),
        ('{"sender":"user","content":"","metadata":{"a":{"%s":1}}}', "/metadata/a"),
        ('{"sender":"user","content":"","context":{"documents":[{"text":"%s"}]}}', "/context/documents/0/text"),
        ('{"sender":"user","content":"","%s":1}', ""),
    ],
)
async def test_half_a_pair_and_nul_are_refused_by_field(chat: Chat, raw: str, field: str, text: str) -> None:
    await refused(chat, raw % text, 422, "unstorable_text", field)


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize("field", ["name", "user_id"])
async def test_half_a_pair_and_nul_are_refused_in_a_session(chat: Chat, field: str, text: str) -> None:
    raw = f'{{"{field}":"{text}"}}'
    problem(await chat.post("/chat/sessions", content=raw, headers=JSON_TYPE), 422, "unstorable_text", f"/{field}")
    assert (await chat.sessions())["sessions"] == []


@pytest.mark.parametrize(
    "number",
    [
        *("9" * 1001, "-" + "9" * 1001, "9" * 5000, "1e999", "-1e999", "1" + "0" * 400 + ".5"),
        *("1e-400", "-0.5E-0324", f"0.{'0' * 400}1", f"0.{'0' * 300}1e-99"),  # a double makes a zero of these
    ],
)
@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ('{"context":{"documents":[{"metadata":{"big":%s}}]}}', "/context/documents/0/metadata/big"),
        ('{"metadata":{"big":[1,%s]}}', "/metadata/big/1"),
        ('{"context":%s}', "/context"),
    ],
)
async def test_a_number_that_would_change_is_refused_by_field(chat: Chat, raw: str, field: str, number: str) -> None:
    whole = '{"sender":"user","content":"",' + (raw % number)[1:]
    await refused(chat, whole, 422, "number_out_of_range", field)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1_000", "01", "+1", "0x1", ".5", "'a'", "[1,]"])
async def test_what_is_no_json_is_a_400(chat: Chat, word: str) -> None:
    await refused(chat, f'{{"sender":"user","content":"","context":{{"score":{word}}}}}', 400, "malformed_json", "")


@pytest.mark.parametrize(
    "context",
    [
        *(0, False, "", [], {}, "null", 0.0, [None], {"": None}),
        *({"documents": [{"score": score}]} for score in SCORES),
    ],
    ids=repr,
)
async def test_odd_scores_and_what_looks_like_nothing_are_kept(chat: Chat, context: Any) -> None:
    for message in await everywhere(chat, {"sender": "bot", "content": "", "context": context}):
        assert exact(message["context"]) == exact(context)


@pytest.mark.parametrize("kinds", ["l", "o", "lo", "ol"])
@pytest.mark.parametrize("depth", [32, 63, 64, 99, 100])
async def test_a_hundred_levels_come_back(chat: Chat, depth: int, kinds: str) -> None:
    context, metadata = nested(depth, kinds), {"k": nested(depth - 1, kinds)}
    for message in await everywhere(chat, {"sender": "bot", "content": "", "context": context, "metadata": metadata}):
        assert (message["context"], message["metadata"]) == (context, metadata)
    assert (await chat.create(metadata=metadata))["metadata"] == metadata


@pytest.mark.parametrize("kinds", ["l", "o", "lo", "ol"])
@pytest.mark.parametrize("depth", [101, 102, 127, 253, 256, 500, 1_024, 100_000])
@pytest.mark.parametrize("field", ["context", "metadata"])
async def test_one_level_more_is_refused_by_field(chat: Chat, field: str, depth: int, kinds: str) -> None:
    opening = "".join("[" if kinds[level % len(kinds)] == "l" else '{"k":' for level in range(depth - 1))
    closing = "".join("]" if kinds[level % len(kinds)] == "l" else "}" for level in range(depth - 2, -1, -1))
    value = f'{{"k":{opening}1{closing}}}'
    await refused(chat, f'{{"sender":"user","content":"","{field}":{value}}}', 422, "too_deep", f"/{field}")
    response = await chat.post("/chat/sessions", content=f'{{"metadata":{value}}}', headers=JSON_TYPE)
    problem(response, 422, "too_deep", "/metadata")
