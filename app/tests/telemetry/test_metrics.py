"""The figures an operator sees: the same from every worker, bounded in number, and right."""

import asyncio
import logging
import multiprocessing
import random
import shutil
import signal
import string
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.db import dsn
from app.telemetry import metrics, sharing
from app.tests.api.test_limits import begun
from app.tests.conftest import NewDatabase
from app.tests.harness import DEADLINE, KEY, Chat, Service, end_by_reset, settings
from app.tests.process import SERVE, UVICORN, Running, run

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
SESSION = "/chat/sessions/{session_id}"


def parsed(scrape: str) -> Series:
    """Every sample of `scrape` by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    """The sum of all samples with this name and these labels."""
    return sum(number for (this, has), number in series.items() if this == name and labels.items() <= dict(has).items())


def here() -> Series:
    """What this process counts, with every service that it runs."""
    return parsed(metrics.render(ready=True)[0].decode())


async def counted(what: Callable[[Series], bool]) -> Series:
    """The figures once `what` holds for them."""
    async with asyncio.timeout(DEADLINE):
        while not what(series := here()):  # noqa: ASYNC110 - what is counted sets no event
            await asyncio.sleep(0)
    return series


async def scraped(server: Running) -> Series:
    async with server.client() as client:  # a connection of its own, so that any worker answers
        response = await client.get("/metrics")
        assert response.status_code == 200, response.text
        return parsed(response.text)


async def alive(server: Running) -> None:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize("command", [UVICORN, SERVE], ids=["uvicorn", "serve"])
async def test_two_workers_answer_every_scrape_with_the_same_count(
    command: tuple[str, ...], database_url: str, tmp_path: Path
) -> None:
    async with run(*command, "--workers=2", cwd=tmp_path, DATABASE_URL=database_url, TMPDIR=str(tmp_path)) as server:
        await server.until("Application startup complete", times=2)
        for _ in range(40):
            await asyncio.gather(*(alive(server) for _ in range(25)))
        scrapes = [await scraped(server) for _ in range(10)]
        directory = shared_directory(tmp_path)
        assert len([path for path in directory.glob("counter_*.db") if b"/livez" in path.read_bytes()]) == 2
    assert [value(scrape, "http_requests_total", route="/livez") for scrape in scrapes] == [1000] * 10
    assert {value(scrape, "http_request_duration_seconds_count", route="/livez") for scrape in scrapes} == {1000}
    assert {value(scrape, "rag_chat_storage_workers") for scrape in scrapes} == {2}


def shared_directory(place: Path) -> Path:
    (directory,) = place.glob("rag-chat-storage-metrics-*")
    return directory


def workers(server: Running) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


async def test_a_killed_worker_takes_its_gauges_along_and_leaves_its_counts(database_url: str, tmp_path: Path) -> None:
    options = {"DATABASE_URL": database_url, "TMPDIR": str(tmp_path), "POOL_SIZE": "3"}
    async with run(*UVICORN, "--workers=2", cwd=tmp_path, **options) as server:
        await server.until("Application startup complete", times=2)
        await asyncio.gather(*(alive(server) for _ in range(50)))
        directory = shared_directory(tmp_path)
        (directory / "counter_1.db").touch()  # a worker that starts: made and not yet written
        for deaths in range(1, 3):
            victim = workers(server)[0]
            victim.send_signal(signal.SIGKILL)
            await server.until("Application startup complete", times=2 + deaths)
            scrape = await scraped(server)
            assert value(scrape, "http_requests_total", route="/livez") == 50
            assert value(scrape, "http_request_duration_seconds_count", route="/livez") == 50
            assert value(scrape, "rag_chat_storage_workers") == 2
            assert value(scrape, "db_pool_connections_max") == 6
            assert not list(directory.glob(f"*{victim.pid}*"))
        pids = {str(worker.pid) for worker in workers(server)}
        assert {path.stem.rpartition("_")[2] for path in directory.iterdir()} == pids | {"0", "1"}


def joined() -> Path | None:
    """What a worker of this process is told."""
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        return workers.apply(sharing.join)


def test_a_worker_counts_for_itself_where_it_cannot_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    directory = joined()
    assert directory
    assert directory.parent == tmp_path
    shutil.rmtree(directory)
    directory.write_text("")
    assert joined() is None


async def test_no_client_can_make_series(database_url: str) -> None:
    chance = random.Random(7)  # noqa: S311 - to be repeated, not to be secret
    chosen = settings(database_url=database_url)
    async with Service.running(chosen, http="h11") as service, Chat(service.url, KEY) as client:  # takes any method
        before = here()
        for _ in range(500):
            method, *names = ("".join(chance.choices(string.ascii_uppercase, k=7)) for _ in range(4))
            method = chance.choice([method, "GET", "POST"])
            path = chance.choice(["/{}", "/chat/sessions/{}", "/chat/sessions/{}/messages/{}", "/docs/assets/{}?{}"])
            response = await client.request(method, path.format(*names), headers={"X-Request-ID": names[2]})
            assert response.status_code in (404, 405, 415, 422)
        after = here()
    assert value(after, "http_requests_total") - value(before, "http_requests_total") == 500
    labels = [dict(has) for name, has in after if name == "http_requests_total"]
    assert {label["method"] for label in labels} <= metrics.METHODS | {"other"}
    new = {has for name, has in after.keys() - before.keys() if name == "http_requests_total"}
    assert len(new) <= 3 * 4 * 4  # methods by templates by statuses


async def test_what_is_stored_is_counted_once_and_errors_by_their_code(chat: Chat) -> None:
    session = await chat.create()
    before = here()
    body = {"id": "0193b5f9-e1c2-7d0a-8a55-9d516c1f0d2b", "sender": "user", "content": "once"}
    path = f"/chat/sessions/{session['id']}/messages"
    for status in (201, 200):
        assert (await chat.post(path, json=body)).status_code == status
    assert (await chat.post(path, json={**body, "content": "other"})).status_code == 409
    after = here()
    assert value(after, "messages_appended_total") - value(before, "messages_appended_total") == 1
    code = {"code": "idempotency_conflict"}
    assert value(after, "http_problems_total", **code) - value(before, "http_problems_total", **code) == 1


async def test_a_scrape_says_whether_the_database_answers(new_database: NewDatabase, server_url: str) -> None:
    chosen = settings(database_url=await new_database(), run_migrations=True)
    name = urlsplit(chosen.database_url or "").path.lstrip("/")
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        assert value(parsed((await client.get("/metrics")).text), "rag_chat_storage_ready") == 1
        conn = await asyncpg.connect(**dsn.parse(server_url).arguments)
        await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        assert value(parsed((await client.get("/metrics")).text), "rag_chat_storage_ready") == 0
        await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await conn.close()


@asynccontextmanager
async def locked(database_url: str, session: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    """Inside, whoever changes `session` waits."""
    conn = await asyncpg.connect(**dsn.parse(database_url).arguments)
    try:
        async with conn.transaction():
            await conn.execute("SELECT FROM chat_sessions WHERE id = $1 FOR UPDATE", session["id"])
            yield conn
    finally:
        await conn.close()


async def somebody_waits(conn: asyncpg.Connection) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await conn.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            pass


async def test_who_waits_for_a_connection_does_not_use_one(new_database: NewDatabase) -> None:
    chosen = settings(database_url=await new_database(), run_migrations=True, pool_size=1)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        assert value(here(), "db_pool_connections_max") == 1
        session = await client.create()
        path = f"/chat/sessions/{session['id']}"
        async with locked(str(chosen.database_url), session) as conn:
            held = asyncio.create_task(client.put(path, json={"name": "x"}))
            await somebody_waits(conn)
            others = [
                asyncio.create_task(other)
                for other in (client.get("/chat/sessions"), client.get(path), client.put(path, json={"name": "y"}))
            ]
            series = await counted(lambda series: value(series, "db_pool_waiting") >= len(others))  # or the sweep too
            assert value(series, "db_pool_connections_in_use") == 1
        for response in await asyncio.gather(held, *others):
            assert response.status_code == 200
        await counted(lambda now: value(now, "db_pool_connections_in_use") == value(now, "db_pool_waiting") == 0)


async def hung_up(caplog: pytest.LogCaptureFixture, before: Series, method: str, route: str) -> None:
    """Returns once one request for `route` is counted as 499; nothing else of it may be counted or logged."""
    gone = {"method": method, "route": route, "status": "499"}
    expected = value(before, "http_requests_total", **gone) + 1
    after = await counted(lambda series: value(series, "http_requests_total", **gone) == expected)
    for status in ("500", "200", "201"):
        of = {"method": method, "route": route, "status": status}
        assert value(after, "http_requests_total", **of) == value(before, "http_requests_total", **of)
    assert value(after, "http_problems_total") == value(before, "http_problems_total")
    said = [getattr(record, "access", {}) for record in caplog.records]
    assert [line["status"] for line in said if line.get("route") == route and line["method"] == method] == [499]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_hangs_up_in_its_body_is_a_499(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    before = here()
    with caplog.at_level(logging.INFO, "app.access"):
        _, writer = await begun(service)
        writer.transport.abort()
        await hung_up(caplog, before, "POST", "/chat/sessions")


@pytest.mark.parametrize("http", ["app.connection:Connection", "httptools", "h11"])
async def test_a_client_that_hangs_up_while_the_database_works_is_a_499(
    http: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(database_url=database_url)
    async with Service.running(chosen, http=http) as service, Chat(service.url, KEY) as client:
        session = await client.create()
        before = here()
        async with locked(database_url, session) as conn:
            _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(service.url).port)
            head = f"PUT /chat/sessions/{session['id']} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 12\r\n\r\n".encode())
            writer.write(b'{"name":"x"}')
            await somebody_waits(conn)
            end_by_reset(writer)
            writer.transport.abort()
            await client.get("/livez")  # the server has seen it by now
            caplog.set_level(logging.INFO, "app.access")
        await hung_up(caplog, before, "PUT", SESSION)
        assert (await client.get(f"/chat/sessions/{session['id']}")).json()["name"] == "x"
