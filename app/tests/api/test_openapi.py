"""The OpenAPI document, which client generators read, and the page that shows it, which works without the internet."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

import app
from app import cli
from app.api import documentation
from app.main import build
from app.tests.harness import Chat, Service, settings

SNAPSHOT = Path(app.__file__).parents[1] / "docs" / "openapi.json"
DOCUMENT: dict[str, Any] = documentation.schema(build(settings()))
NEEDS_A_KEY = ("/chat", "/health")
WRITES = {"post", "put", "delete"}

OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
WITH_A_BODY = {name for name, (_, _, operation) in OPERATIONS.items() if "requestBody" in operation}
CHAT = {name for name, (path, _, _) in OPERATIONS.items() if path.startswith("/chat")}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return dict(DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]) if reference else schema


def examples(media: dict[str, Any]) -> list[Any]:
    """The examples that a reader is shown for one body: its own or its schema's, one for each alternative."""
    if "example" in media:
        return [media["example"]]
    schema = resolved(media["schema"])
    alternatives = [schema] if "example" in schema else schema.get("anyOf", [schema])
    return [resolved(one).get("example") for one in alternatives]


def answers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every answer with a body: operation, status, content."""
    for name, (_, _, operation) in OPERATIONS.items():
        for status, response in operation["responses"].items():
            if status != "204":
                yield name, status, response["content"]


def test_the_operations_have_the_names_of_the_contract() -> None:
    named = {
        "createSession": ("/chat/sessions", "post"),
        "listSessions": ("/chat/sessions", "get"),
        "getSession": ("/chat/sessions/{session_id}", "get"),
        "updateSession": ("/chat/sessions/{session_id}", "put"),
        "deleteSession": ("/chat/sessions/{session_id}", "delete"),
        "appendMessage": ("/chat/sessions/{session_id}/messages", "post"),
        "listMessages": ("/chat/sessions/{session_id}/messages", "get"),
        "getMessage": ("/chat/sessions/{session_id}/messages/{message_id}", "get"),
    }
    assert {name: OPERATIONS[name][:2] for name in named} == named
    assert len(OPERATIONS) == sum(len(methods) for methods in DOCUMENT["paths"].values())


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_has_a_generatable_name_a_summary_and_a_known_tag(name: str) -> None:
    operation = OPERATIONS[name][2]
    assert re.fullmatch("[a-z]+[A-Za-z]*", name)
    assert operation["summary"]
    assert len(operation["tags"]) == 1
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}


def test_both_ways_to_send_a_key_are_declared_where_one_is_needed_and_nowhere_else() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    by_kind = {(scheme["type"], scheme.get("name", scheme.get("scheme"))): name for name, scheme in schemes.items()}
    assert set(by_kind) == {("apiKey", "X-API-Key"), ("http", "bearer")}
    for path, _, operation in OPERATIONS.values():
        needed: list[dict[str, list[str]]] = (
            [{name: []} for name in by_kind.values()] if path.startswith(NEEDS_A_KEY) else []
        )
        assert sorted(map(str, operation.get("security", []))) == sorted(map(str, needed))


@pytest.mark.parametrize("name", sorted(WITH_A_BODY))
def test_each_body_has_an_example(name: str) -> None:
    (content,) = OPERATIONS[name][2]["requestBody"]["content"].items()
    assert content[0] == "application/json"
    assert all(isinstance(example, dict) and example for example in examples(content[1]))


@pytest.mark.parametrize(
    ("name", "status", "content"), list(answers()), ids=lambda value: value if type(value) is str else ""
)
def test_each_answer_has_one_media_type_and_an_example(name: str, status: str, content: dict[str, Any]) -> None:
    ((media_type, media),) = content.items()
    plain = {"getMetrics": "text/plain"}.get(name, "application/json")
    unhealthy = (name, status) in {("getHealth", "503"), ("isReady", "503")}
    assert media_type == ("application/problem+json" if status >= "400" and not unhealthy else plain)
    assert plain == "text/plain" or all(isinstance(example, dict) for example in examples(media))


@pytest.mark.parametrize("name", [name for name, (path, _, _) in OPERATIONS.items() if path.startswith(NEEDS_A_KEY)])
def test_every_error_an_operation_can_answer_with_is_listed(name: str) -> None:
    path, method, operation = OPERATIONS[name]
    expected = {"401", "403", "422", "429", "500", "503"}
    expected |= {"400"} if name in CHAT else set()  # X-User-Id
    expected |= {"404"} if "{" in path or name == "listDocumentMessages" else set()
    expected |= {"408", "413", "415"} if name in WITH_A_BODY else set()
    expected |= {"409"} if method == "post" else set()
    expected |= {"412"} if method in WRITES and "{" in path else set()
    expected |= {"507"} if method in WRITES else set()
    assert {status for status in operation["responses"] if status >= "400"} == expected


OF_NO_USER = {"listDocuments", "markDocument"}
"""Documents have no user, and these refuse the header."""


@pytest.mark.parametrize("name", sorted(CHAT))
def test_the_headers_that_an_operation_reads_and_sends_are_listed(name: str) -> None:
    path, method, operation = OPERATIONS[name]
    read = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "header"}
    expected = (set() if name in OF_NO_USER else {"X-User-Id"}) | ({"Idempotency-Key"} if method == "post" else set())
    assert read == expected | ({"If-Match"} if method in WRITES and "{" in path else set())
    sent = {status: set(response.get("headers", {})) for status, response in operation["responses"].items()}
    if method == "post":
        assert sent["201"] == {"ETag"} | (set() if name == "appendMessages" else {"Location"})
        assert sent["200"] >= {"ETag", "Idempotent-Replayed"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_parameter_tells_what_it_takes_and_none_takes_null(name: str) -> None:
    """What is told in pydantic's own words (`ge`), or as null beside a string, no generated client understands."""
    told = {"minimum", "enum", "format", "minLength", "pattern"}
    for parameter in OPERATIONS[name][2].get("parameters", ()):
        assert isinstance(parameter["schema"]["type"], str)
        assert told & set(parameter["schema"]), parameter
    assert not {"ge", "le"} & set(re.findall(r'"(\w+)":', json.dumps(OPERATIONS[name][2])))


