"""HTTP itself: request ids, HEAD, methods, redirects, CORS, media types, and the answer of last resort."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.tests.conftest import NewDatabase
from app.tests.harness import DEADLINE, KEY, Chat, Service, problem, settings

ORIGIN = "https://app.example.org"
NOBODY = "00000000-0000-0000-0000-000000000000"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"}
OPEN = ["/livez", "/readyz", "/metrics", "/openapi.json", "/favicon.ico", "/docs", "/docs/assets/swagger-ui.css"]
RATE = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
EXPOSED = {*RATE, "etag", "location", "retry-after", "idempotent-replayed", "x-request-id"}

ERRORS = [
    ("POST", "/chat/sessions", {"X-API-Key": "wrong"}, 401),
    ("GET", "/no/such/path", {}, 404),
    ("PATCH", "/chat/sessions", {}, 405),
    ("POST", "/chat/sessions", {"Content-Type": "text/plain"}, 415),
    ("PUT", f"/chat/sessions/{NOBODY}", {"Content-Type": "application/json"}, 400),
    ("GET", "/chat/sessions?limit=0", {}, 422),
]
BODY = {415: b"text", 400: b"{"}


@pytest.fixture(scope="module")
async def browser(database_url: str) -> AsyncIterator[Chat]:
    """A client of a service that two web pages may call."""
    chosen = settings(database_url=database_url, cors_origins=f"{ORIGIN}, http://localhost:3000")
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        yield client


@pytest.fixture
async def broken(new_database: NewDatabase, tmp_path: Path) -> AsyncIterator[Service]:
    """A service whose database refuses the word canary, and quotes it in its error."""
    url = await new_database()
    chosen = settings(database_url=url, run_migrations=True, cors_origins=ORIGIN, log_file=tmp_path / "log")
    async with Service.running(chosen) as service:
        async with service.db.driver() as conn:
            await conn.execute("ALTER TABLE chat_sessions ADD CHECK (name <> 'canary')")
            await conn.execute("ALTER TABLE chat_messages ADD CHECK (content <> 'canary')")
        yield service


@pytest.fixture
async def victim(broken: Service) -> AsyncIterator[Chat]:
    async with Chat(broken.url, KEY) as client:
        yield client


@pytest.mark.parametrize("sent", ["a", "A-Z_0.9", "x" * 128, "0193b5f9-e1c2-7d0a-8a55-9d516c1f0d2a"])
async def test_a_proper_request_id_is_kept(chat: Chat, sent: str) -> None:
    for path in ("/chat/sessions", "/no/such/path", "/livez"):
        assert (await chat.get(path, headers={"X-Request-ID": sent})).headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", [b"", b"x" * 129, b"a b", b"a,b", b"a;b", b'"a"', b"\xc3\xa9", b"\xff", b"<a>"])
async def test_any_other_request_id_is_replaced(chat: Chat, sent: bytes) -> None:
    responses = [await chat.get("/chat/sessions", headers=[(b"X-Request-ID", sent)]) for _ in range(2)]
    assert len({sent.decode("latin-1")} | {response.headers["x-request-id"] for response in responses}) == 3


@pytest.mark.parametrize(("method", "path", "headers", "status"), ERRORS)
async def test_every_error_has_its_id_its_media_type_and_readable_cors(
    browser: Chat, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    headers = {**headers, "Origin": ORIGIN, "X-Request-ID": "mine"}
    response = await browser.request(method, path, headers=headers, content=BODY.get(status))
    assert problem(response, status, response.json()["code"])["request_id"] == "mine"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers.get("cache-control") == ("no-store" if path.startswith("/chat") else None)


@pytest.mark.parametrize("path", OPEN)
async def test_every_answer_has_a_request_id_and_nosniff(chat: Chat, path: str) -> None:
    response = await chat.get(path, headers={"X-Request-ID": "mine"})
    assert (response.headers["x-request-id"], response.headers["x-content-type-options"]) == ("mine", "nosniff")


@pytest.mark.parametrize(
    "path", [*OPEN, "/health", "/chat/sessions", "{s}", "{s}/messages", "{m}", f"/chat/sessions/{NOBODY}", "/no/such"]
)
async def test_head_is_get_without_a_body(chat: Chat, path: str) -> None:
    session = await chat.create()
    message = await chat.append(session)
    s = f"/chat/sessions/{session['id']}"
    path = path.format(s=s, m=f"{s}/messages/{message['id']}")
    get, head = await chat.get(path), await chat.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    moving = {"date", "x-request-id"} | ({"content-length"} if path in ("/health", "/metrics") else set())
    assert set(head.headers) == set(get.headers)
    assert all(head.headers[name] == value for name, value in get.headers.items() if name not in moving)


async def test_405_names_every_method_of_every_path(chat: Chat) -> None:
    paths = (await chat.get("/openapi.json")).json()["paths"]
    assert len(paths) >= 8
    paths |= {path: ["get"] for path in ("/docs", "/openapi.json", "/favicon.ico", "/docs/assets/swagger-ui.css")}
    for template, operations in paths.items():
        path = template.replace("{session_id}", NOBODY).replace("{message_id}", NOBODY)
        allowed = {method.upper() for method in operations} | ({"HEAD"} if "get" in operations else set())
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
            response = await chat.request(method, path)
            assert response.status_code == 405
            assert set(response.headers["allow"].split(", ")) == allowed
            assert method == "HEAD" or problem(response, 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("POST", "/chat/sessions/"),
            ("GET", "/chat/sessions/"),
            ("GET", "//chat/sessions"),
            ("GET", "/chat//sessions"),
        ),
        *((method, f"/chat/sessions/{NOBODY}/") for method in ("GET", "HEAD", "PUT", "DELETE")),
        *((method, f"{path}%0A") for path in ("/chat/sessions", "/livez") for method in ("GET", "HEAD", "PATCH")),
        *(("GET", path) for path in ("/health/", "/livez/", "/docs/", "/docs/assets", "/docs/assets/", "/", "/chat")),
    ],
)
async def test_a_path_that_is_nearly_right_is_a_404_and_never_a_redirect(chat: Chat, method: str, path: str) -> None:
    url = str(chat.base_url).rstrip("/") + path
    response = await chat.request(method, url, headers={"X-Forwarded-Proto": "https"}, follow_redirects=False)
    assert (response.status_code, response.headers.get("location")) == (404, None)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
async def test_a_page_of_a_listed_origin_may_do_everything(browser: Chat, method: str, origin: str) -> None:
    asked = "x-api-key,authorization,content-type,if-match,idempotency-key,x-user-id,x-request-id"
    headers = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": asked}
    response = await browser.options("/chat/sessions", headers={**headers, "X-API-Key": "none yet"})
    assert (response.status_code, response.headers.get("access-control-allow-origin")) == (200, origin)
    assert set(asked.split(",")) <= set(response.headers["access-control-allow-headers"].replace(" ", "").split(","))
    assert method in response.headers["access-control-allow-methods"]
    assert (response.headers["x-content-type-options"], len(response.headers["x-request-id"])) == ("nosniff", 32)


async def test_a_page_may_read_the_headers_of_the_contract(browser: Chat) -> None:
    response = await browser.get("/chat/sessions", headers={"Origin": ORIGIN})
    exposed = response.headers["access-control-expose-headers"].lower().replace(" ", "").split(",")
    assert set(exposed) == EXPOSED
    assert "origin" in response.headers["vary"].lower()


@pytest.mark.parametrize("origin", ["https://evil.example.org", "http://app.example.org", f"{ORIGIN}.evil.org", "null"])
async def test_a_page_of_another_origin_may_read_nothing(browser: Chat, origin: str) -> None:
    for response in (
        await browser.options("/chat/sessions", headers={**PREFLIGHT, "Origin": origin}),
        await browser.get("/chat/sessions", headers={"Origin": origin}),
    ):
        assert "access-control-allow-origin" not in response.headers
        assert "x-request-id" in response.headers


async def test_without_origins_there_is_no_cors(chat: Chat) -> None:
    response = await chat.get("/chat/sessions", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    problem(await chat.options("/chat/sessions", headers=PREFLIGHT), 405, "method_not_allowed")


@pytest.mark.parametrize("step", ["append", "create", "rename"])
async def test_an_error_nobody_foresaw_tells_nothing(victim: Chat, tmp_path: Path, step: str) -> None:
    path = f"/chat/sessions/{(await victim.create())['id']}"
    method, target, body = {
        "append": ("POST", f"{path}/messages", {"sender": "user", "content": "canary"}),
        "create": ("POST", "/chat/sessions", {"name": "canary"}),
        "rename": ("PUT", path, {"name": "canary"}),
    }[step]
    headers = {"X-Request-ID": f"trace-{step}", "Origin": ORIGIN}
    response = await victim.request(method, target, json=body, headers=headers)
    assert problem(response, 500, "internal_error")["request_id"] == f"trace-{step}"
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert (response.headers["x-content-type-options"], response.headers["cache-control"]) == ("nosniff", "no-store")
    log = (tmp_path / "log").read_text()
    assert [line for line in log.splitlines() if f"trace-{step}" in line and "CheckViolationError" in line]
    assert not [secret for secret in ("canary", "Failing row", KEY) if secret in log + response.text]
    assert not [word for word in ("Violation", "chat_", "Traceback", "asyncpg", ".py") if word in response.text]
    assert (await victim.get(path)).json()["revision"] == 1


async def test_a_table_that_is_gone_is_a_500_and_the_others_still_serve(broken: Service, victim: Chat) -> None:
    path = f"/chat/sessions/{(await victim.create())['id']}"
    async with broken.db.driver() as conn:
        await conn.execute("DROP TABLE chat_messages")
    body = {"sender": "user", "content": "canary"}
    for response in (await victim.get(f"{path}/messages"), await victim.post(f"{path}/messages", json=body)):
        problem(response, 500, "internal_error")
        assert not [word for word in ("canary", "chat_messages", "relation", "Undefined") if word in response.text]
    assert (await victim.get(path)).status_code == 200


JSON = "application/json"
UTF_8 = ("", "; charset=utf-8", ";charset=UTF-8", '; charset="utf-8"', " ; Charset=Utf8", ";")
MEDIA_TYPES = [
    *(JSON + parameter for parameter in UTF_8),
    *("Application/JSON", "application/merge-patch+json", "application/vnd.api+json; charset=utf-8"),
]
NOT_JSON = [
    *("", "text/plain", "json", "text/json", "application/jsonl", "application/x-ndjson", "application/xml", "*/*"),
    *(f"{JSON}; charset={name}" for name in ("latin-1", "utf-16", "utf-8-sig", "ascii")),
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain, application/json"),
    *("application/+json", JSON + " " * 60_000 + "x"),  # white space that a careless expression reads again and again
]


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
@pytest.mark.parametrize("encoding", [{}, {"Content-Encoding": "identity"}, {"Content-Encoding": "Identity"}], ids=repr)
async def test_json_is_taken_under_each_of_its_names(chat: Chat, media_type: str, encoding: dict[str, str]) -> None:
    headers = {"Content-Type": media_type, **encoding}
    response = await chat.post("/chat/sessions", content='{"name":"é"}', headers=headers)
    assert (response.status_code, response.json()["name"]) == (201, "é")
    assert response.headers["content-type"] == JSON


COMPRESSED = [{"Content-Type": JSON, "Content-Encoding": name} for name in ("gzip", "br", "identity, gzip", "utf-8")]


@pytest.mark.parametrize(
    "headers", [*({"Content-Type": name} for name in NOT_JSON), *COMPRESSED], ids=lambda headers: repr(headers)[:60]
)
async def test_any_other_body_is_a_415(chat: Chat, headers: dict[str, str]) -> None:
    async with asyncio.timeout(DEADLINE):
        response = await chat.post("/chat/sessions", content=b"{}", headers=headers)
    problem(response, 415, "unsupported_media_type")
    for method, path in (("PUT", f"/chat/sessions/{NOBODY}"), ("POST", f"/chat/sessions/{NOBODY}/messages")):
        problem(await chat.request(method, path, content=b"{}", headers=headers), 415, "unsupported_media_type")


async def test_the_body_of_a_get_or_delete_is_ignored(chat: Chat) -> None:
    path = f"/chat/sessions/{(await chat.create())['id']}"
    for content, media_type in ((b"{", JSON), (b"\xff" * 3_000_000, "text/plain")):
        for method, target in (("GET", path), ("GET", "/chat/sessions"), ("HEAD", path), ("GET", "/livez")):
            response = await chat.request(method, target, content=content, headers={"Content-Type": media_type})
            assert response.status_code == 200
    deleted = await chat.request("DELETE", path, content=b"{", headers={"Content-Type": "text/plain"})
    assert (deleted.status_code, deleted.content) == (204, b"")
