"""nginx as people run it in front of the service: the very file of deploy/, with addresses and paths of the test."""

import asyncio
import contextlib
import os
import shutil
import ssl
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.tests.harness import KEY
from app.tests.process import DEADLINE, ROOT, SERVE, UVICORN, Running, free_port, run

EXAMPLE = ROOT / "deploy/nginx/rag-chat-storage.conf"
needs_nginx = pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("openssl")), reason="no nginx or openssl")

_MAIN = """
daemon off;
pid nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include {example};
}}
"""


@contextlib.asynccontextmanager
async def nginx(place: Path, upstream: str) -> AsyncIterator[str]:
    """A real nginx in `place` before `upstream`, which is `host:port` or `unix:path`. Yields its https URL."""
    port = free_port()
    await _certificate(place)
    text = EXAMPLE.read_text()
    for theirs, ours in (
        ("server 127.0.0.1:8000;", f"server {upstream};"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("    listen [::]:443 ssl http2;\n", ""),
        ("/etc/nginx/tls/chat.example.org.", f"{place}/tls."),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    (place / "example.conf").write_text(text)
    user = "user root root;" if os.geteuid() == 0 else ""  # root's workers would be nobody, who cannot enter tmp_path
    (place / "nginx.conf").write_text(_MAIN.format(user=user, example=place / "example.conf"))
    process = await asyncio.create_subprocess_exec(
        shutil.which("nginx") or "", "-p", str(place), "-c", "nginx.conf", "-e", "stderr", stdout=PIPE, stderr=STDOUT
    )
    try:
        await _listening(port, process)
        yield f"https://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def _certificate(place: Path) -> None:
    openssl = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "1", "-subj", "/CN=chat.example.org", "-keyout", place / "tls.key", "-out", place / "tls.crt"),
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await openssl.communicate()
    assert openssl.returncode == 0, output.decode()


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(DEADLINE):
        while process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                writer.close()
                return
            await asyncio.sleep(0.02)
    output, _ = await process.communicate()
    raise AssertionError(output.decode())


@contextlib.asynccontextmanager
async def on_a_socket(place: Path, **chosen: str) -> AsyncIterator[tuple[Running, str]]:
    """The service on a unix socket, and `unix:path`."""
    path = place / "http.sock"
    command = (*UVICORN, f"--uds={path}", "--proxy-headers", "--forwarded-allow-ips=*")
    async with run(*command, cwd=place, **chosen) as server:
        await server.until("running on unix socket")
        yield server, f"unix:{path}"


@contextlib.asynccontextmanager
async def on_a_port(place: Path, **chosen: str) -> AsyncIterator[tuple[Running, str]]:
    """The production entry on a port, and its `host:port`."""
    async with run(*SERVE, cwd=place, **chosen) as server:
        await server.ready()
        yield server, server.url.removeprefix("http://")


def client_at(address: str, url: str) -> httpx.AsyncClient:
    """A client whose connections come from `address`."""
    transport = httpx.AsyncHTTPTransport(local_address=address, verify=False)
    return httpx.AsyncClient(transport=transport, base_url=url, headers={"X-API-Key": KEY}, trust_env=False)
