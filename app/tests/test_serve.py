"""`python -m app serve` as an operator meets it: draining, workers, unix sockets, open files."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from app.server import KEEP_ALIVE
from app.tests.harness import KEY
from app.tests.process import DEADLINE, SERVE, UVICORN, Running, free_port, run

HEADERS = {"X-API-Key": KEY}


@pytest.mark.parametrize("command", [SERVE, (*SERVE, "--workers=2"), UVICORN], ids=["serve", "workers", "uvicorn"])
async def test_a_draining_server_says_so_and_serves_on(
    tmp_path: Path, database_url: str, command: tuple[str, ...]
) -> None:
    settings = {"DATABASE_URL": database_url, "DRAIN_DELAY": "3600"}
    async with run(*command, cwd=tmp_path, **settings) as server, server.client() as client:
        workers = 2 if "--workers=2" in command else 1
        await server.until("Application startup complete", times=workers)
        await server.ready()
        server.process.send_signal(signal.SIGTERM)
        await server.until("draining: /readyz answers 503 for 3600 s", times=workers)
        response = await client.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"status": "not_ready"})
        async with server.client() as late:  # a connection that is made while the server drains
            assert (await late.get("/livez")).status_code == 200
            await late.create(name="made while draining")
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
        await server.ended()


async def test_a_server_that_has_drained_ends(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url, DRAIN_DELAY="0.2") as server:
        await server.ready()
        server.process.send_signal(signal.SIGTERM)
        assert "draining: /readyz answers 503 for 0.2 s" in await server.ended()
    assert server.process.returncode in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("workers", "number"), [("1", signal.SIGTERM), ("2", signal.SIGTERM), ("2", signal.SIGKILL)], ids=str
)
async def test_newcomers_are_refused_while_the_last_request_finishes(
    tmp_path: Path, database_url: str, workers: str, number: int
) -> None:
    async with run(*SERVE, f"--workers={workers}", cwd=tmp_path, DATABASE_URL=database_url) as server:
        await server.until("Application startup complete", times=int(workers))
        await server.ready()  # one that is alone listens a moment later
        port = int(server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /chat/sessions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nExpect: 100-continue\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n".encode())
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        server.process.send_signal(number)
        await server.until("Shutting down", times=int(workers))
        await refused(port)
        writer.write(b"{}")
        assert b"HTTP/1.1 201" in await reader.read()
        writer.close()


async def refused(port: int) -> None:
    """Returns once nobody listens on `port`."""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                with contextlib.suppress(ConnectionResetError):  # it waited to be accepted as the listener closed
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()


async def test_ctrl_c_does_not_wait_for_the_balancer(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url, DRAIN_DELAY="3600") as server:
        await server.ready()
        server.process.send_signal(signal.SIGINT)
        output = await server.ended()
    assert server.process.returncode == 0
    assert "Traceback" not in output


async def test_workers_that_cannot_start_end_the_server_with_a_status(tmp_path: Path) -> None:
    url = f"postgresql://u:p@127.0.0.1:{free_port()}/d"
    async with run(*SERVE, "--workers=2", cwd=tmp_path, DATABASE_URL=url) as server:
        output = await server.ended()
    assert server.process.returncode == 3
    assert "does not answer" in output


async def test_a_killed_worker_is_replaced(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, "--workers=2", cwd=tmp_path, DATABASE_URL=database_url) as server:
        await server.until("Application startup complete", times=2)
        workers = psutil.Process(server.process.pid).children()
        max(workers, key=psutil.Process.memory_info).kill()  # not multiprocessing's little resource tracker
        await server.until("Application startup complete", times=3)
        async with server.client() as client:
            await client.create()


async def over(socket: Path) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket), retries=5)) as client:
        return await client.get("http://localhost/health", headers=HEADERS)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_unix_socket_is_taken_over_from_a_server_that_was_killed(
    tmp_path: Path, database_url: str, workers: str
) -> None:
    socket = tmp_path / "app.sock"
    command = (*SERVE, f"--uds={socket}", f"--workers={workers}")
    for number in (signal.SIGKILL, signal.SIGTERM):
        async with run(*command, cwd=tmp_path, DATABASE_URL=database_url) as server:
            await server.until(f"--unix-socket {socket}")
            await server.until("Application startup complete", times=int(workers))
            assert (await over(socket)).status_code == 200
            await end_all(server, number)


async def test_a_unix_socket_in_use_is_left_to_its_server(tmp_path: Path, database_url: str) -> None:
    socket = tmp_path / "app.sock"
    command = (*SERVE, f"--uds={socket}")
    async with run(*command, cwd=tmp_path, DATABASE_URL=database_url) as first:
        await first.until("curl ")
        async with run(*command, cwd=tmp_path, DATABASE_URL=database_url) as second:
            output = await second.ended()
        assert second.process.returncode not in (0, None)
        assert f"cannot start: another server listens on {socket}" in output
        assert (await over(socket)).status_code == 200


async def end_all(server: Running, number: int) -> None:
    """Send `number` to the server and, as a crash would, to its workers."""
    for process in (*psutil.Process(server.process.pid).children(recursive=True), psutil.Process(server.process.pid)):
        process.send_signal(number)
    await server.process.wait()


async def test_as_many_files_may_be_open_as_the_system_allows(tmp_path: Path, database_url: str) -> None:
    few = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
    command = ("-c", f"{few}; from app.cli import main; main()", "serve")
    async with run(*command, cwd=tmp_path, DATABASE_URL=database_url) as server:
        await server.ready()
        soft, hard = psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert soft == min(hard, 65_536)


async def test_connections_are_kept_longer_than_proxies_keep_them(tmp_path: Path, database_url: str) -> None:
    """Longer than the five seconds after which uvicorn hangs up by default, just as the next POST arrives."""
    assert KEEP_ALIVE > 60
    limits = httpx.Limits(max_connections=8)
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url) as server:
        await server.ready()
        async with httpx.AsyncClient(base_url=server.url, headers=HEADERS, limits=limits) as client:
            session = (await client.post("/chat/sessions", json={})).json()
            path = f"/chat/sessions/{session['id']}/messages"

            async def append(wait: float) -> None:
                await asyncio.sleep(wait)
                body = {"sender": "user", "content": f"after {wait} s"}
                assert (await client.post(path, json=body)).status_code == 201

            await asyncio.gather(*(append(0) for _ in range(8)))
            await asyncio.gather(*(append(4.95 + number / 80) for number in range(8)))
            assert (await client.get(path)).json()["total"] == 16
