"""What cannot be accepted, told by field and never repeated; and what only looks so."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.tests.harness import Chat, Service, problem

JSON = {"Content-Type": "application/json"}
MESSAGE = {"sender": "user", "content": "hello"}

# Every field of every body and the JSON type it takes; "" for a string that not every string is.
FIELDS = {
    "create": {"id": "", "user_id": "str", "name": "str", "is_favorite": "bool", "metadata": "dict"},
    "change": {"name": "str", "is_favorite": "bool", "metadata": "dict"},
    "append": {"id": "", "sender": "str", "role": "", "content": "str", "created_at": "", "metadata": "dict"},
    "mark": {"document_id": "str", "status": "", "version": "str", "reason": "str"},
}
REQUIRED = {"append": MESSAGE, "mark": {"document_id": "d", "status": "withdrawn"}}
VALUES: list[Any] = [True, 0, -1, 1.5, "canary", ["canary"], {"canary": "canary"}]
WRONG = [
    (call, field, value)
    for call, fields in FIELDS.items()
    for field, kind in fields.items()
    for value in VALUES
    if type(value).__name__ != kind
]
WRONG += [(call, "is_favorite", None) for call in ("create", "change")]
WRONG += [(call, field, None) for call, fields in REQUIRED.items() for field in fields]


@pytest.fixture(scope="module")
async def one(service: Service) -> AsyncIterator[Chat]:
    async with await service.new_tenant() as client:
        yield client


@pytest.fixture(scope="module")
async def path(one: Chat) -> str:
    return f"/chat/sessions/{(await one.create())['id']}"


@pytest.fixture
async def client(one: Chat, path: str) -> AsyncIterator[Chat]:
    """A client that has made and changed nothing at the end."""
    yield one
    sessions = (await one.sessions())["sessions"]
    assert [(f"/chat/sessions/{session['id']}", session["revision"]) for session in sessions] == [(path, 1)]


async def send(client: Chat, path: str, call: str, body: bytes | dict[str, Any]) -> Any:
    """`body` to the route that `call` names; a dict on top of what the route needs."""
    method = "PUT" if call in ("change", "mark") else "POST"
    targets = {"create": "/chat/sessions", "change": path, "append": f"{path}/messages", "mark": "/chat/documents"}
    if isinstance(body, dict):
        body = json.dumps({**REQUIRED.get(call, {}), **body}).encode()
    return await client.request(method, targets[call], content=body, headers=JSON)


@pytest.mark.parametrize(("call", "field", "value"), WRONG, ids=repr)
async def test_a_value_of_the_wrong_type_is_refused_by_field_and_not_repeated(
    client: Chat, path: str, call: str, field: str, value: Any
) -> None:
    response = await send(client, path, call, {field: value})
    body = problem(response, 422, "validation_error", f"/{field}")
    assert {(fault["in"], fault["field"]) for fault in body["errors"]} == {("body", f"/{field}")}
    assert body["detail"].startswith(f"{field}: ")
    assert "canary" not in response.text


@pytest.mark.parametrize("call", FIELDS)
async def test_all_faults_of_a_body_are_told_at_once(client: Chat, path: str, call: str) -> None:
    response = await send(client, path, call, {"metadata": "canary", "seq": 1, "a/b~c": 1})
    body = problem(response, 422, "validation_error")
    assert {fault["field"] for fault in body["errors"]} == {"/metadata", "/seq", "/a~1b~0c"}


@pytest.mark.parametrize("call", FIELDS)
@pytest.mark.parametrize("body", [b"[]", b"null", b"true", b"7", b'"canary"', b'[{"name":"canary"}]'])
async def test_a_body_that_is_no_object_is_refused(client: Chat, path: str, call: str, body: bytes) -> None:
    response = await send(client, path, call, body)
    problem(response, 422, "validation_error", "")
    assert "canary" not in response.text


MALFORMED = [
    *(b"{", b"}", b"{}{}", b"{} x", b"nul", b" ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf{}", b"\0", b"{}\0"),
    *(b"{'name':'canary'}", b'{"name":"canary"', b'{"name":"canary",}', b"[1,]", b'{"name" "canary"}', b"{canary:1}"),
    *(b'{"metadata":{"a":%s}}' % n for n in (b"01", b"+1", b".5", b"1.", b"0x1", b"1_0", b"1e", b"NaN", b"-Infinity")),
    *(b'{"name":"%s"}' % text for text in (b"\n", b"\0", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\\x", b"\\ud80")),
    *('{"name":"canary"}'.encode(codec) for codec in ("utf-16", "utf-16-le", "utf-32")),
    *(b"name=canary", b"<a/>", b"// canary\n{}", b"{}\xc2\xa0", b'{"name":"\\u0000","a":Infinity}'),
]


@pytest.mark.parametrize("call", FIELDS)
@pytest.mark.parametrize("body", MALFORMED, ids=repr)
async def test_what_is_no_json_is_a_400(client: Chat, path: str, call: str, body: bytes) -> None:
    response = await send(client, path, call, body)
    assert problem(response, 400, "malformed_json")["errors"][0]["in"] == "body"
    assert "canary" not in response.text


@pytest.mark.parametrize("text", ["\\u0000", "x\\u0000y", "\\ud83c", "\\udf78\\ud83c", "x\\udb8d", "\\uD800\\u0041"])
@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("create", '{"name":"%s"}', "/name"),
        ("create", '{"user_id":"%s"}', "/user_id"),
        ("create", '{"id":"%s"}', "/id"),
        ("create", '{"metadata":{"a":[{"b/~":"%s"}]}}', "/metadata/a/0/b~1~0"),
        ("create", '{"metadata":{"a":{"%s":1}}}', "/metadata/a"),
        ("create", '{"%s":1}', ""),
        ("change", '{"name":"%s"}', "/name"),
        ("change", '{"metadata":{"%s":1}}', "/metadata"),
        ("append", '{"sender":"u","content":"%s"}', "/content"),
        ("append", '{"sender":"%s","content":""}', "/sender"),
        ("append", '{"role":"%s","content":""}', "/role"),
        ("append", '{"sender":"u","content":"","context":{"documents":[{"text":"%s"}]}}', "/context/documents/0/text"),
        ("append", '{"sender":"u","content":"","context":["%s"]}', "/context/0"),
        ("append", '{"sender":"u","content":"","created_at":"%s"}', "/created_at"),
    ],
)
async def test_text_that_cannot_be_stored_is_refused_wherever_it_stands(
    client: Chat, path: str, call: str, body: str, field: str, text: str
) -> None:
    problem(await send(client, path, call, (body % text).encode()), 422, "unstorable_text", field)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [("\\\\u0000", "\\u0000"), ("\\ud83c\\udf78", "\U0001f378"), ("\\\\ud800", "\\ud800"), ("\\b", "\b")],
)
async def test_text_that_only_looks_unstorable_comes_back(chat: Chat, sent: str, stored: str) -> None:
    session = f"/chat/sessions/{(await chat.create())['id']}"
    body = '{"sender":"%s","content":"%s","metadata":{"%s":"%s"},"context":["%s"]}'.replace("%s", sent)
    message = (await send(chat, session, "append", body.encode())).json()
    assert message.pop("context_warnings") == [{"field": "/context/0", "message": "is not an object"}]
    assert [message[field] for field in ("sender", "content", "metadata")] == [stored, stored, {stored: stored}]
    assert (await chat.get(f"{session}/messages/{message['id']}")).json() == message
    assert (await chat.get(f"{session}/messages")).json()["messages"] == [message]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("/chat/sessions?name=%00", "name"),
        ("/chat/sessions?user_id=a%00", "user_id"),
        ("/chat/sessions?cursor=%00", "cursor"),
        ("/chat/sessions?name=%FF", "name"),
        ("/chat/sessions?name=%ED%A0%80", "name"),
        ("{path}/messages?order=%00", "order"),
        ("{path}/messages?context=%C3", "context"),
        *((f"/chat/sessions?{pair}", None) for pair in ("%00=1", "a%00b", "%FF=1", "%ED%A0%80")),
    ],
)
async def test_a_query_that_cannot_be_stored_is_refused_by_name(
    client: Chat, path: str, query: str, field: str | None
) -> None:
    problem(await client.get(query.format(path=path)), 422, "unstorable_text", field)


async def test_u0000_in_a_path_is_refused_by_name(client: Chat, path: str) -> None:
    problem(await client.get("/chat/sessions/a%00"), 422, "unstorable_text", "session_id")
    problem(await client.get(f"{path}/messages/%00"), 422, "unstorable_text", "message_id")


HUGE = "9" * 1_001


@pytest.mark.parametrize("number", ["1e999", "-1e400", HUGE, f"-{HUGE}", "9" * 5_000, "1e" + "9" * 5_000])
@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("create", '{"metadata":{"a":[0,{"~b/":%s}]}}', "/metadata/a/1/~0b~1"),
        ("change", '{"metadata":{"":%s}}', "/metadata/"),
        ("append", '{"sender":"u","content":"","context":[[%s]]}', "/context/0/0"),
        ("append", '{"sender":"u","content":"","context":%s}', "/context"),
        ("append", '{"sender":"u","content":%s}', "/content"),
    ],
)
async def test_a_number_that_cannot_be_kept_is_refused_by_its_pointer(
    client: Chat, path: str, call: str, body: str, field: str, number: str
) -> None:
    response = await send(client, path, call, (body % number).encode())
    problem(response, 422, "number_out_of_range", field)
    assert number not in response.text


async def test_every_number_within_the_limits_comes_back_digit_for_digit(chat: Chat) -> None:
    session = f"/chat/sessions/{(await chat.create())['id']}"
    kept = ["18446744073709551616", "-9223372036854775809", "9" * 1_000, "-" + "9" * 1_000, "1e+308", "5e-324", "0.1"]
    body = '{"sender":"u","content":"","metadata":{"rev":1234567890123456789},"context":[' + ",".join(kept) + "]}"
    message = (await send(chat, session, "append", body.encode())).json()
    for response in (await chat.get(f"{session}/messages/{message['id']}"), await chat.get(f"{session}/messages")):
        assert '"rev":1234567890123456789' in response.text
        assert json.loads(body)["context"] == message["context"]
        assert all(digits in response.text for digits in kept[:4])


CLOSING = {"[": "]", '{"k":': "}"}


def nested(depth: int, opening: str) -> str:
    steps = ([opening] if opening in CLOSING else list(CLOSING)) * depth
    return "".join(steps[:depth]) + "0" + "".join(CLOSING[step] for step in reversed(steps[:depth]))


@pytest.mark.parametrize("opening", ["[", '{"k":', "mixed"])
async def test_what_nests_100_deep_is_kept_on_every_route(chat: Chat, opening: str) -> None:
    session = f"/chat/sessions/{(await chat.create())['id']}"
    for depth in (1, 32, 63, 64, 99, 100):
        value = json.loads(nested(depth, opening))
        metadata = {"k": json.loads(nested(depth - 1, opening))}
        message = (await send(chat, session, "append", {"context": value, "metadata": metadata})).json()
        message.pop("context_warnings", None)  # a list or a number is no document
        assert (message["context"], message["metadata"]) == (value, metadata)
        assert (await chat.get(f"{session}/messages/{message['id']}")).json() == message
        assert (await chat.get(f"{session}/messages?order=desc&page_size=1")).json()["messages"] == [message]
        assert (await send(chat, session, "change", {"metadata": metadata})).json()["metadata"] == metadata


@pytest.mark.parametrize("opening", ["[", '{"k":', "mixed"])
@pytest.mark.parametrize("depth", [101, 127, 128, 254, 255, 256, 1_023, 1_024, 100_000])
async def test_what_nests_deeper_is_refused_by_field(client: Chat, path: str, opening: str, depth: int) -> None:
    deep = nested(depth, opening)
    for call, body, field in (
        ("append", f'{{"sender":"u","content":"","context":{deep}}}', "/context"),
        ("append", f'{{"sender":"u","content":"[[","metadata":{{"k":{deep}}}}}', "/metadata"),
        ("create", f'{{"name":"{{","metadata":{{"k":{deep}}}}}', "/metadata"),
        ("change", f'{{"metadata":{{"k":{deep}}}}}', "/metadata"),
    ):
        problem(await send(client, path, call, body.encode()), 422, "too_deep", field)


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 10**40, "9" * 5_000, "0" * 5_000 + "7"])
async def test_a_whole_number_beyond_the_data_is_beyond_the_end(client: Chat, path: str, number: str) -> None:
    for name in ("page", "after"):
        found = await client.get(f"{path}/messages?{name}={number}")
        assert (found.status_code, found.json()["messages"], found.json()["total"]) == (200, [], 0)
    for query in (f"order=desc&page={number}&page_size=100", f"before={number}", f"before={number}&order=desc"):
        assert (await client.get(f"{path}/messages?{query}")).status_code == 200


@pytest.mark.parametrize("name", ["page", "page_size", "limit", "after", "before"])
@pytest.mark.parametrize(
    "value", ["", "-1", "%2B1", "1.0", "1e3", "0x1", "1_0", "%D9%A1", "%201", "canary", "NaN", "%EF%BC%91"]
)
async def test_what_is_no_whole_number_is_refused_by_name(client: Chat, path: str, name: str, value: str) -> None:
    response = await client.get(f"{path}/messages?{name}={value}")
    problem(response, 422, "validation_error", name)
    assert "canary" not in response.text
