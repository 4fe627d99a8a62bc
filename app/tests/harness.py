"""The service as tests run it: the real application behind a real socket, and a client with verbs."""

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import httpx
import uvicorn

from app.db.pool import Database
from app.main import OneLineRefusals, build
from app.server import KEEP_ALIVE
from app.settings import Settings

KEY = "test-key"
DEADLINE = 300  # seconds; catches a hang, no more: a machine of CI may be ten times slower than a desk


def settings(**chosen: Any) -> Settings:
    """Settings that depend on nothing but `chosen`: no environment, no `.env`."""
    defaults = {"api_key": (KEY,), "rate_limit": "", "log_file": None, "log_level": "WARNING", "run_migrations": False}
    return Settings(_env_file=None, _secrets_dir=None, **{**defaults, **chosen})


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ctrl-C belongs to pytest


class Service:
    """A running service."""

    def __init__(self, app: OneLineRefusals, url: str) -> None:
        self.url = url
        self.state = app.app.state
        self.db: Database = self.state.db

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, chosen: Settings, **uvicorn_options: Any) -> AsyncIterator[Self]:
        app = OneLineRefusals(build(chosen))
        options = {"host": "127.0.0.1", "port": 0, "log_config": None, "ws": "none", **uvicorn_options}
        # uvicorn's own 5 s are httpx's too: on a slow machine one closes what the other is about to write to.
        options.setdefault("timeout_keep_alive", KEEP_ALIVE)
        server = _Server(uvicorn.Config(app, **options))
        task = asyncio.create_task(server.serve())
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.01)
        address = server.servers[0].sockets[0].getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        try:
            yield cls(app, f"http://{host}:{address[1]}")
        finally:
            server.should_exit = True
            await task

    async def new_tenant(self) -> "Chat":
        """A client whose key belongs to a tenant that nobody else uses."""
        key = f"key-{secrets.token_hex(8)}"
        async with self.db.driver() as conn:
            tenant_id = await conn.fetchval("INSERT INTO tenants (name) VALUES ($1) RETURNING id", key)
        self.state.keyring.add(key, tenant_id)
        return Chat(self.url, key, tenant_id)


class Chat(httpx.AsyncClient):
    """An HTTP client of one tenant, with the verbs that tests are told in."""

    def __init__(self, url: str, key: str, tenant_id: int = 0) -> None:
        super().__init__(base_url=url, headers={"X-API-Key": key}, trust_env=False, timeout=DEADLINE, verify=False)
        self.key = key
        self.tenant_id = tenant_id

    async def create(self, **fields: Any) -> dict[str, Any]:
        return await self._made("/chat/sessions", fields)

    async def append(self, session: dict[str, Any], content: str = "hello", **fields: Any) -> dict[str, Any]:
        body = {"sender": "user", "content": content, **fields}
        return await self._made(f"/chat/sessions/{session['id']}/messages", body)

    async def messages(self, session: dict[str, Any], **query: Any) -> dict[str, Any]:
        response = await self.get(f"/chat/sessions/{session['id']}/messages", params=query)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def sessions(self, **query: Any) -> dict[str, Any]:
        response = await self.get("/chat/sessions", params=query)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def answer(self, session: dict[str, Any], *documents: Any, **fields: Any) -> dict[str, Any]:
        """Append an answer that stands on these documents."""
        return await self.append(session, **{"sender": "assistant", "context": {"documents": documents}, **fields})

    async def documents(self, **query: Any) -> dict[str, Any]:
        return await self._found("/chat/documents", query)

    async def answers_on(self, document_id: str, user: str | None = None, **query: Any) -> dict[str, Any]:
        """A page of the answers that stood on a document, of `user` where one is given."""
        return await self._found("/chat/documents/messages", {"document_id": document_id, **query}, user)

    async def mark(self, document_id: str, status: str = "withdrawn", **fields: Any) -> dict[str, Any]:
        response = await self.put("/chat/documents", json={"document_id": document_id, "status": status, **fields})
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def _found(self, path: str, query: dict[str, Any], user: str | None = None) -> dict[str, Any]:
        headers = {} if user is None else {"X-User-Id": user}
        response = await self.get(path, params=query, headers=headers)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def _made(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self.post(path, json=body)
        assert response.status_code == 201, response.text
        return dict(response.json())


def end_by_reset(writer: asyncio.StreamWriter) -> None:
    """Have this connection end by RST: a server may go on for who ends only its sending side, by FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def problem(response: httpx.Response, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """The problem in `response`, which must have this status, this code and, where given, a fault in `field`."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["code"] == code, body
    assert body["request_id"] == response.headers["x-request-id"]
    if field is not None:
        assert field in [fault["field"] for fault in body["errors"]], body
    return body
