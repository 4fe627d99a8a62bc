"""Behind a real nginx with the configuration of deploy/: clients, TLS, errors, and which connection outlives which."""

import asyncio
import random
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.server import KEEP_ALIVE
from app.settings import MiB
from app.tests.harness import KEY, problem
from app.tests.proxy import EXAMPLE, client_at, needs_nginx, nginx, on_a_port, on_a_socket

UNKEYED = {"X-API-Key": "wrong"}


@pytest.fixture(scope="module")
async def proxied(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of nginx, which ends TLS in front of `serve`."""
    place = tmp_path_factory.mktemp("proxied")
    chosen = {"DATABASE_URL": database_url, "FORWARDED_ALLOW_IPS": "127.0.0.1", "RATE_LIMIT": "100000/hour"}
    async with (
        on_a_port(place, **chosen) as (_, upstream),
        nginx(place, upstream) as url,
        client_at("127.0.0.1", url) as client,
    ):
        yield client


@needs_nginx
@pytest.mark.parametrize("start", [on_a_port, on_a_socket], ids=["tcp", "unix"])
async def test_each_client_has_its_own_limit_whatever_it_claims(tmp_path: Path, database_url: str, start: Any) -> None:
    chosen = {"DATABASE_URL": database_url, "RATE_LIMIT": "10/hour", "FORWARDED_ALLOW_IPS": "127.0.0.1"}
    async with start(tmp_path, **chosen) as (server, upstream), nginx(tmp_path, upstream) as url:
        for address in ("127.0.0.2", "127.0.0.3"):
            async with client_at(address, url) as client:
                for claimed in range(10):
                    response = await client.get("/chat/sessions", headers={"X-Forwarded-For": f"9.9.9.{claimed}"})
                    assert (response.status_code, response.headers["ratelimit-remaining"]) == (200, str(9 - claimed))
                claims = {"X-Forwarded-For": "9.9.9.99"}
                problem(await client.get("/chat/sessions", headers=claims), 429, "rate_limited")
        await server.until(" 429 ", times=2)
    lines = [line for line in server.output.splitlines() if " /chat/sessions " in line]
    assert [line.rpartition(" ")[2] for line in lines] == ["127.0.0.2"] * 11 + ["127.0.0.3"] * 11


@needs_nginx
async def test_no_answer_behind_tls_points_to_http(proxied: httpx.AsyncClient) -> None:
    created = await proxied.post("/chat/sessions", json={})
    path = created.headers["location"]
    assert path == f"/chat/sessions/{created.json()['id']}"
    for target in (path, "/docs", "/openapi.json", "/health", "/livez", "/no/such/path"):
        response = await proxied.get(target)
        assert "http://" not in response.text + str(response.headers), target
        assert not response.is_redirect


@needs_nginx
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/chat/sessions/"), ("GET", "/chat/sessions/"), ("GET", "//chat/sessions")),
        *(("PUT", "/chat/sessions/x/"), ("DELETE", "/chat/sessions/x/"), ("GET", "/docs/"), ("GET", "/livez/")),
    ],
)
async def test_one_slash_too_many_is_no_redirect_and_counted_once(
    proxied: httpx.AsyncClient, method: str, path: str
) -> None:
    before = int((await proxied.get("/health")).headers["ratelimit-remaining"])
    response = await proxied.request(method, f"{proxied.base_url}".rstrip("/") + path, json={})
    problem(response, 404, "not_found")
    assert int(response.headers.get("ratelimit-remaining", before - 1)) == before - 1


@needs_nginx
async def test_probes_take_head_without_a_key(proxied: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz", "/docs"):
        response = await proxied.head(path, headers=UNKEYED)
        assert (response.status_code, response.content) == (200, b"")
    for path in ("/health", "/chat/sessions"):
        assert [(await proxied.head(path, headers={"X-API-Key": key})).status_code for key in (KEY, "no")] == [200, 401]


@needs_nginx
async def test_the_id_of_a_request_is_the_clients_or_nginxs(proxied: httpx.AsyncClient) -> None:
    kept = await proxied.get("/health", headers={"X-Request-ID": "trace-7"})
    assert kept.headers.get_list("x-request-id") == ["trace-7"]
    made = await proxied.get("/health", headers={"X-Request-ID": "no id"})
    (request_id,) = made.headers.get_list("x-request-id")
    assert len(request_id) == 32  # nginx's form; the service's own ids have hyphens


@needs_nginx
async def test_a_large_body_gets_the_answer_of_its_request_and_the_next_one_its_own(proxied: httpx.AsyncClient) -> None:
    for size, key, status in ((2 * MiB, "no", 401), (2 * MiB + 1, KEY, 413), (64 * MiB, KEY, 413), (2 * MiB, KEY, 201)):
        for _ in range(1 if size > 3 * MiB else 8):
            sent = proxied.post(
                "/chat/sessions",
                content=b"{}".rjust(size),
                headers={"X-API-Key": key, "Content-Type": "application/json"},
            )
            response = await sent
            assert response.status_code == status, response.text
            assert (await proxied.get("/health")).status_code == 200
            if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                problem(response, 413, "body_too_large")


@needs_nginx
async def test_a_batch_may_be_larger(proxied: httpx.AsyncClient) -> None:
    session = (await proxied.post("/chat/sessions", json={})).json()
    messages = [{"sender": "user", "content": "x" * 200_000}] * 40  # 8 MB
    sent = await proxied.post(f"/chat/sessions/{session['id']}/messages/batch", json={"messages": messages})
    assert sent.status_code == 201, sent.text
    assert len(sent.json()["messages"]) == 40


@needs_nginx
async def test_any_document_id_arrives_as_it_was_sent(proxied: httpx.AsyncClient) -> None:
    """In a path nginx would decode %2F and merge slashes; the longest id is a query of 24 KiB."""
    session = (await proxied.post("/chat/sessions", json={})).json()
    ids = ["folder/file.md", "folder%2Ffile.md", "//a/../b", "https://kb.example.org/a?b=1#c", "\xe9", "a+b c"]
    for id_ in (*ids, "\U0001f378" * 2_048):
        body = {"sender": "bot", "content": id_, "context": {"documents": [{"document_id": id_}]}}
        sent = await proxied.post(f"/chat/sessions/{session['id']}/messages", json=body)
        assert sent.status_code == 201, sent.text
        found = await proxied.get("/chat/documents/messages", params={"document_id": id_})
        assert [message["content"] for message in found.json()["messages"]] == [id_]
        assert (await proxied.put("/chat/documents", json={"document_id": id_, "status": "withdrawn"})).is_success
        listed = await proxied.get("/chat/documents", params={"document_id": id_})
        assert [one["document_id"] for one in listed.json()["documents"]] == [id_]


@needs_nginx
async def test_a_service_that_is_gone_is_a_503_in_the_services_form(tmp_path: Path) -> None:
    async with nginx(tmp_path, f"unix:{tmp_path}/nobody.sock") as url, client_at("127.0.0.1", url) as client:
        response = await client.post("/chat/sessions", json={})
        problem(response, 503, "overloaded")
        assert response.headers["retry-after"] == "1"


def test_nginx_gives_an_idle_connection_up_before_the_service_does() -> None:
    (line,) = [line for line in EXAMPLE.read_text().splitlines() if line.strip().startswith("keepalive_timeout")]
    assert int(line.split()[1].partition("s;")[0]) < KEEP_ALIVE == 75


async def test_no_pooled_connection_is_reset_at_the_age_at_which_uvicorn_alone_would(
    tmp_path: Path, database_url: str
) -> None:
    async with on_a_port(tmp_path, DATABASE_URL=database_url) as (server, address), server.client() as chat:
        session = await chat.create()
        host, port = address.split(":")
        body = b'{"sender":"user","content":"x"}'
        head = (
            f"POST /chat/sessions/{session['id']}/messages HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )

        async def append_wait_append(pause: float) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            for wait in (pause, 0):
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 201 ")
                length = answer.lower().partition(b"content-length: ")[2].split()[0]
                await reader.readexactly(int(length))
                await asyncio.sleep(wait)
            writer.close()

        await asyncio.gather(*(append_wait_append(random.uniform(4.9, 5.1)) for _ in range(32)))  # noqa: S311
        assert (await chat.messages(session))["total"] == 64