def test_a_message_needs_a_sender_or_a_role_that_is_no_null() -> None:
    schema = resolved({"$ref": "#/components/schemas/NewMessage"})
    string = {"type": "string"}
    assert schema["anyOf"] == [{"required": [name], "properties": {name: string}} for name in ("sender", "role")]
    assert {"type": "null"} in schema["properties"]["sender"]["anyOf"]


async def test_the_document_is_served_as_it_is_and_the_snapshot_is_current(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Chat(service.url, "no key") as nobody:
        served = (await nobody.get("/openapi.json")).json()
    cli.main(["openapi"])
    printed = capsys.readouterr().out
    assert served == json.loads(printed)
    assert printed == SNAPSHOT.read_text(), "write it anew: make snapshots"


def test_the_document_says_nothing_that_does_not_exist() -> None:
    text = json.dumps(DOCUMENT)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) == set(DOCUMENT["components"]["schemas"])
    assert "HTTPValidationError" not in text


async def test_the_page_and_all_that_it_loads_come_from_here(service: Service) -> None:
    async with Chat(service.url, "no key") as nobody:
        page = await nobody.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        loaded = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
        assert len(loaded) == 4  # the document, the script, the styles, the icon
        for name in loaded:
            assert urljoin("http://here/docs", name).startswith("http://here/")
            asset = await nobody.get(name)
            assert asset.status_code == 200
            assert asset.content
            if name.endswith(".css"):
                assert not re.findall(rb"url\(\s*[\"']?(?:https?:)?//", asset.content)


async def test_behind_a_prefix_the_page_finds_its_files(database_url: str) -> None:
    chosen = settings(database_url=database_url)
    async with Service.running(chosen, root_path="/rag") as service, Chat(service.url, "no key") as nobody:
        page = (await nobody.get("/docs")).text
        for name in ("/rag/openapi.json", "/rag/docs/assets/swagger-ui-bundle.js", "/rag/docs/assets/swagger-ui.css"):
            assert name in page


@pytest.mark.parametrize("asked", ["bytes=0-9", "x", "bytes=", "bytes=5-1", "bytes=99999999-", "lines=1-2"])
@pytest.mark.parametrize("path", ["/docs/assets/swagger-ui.css", "/favicon.ico"])
async def test_an_odd_range_is_answered_with_the_file_or_with_a_problem(chat: Chat, path: str, asked: str) -> None:
    response = await chat.get(path, headers={"Range": asked})
    assert response.status_code in (200, 206) or response.headers["content-type"] == "application/problem+json"
