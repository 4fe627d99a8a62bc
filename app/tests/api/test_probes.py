"""Health, probes and metrics: with the database up, away, silent and back again."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import VERSION
from app.db import dsn
from app.tests.conftest import NewDatabase
from app.tests.faults.relay import Relay
from app.tests.harness import DEADLINE, KEY, Chat, Service, problem, settings

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
async def relay(database_url: str) -> AsyncIterator[Relay]:
    relay = Relay(database_url)
    yield relay
    relay.cut()


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[Chat]:
    """A client of a service that reaches its database through the relay."""
    chosen = settings(database_url=await relay.start(), command_timeout=2, connect_timeout=2)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        yield client


async def test_health_tells_version_and_uptime(chat: Chat) -> None:
    response = await chat.get("/health")
    health = response.json()
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert type(health.pop("uptime_seconds")) is int
    assert health == {"status": "healthy", "version": VERSION, "database": "up", "protected_mode": False}


@pytest.mark.parametrize(("path", "status"), [("/livez", "alive"), ("/readyz", "ready")])
async def test_probes_answer_anybody(service: Service, path: str, status: str) -> None:
    async with Chat(service.url, "no key") as nobody:
        response = await nobody.get(path)
    assert (response.status_code, response.json()) == (200, {"status": status})


async def test_health_takes_no_parameters(chat: Chat) -> None:
    problem(await chat.get("/health?verbose=1"), 422, "validation_error", "verbose")


async def down(client: Chat) -> None:
    """Every route says that the database is away, none of them more than that."""
    health, ready = await client.get("/health"), await client.get("/readyz")
    assert (health.status_code, health.json()) == (503, {"status": "unhealthy", "version": VERSION, "database": "down"})
    assert (ready.status_code, ready.json()) == (503, {"status": "not_ready"})
    assert {health.headers["content-type"], ready.headers["content-type"]} == {"application/json"}
    for path in ("/livez", "/metrics", "/docs"):
        assert (await client.get(path)).status_code == 200
    for method, path, body in (
        ("GET", "/chat/sessions", None),
        ("POST", "/chat/sessions", {}),
        ("PUT", f"/chat/sessions/{NOBODY}", {"name": "x"}),
        ("DELETE", f"/chat/sessions/{NOBODY}", None),
        ("GET", f"/chat/sessions/{NOBODY}/messages", None),
        ("POST", f"/chat/sessions/{NOBODY}/messages", {"sender": "user", "content": "canary"}),
    ):
        response = await client.request(method, path, json=body)
        problem(response, 503, "database_unavailable")
        assert int(response.headers["retry-after"]) >= 1
        assert not [word for word in ("canary", "asyncpg", "refused", "127.0.0.1") if word in response.text]


async def up(client: Chat) -> None:
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.get("/health")).json()["status"] == "healthy"
    await client.append(await client.create())


async def test_a_database_that_is_stopped_is_told_and_so_is_its_return(relay: Relay, client: Chat) -> None:
    session = await client.create()
    relay.cut()
    await down(client)
    await relay.start(relay.port)
    await up(client)
    assert (await client.get(f"/chat/sessions/{session['id']}")).json() == session


async def test_a_database_that_is_silent_is_told_in_bounded_time(relay: Relay, client: Chat) -> None:
    await up(client)
    relay.freeze()
    async with asyncio.timeout(DEADLINE):
        health, ready = await asyncio.gather(client.get("/health"), client.get("/readyz"))
        assert (health.status_code, ready.status_code) == (503, 503)
        problem(await client.get("/chat/sessions"), 503, "timeout")
        assert (await client.get("/livez")).status_code == 200


@pytest.fixture
async def refused(new_database: NewDatabase) -> AsyncIterator[tuple[Chat, str, asyncpg.Connection]]:
    """A client of a service, the name of its database, and a connection to another one on the same server."""
    url, other = await new_database(), await new_database()
    name = urlsplit(url).path.lstrip("/")
    conn = await asyncpg.connect(**dsn.parse(other).arguments)
    chosen = settings(database_url=url, run_migrations=True)
    try:
        async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
            yield client, name, conn
    finally:
        if not await conn.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
            await conn.execute(f"CREATE DATABASE {name}")  # so that the end of the run can drop it
        await conn.close()


async def test_a_database_that_lets_nobody_in_is_away(refused: tuple[Chat, str, asyncpg.Connection]) -> None:
    client, name, conn = refused
    await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    await down(client)
    await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await up(client)


async def test_a_database_that_was_dropped_is_away(refused: tuple[Chat, str, asyncpg.Connection]) -> None:
    client, name, conn = refused
    await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await down(client)


async def counts(client: Chat) -> dict[tuple[str, str, str], float]:
    """http_requests_total by method, route and status."""
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name == "http_requests_total"
    }


async def test_requests_are_counted_by_method_route_and_status(chat: Chat) -> None:
    before = await counts(chat)
    session = await chat.create()
    message = await chat.append(session)
    path = f"/chat/sessions/{session['id']}"
    for method, target in (
        *(("GET", path), ("GET", path), ("HEAD", path), ("GET", f"/chat/sessions/{NOBODY}"), ("PATCH", path)),
        *(
            ("GET", f"{path}/messages/{message['id']}"),
            ("GET", "/no/such/path/canary"),
            ("GET", "/chat/sessions?limit=0"),
        ),
    ):
        await chat.request(method, target)
    one = "/chat/sessions/{session_id}"
    expected = {
        ("POST", "/chat/sessions", "201"): 1,
        ("POST", f"{one}/messages", "201"): 1,
        ("GET", one, "200"): 2,
        ("HEAD", one, "200"): 1,
        ("GET", one, "404"): 1,
        ("PATCH", one, "405"): 1,
        ("GET", f"{one}/messages/{{message_id}}", "200"): 1,
        ("GET", "unmatched", "404"): 1,
        ("GET", "/chat/sessions", "422"): 1,
    }
    after = await counts(chat)
    assert {key: after[key] - before.get(key, 0) for key in expected} == expected
    assert not [label for key in after for label in key if session["id"] in label or "canary" in label]


async def test_the_scrape_has_what_the_contract_names(chat: Chat) -> None:
    scrape = (await chat.get("/metrics")).text
    for name in (
        "http_requests_shed",
        "messages_appended",
        "db_pool_connections_in_use",
        "db_pool_waiting",
        "duration",
    ):
        assert name in scrape


async def test_clients_that_hang_up_take_no_connection_along(new_database: NewDatabase) -> None:
    chosen = settings(database_url=await new_database(), run_migrations=True, pool_size=2)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        path = f"/chat/sessions/{(await client.create())['id']}"
        body = '{"sender":"user","content":"hello"}'
        end = f"HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
        targets = ("GET /chat/sessions", f"POST {path}/messages", f"PUT {path}", f"GET {path}/messages")
        requests = [f"{target} {end}Content-Length: {len(body)}\r\n\r\n{body}".encode() for target in targets]
        for number in range(300):
            request = requests[number % 4]
            _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(service.url).port)
            writer.write(request[: number * 37 % (2 * len(request)) + 1])  # half of them whole
            for _ in range(number % 11):
                await asyncio.sleep(0)
            writer.transport.abort()
        for _ in range(20):
            await client.append({"id": path.rpartition("/")[2]})
        async with service.db.driver() as conn:
            states = await conn.fetch("SELECT state FROM pg_stat_activity WHERE datname = current_database()")
        assert len(states) <= 2
        assert not [state for (state,) in states if "transaction" in str(state)]
