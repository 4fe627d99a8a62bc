"""Who is let in: keys in every form, before anything else of the request is looked at."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.settings import EXAMPLE_KEY
from app.tests.harness import Chat, Service, problem, settings

FOREIGN = "ключ-é"  # the third key, as UTF-8 bytes on the wire
NOBODY = "00000000-0000-0000-0000-000000000000"

Headers = dict[str, str | bytes]
JSON: Headers = {"Content-Type": "application/json"}


def wire(headers: Headers) -> list[tuple[bytes, bytes]]:
    """`headers` as bytes: text as UTF-8, and bytes as they are."""
    return [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers.items()]


@pytest.fixture(scope="module")
async def anybody(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key, of a service with three keys among empty entries."""
    chosen = settings(database_url=database_url, api_key=f" alpha, ,beta,,{FOREIGN} ,")
    async with Service.running(chosen) as service, httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
async def unsafe(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the documented example key; its X-Forwarded-For is believed, so that it can be anywhere."""
    chosen = settings(database_url=database_url, api_key=(EXAMPLE_KEY, "own"))
    async with (
        Service.running(chosen, proxy_headers=True, forwarded_allow_ips="*") as service,
        httpx.AsyncClient(base_url=service.url, headers={"X-API-Key": EXAMPLE_KEY}, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "alpha"},
        {"X-API-Key": "beta"},
        {"X-API-Key": FOREIGN},
        {"x-api-KEY": "alpha"},
        {"Authorization": "Bearer alpha"},
        {"Authorization": "bearer beta"},
        {"Authorization": "BEARER   alpha"},
        {"Authorization": f"Bearer {FOREIGN}"},
        {"X-API-Key": "alpha", "Authorization": "Bearer wrong"},
        {"X-API-Key": "alpha", "Authorization": "Basic YTpi"},
    ],
    ids=repr,
)
async def test_each_key_opens_in_either_header(anybody: httpx.AsyncClient, headers: Headers) -> None:
    assert (await anybody.get("/health", headers=wire(headers))).status_code == 200
    assert (await anybody.get("/chat/sessions", headers=wire(headers))).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "alpha,beta"},
        {"X-API-Key": "ALPHA"},
        {"X-API-Key": "alph"},
        {"X-API-Key": "alphaa"},
        {"X-API-Key": "Bearer alpha"},
        {"X-API-Key": "k" * 10_000},
        {"X-API-Key": "é".encode("latin-1")},
        {"X-API-Key": "ключ".encode("cp1251")},
        {"X-API-Key": b"\xff\xfe\x80"},
        {"X-API-Key": "wrong", "Authorization": "Bearer alpha"},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer alpha beta"},
        {"Authorization": "alpha"},
        {"Authorization": "Basic alpha"},
        {"Authorization": "Bearer\xa0alpha".encode("latin-1")},
        {"Authorization": b"Bearer \xff"},
        {"Cookie": "X-API-Key=alpha"},
        {"X-API_Key": "alpha"},
    ],
    ids=lambda headers: repr(headers)[:50],
)
async def test_whatever_is_no_key_is_a_401(anybody: httpx.AsyncClient, headers: Headers) -> None:
    response = await anybody.get("/chat/sessions", headers=wire(headers))
    problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_key_in_the_query_opens_nothing(anybody: httpx.AsyncClient) -> None:
    problem(await anybody.get("/health?api_key=alpha&X-API-Key=alpha"), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/health", "/chat/sessions", "/no/such/path"])
async def test_a_refused_key_is_not_repeated(anybody: httpx.AsyncClient, path: str) -> None:
    response = await anybody.get(path, headers={"X-API-Key": "canary"})
    problem(response, 401, "unauthorized")
    assert "canary" not in response.text + str(response.headers)


async def test_keys_of_one_setting_are_one_tenant(anybody: httpx.AsyncClient) -> None:
    made = (await anybody.post("/chat/sessions", headers={"X-API-Key": "alpha"})).json()
    read = await anybody.get(f"/chat/sessions/{made['id']}", headers=wire({"X-API-Key": FOREIGN}))
    assert read.json() == made


@pytest.mark.parametrize(
    ("method", "path", "headers", "content"),
    [
        ("POST", "/chat/sessions", JSON, b"{"),
        ("POST", "/chat/sessions", JSON, b"\xff"),
        ("POST", "/chat/sessions", {"Content-Type": "text/plain"}, b"text"),
        ("POST", "/chat/sessions", JSON, b" " * (3 * 1024 * 1024)),
        ("POST", "/chat/sessions", {**JSON, "X-User-Id": ""}, b"{}"),
        ("PUT", f"/chat/sessions/{NOBODY}", {**JSON, "If-Match": "nonsense"}, b"{}"),
        ("GET", "/chat/sessions?limit=0&no=such", {}, b""),
        ("GET", "/chat/sessions/not-an-id", {}, b""),
        ("GET", f"/chat/sessions/{NOBODY}", {}, b""),
        ("PATCH", "/chat/sessions", {}, b""),
        ("OPTIONS", "/chat/sessions", {}, b""),
        ("GET", "/no/such/path", {}, b""),
        ("GET", "/", {}, b""),
        ("GET", "/chat/sessions/", {}, b""),
    ],
)
async def test_the_key_is_asked_for_before_anything_else(
    anybody: httpx.AsyncClient, method: str, path: str, headers: Headers, content: bytes
) -> None:
    problem(await anybody.request(method, path, headers=wire(headers), content=content), 401, "unauthorized")


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/metrics", "/openapi.json", "/favicon.ico", "/docs", "/docs/assets/swagger-ui.css"],
)
async def test_open_paths_need_no_key_and_mind_no_wrong_one(anybody: httpx.AsyncClient, path: str) -> None:
    for headers in ({}, {"X-API-Key": "wrong"}):
        assert (await anybody.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/livez/",
        "/LIVEZ",
        "//livez",
        "/livezz",
        "/docsx",
        "/Docs/",
        "/metrics/x",
        "/openapi.json/",
        "/health",
        "/redoc",
    ],
)
async def test_paths_that_only_look_open_are_not(anybody: httpx.AsyncClient, path: str) -> None:
    problem(await anybody.get(f"{anybody.base_url}".rstrip("/") + path), 401, "unauthorized")


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/no-such-page",
        "/docs/assets/",
        "/docs/assets/no-such-file.js",
        "/docs/%2e%2e/chat/sessions",
        "/docs/..%2fchat%2fsessions",
        "/docs/assets/%2e%2e/%2e%2e/__init__.py",
        "/docs/assets/..%2f__init__.py",
        "/docs/assets/%2fetc%2fpasswd",
        "/docs/assets/%00",
    ],
)
async def test_below_docs_nothing_but_its_own_files_is_given_away(anybody: httpx.AsyncClient, path: str) -> None:
    problem(await anybody.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.5", "172.31.255.1", "192.168.1.9", "::1", "fd00::1", "::ffff:10.0.0.1"],
)
async def test_the_example_key_is_answered_near_by(unsafe: httpx.AsyncClient, address: str) -> None:
    assert (await unsafe.get("/chat/sessions", headers={"X-Forwarded-For": address})).status_code == 200


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "172.32.0.1", "11.0.0.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "8.8.8.8, 10.0.0.1"]
)
@pytest.mark.parametrize("path", ["/chat/sessions", "/health", "/no/such/path"])
async def test_the_example_key_is_refused_from_afar_with_the_remedy(
    unsafe: httpx.AsyncClient, address: str, path: str
) -> None:
    response = await unsafe.get(path, headers={"X-Forwarded-For": address})
    assert "API_KEY" in problem(response, 403, "example_key")["detail"]


async def test_a_bearer_example_key_is_refused_from_afar_too(unsafe: httpx.AsyncClient) -> None:
    headers = {"X-Forwarded-For": "8.8.8.8", "Authorization": f"Bearer {EXAMPLE_KEY}"}
    async with httpx.AsyncClient(base_url=unsafe.base_url, headers=headers, trust_env=False) as client:
        problem(await client.get("/health"), 403, "example_key")


async def test_from_afar_another_key_is_answered_and_a_wrong_one_is_a_401(unsafe: httpx.AsyncClient) -> None:
    far = {"X-Forwarded-For": "8.8.8.8"}
    assert (await unsafe.get("/health", headers={**far, "X-API-Key": "own"})).status_code == 200
    problem(await unsafe.get("/health", headers={**far, "X-API-Key": "wrong"}), 401, "unauthorized")
    assert (await unsafe.get("/livez", headers=far)).status_code == 200


async def test_health_tells_that_the_example_key_is_in_use(
    unsafe: httpx.AsyncClient, anybody: httpx.AsyncClient
) -> None:
    assert (await unsafe.get("/health")).json()["protected_mode"] is True
    assert (await anybody.get("/health", headers={"X-API-Key": "alpha"})).json()["protected_mode"] is False


async def test_the_example_key_is_warned_of_once(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        Service.running(settings(database_url=database_url, api_key=EXAMPLE_KEY)) as service,
        Chat(service.url, EXAMPLE_KEY) as client,
    ):
        for _ in range(3):
            assert (await client.get("/health")).status_code == 200
    assert len([record for record in caplog.records if "example" in record.getMessage()]) == 1


async def test_a_proxy_near_by_does_not_make_its_clients_near(database_url: str) -> None:
    chosen = settings(database_url=database_url, api_key=EXAMPLE_KEY)
    async with Service.running(chosen, proxy_headers=False) as service, Chat(service.url, EXAMPLE_KEY) as client:
        assert (await client.get("/health")).status_code == 200
        problem(await client.get("/health", headers={"X-Forwarded-For": "8.8.8.8"}), 403, "example_key")
