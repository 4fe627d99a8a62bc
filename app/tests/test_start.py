"""Starting, ending and refusing to start: real processes, as people run them."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from app.tests.process import SERVE, UVICORN, free_port, run

BOTH = pytest.mark.parametrize("command", [SERVE, UVICORN], ids=["serve", "uvicorn"])


@BOTH
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"API_KEY": ""}, "API_KEY is missing or empty"),
        ({"RATE_LIMIT": "often"}, "RATE_LIMIT: "),
        ({"DATABASE_URL": "mysql://h/d"}, "DATABASE_URL must begin with"),
        ({"LOG_FILE": "/proc/no/app.log"}, "LOG_FILE /proc/no/app.log cannot be opened"),
        ({"DATA_DIR": "/proc/no"}, "/proc/no"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_start_is_refused_in_one_line(
    tmp_path: Path, command: tuple[str, ...], settings: dict[str, str], line: str
) -> None:
    async with run(*command, cwd=tmp_path, **settings) as server:
        output = await server.ended()
    assert server.process.returncode not in (0, None)
    assert [found for found in output.splitlines() if "cannot start: " in found and line in found], output
    assert "Traceback" not in output


async def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    port = free_port()
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=f"postgresql://u:canary@127.0.0.1:{port}/d") as server:
        output = await server.ended()
    assert f"the database 127.0.0.1:{port}/d does not answer" in output
    assert "canary" not in output
    assert "Traceback" not in output


async def test_workers_that_cannot_start_do_not_loop(tmp_path: Path) -> None:
    async with run(*UVICORN, "--workers=2", cwd=tmp_path, API_KEY="") as server:
        output = await server.ended()
    assert server.process.returncode is not None
    assert output.count("API_KEY is missing or empty") <= 2


async def test_serve_greets_with_a_line_that_works_when_pasted(tmp_path: Path, database_url: str) -> None:
    (tmp_path / ".env").write_text("API_KEY=from-the-file\n")
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url, API_KEY="key") as server:
        greeting = await server.until("curl ")
        assert f"service   {server.url.replace('127.0.0.1', 'localhost')}" in greeting
        assert "database  " in greeting
        pasted = greeting.splitlines()[-1].partition("try")[2]
        shell = await asyncio.create_subprocess_shell(
            pasted, cwd=tmp_path, env={"PATH": os.environ["PATH"], "API_KEY": "key"}, stdout=-1, stderr=-1
        )
        answer, _ = await shell.communicate()
    assert b'"status":"healthy"' in answer


async def test_in_flight_requests_finish_when_the_server_is_told_to_end(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url) as server, server.client() as client:
        await server.ready()
        session = await client.create()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        body = b'{"sender":"user","content":"slow"}'
        head = (
            f"POST /chat/sessions/{session['id']}/messages HTTP/1.1\r\nHost: x\r\nX-API-Key: {client.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[:10])
        await writer.drain()
        await client.get("/health")  # the server has seen the head by now
        server.process.send_signal(signal.SIGTERM)
        await server.until("Shutting down")
        writer.write(body[10:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 201")
        writer.close()
    assert server.process.returncode in (0, -signal.SIGTERM)


async def test_two_workers_share_the_embedded_database_and_the_metrics(tmp_path: Path) -> None:
    stale = tmp_path / "rag-chat-storage-metrics-1-1"  # of a server whose number another process has now
    stale.mkdir()
    async with run(*UVICORN, "--workers=2", cwd=tmp_path, TMPDIR=str(tmp_path)) as server:
        await server.ready()
        for _ in range(40):
            async with server.client() as client:  # a connection each, so that both workers get some
                await client.create(name="shared")
        async with server.client() as client:
            assert len((await client.sessions(limit=100))["sessions"]) == 40
            scrapes = [(await client.get("/metrics")).text for _ in range(6)]
    counted = 'http_requests_total{method="POST",route="/chat/sessions",status="201"} 40.0'
    assert all(counted in scrape for scrape in scrapes)
    assert not stale.exists()
    assert (tmp_path / "data").is_dir()


async def test_a_second_server_on_the_same_data_is_refused_and_the_first_serves_on(tmp_path: Path) -> None:
    async with run(*SERVE, cwd=tmp_path) as first:
        await first.ready()
        async with run(*SERVE, cwd=tmp_path) as second:
            output = await second.ended()
        assert second.process.returncode != 0
        assert "Traceback" not in output
        assert [line for line in output.splitlines() if "cannot start: " in line and str(tmp_path) in line], output
        async with first.client() as client:
            await client.create()


async def test_what_was_acknowledged_survives_kill_9_of_everything(tmp_path: Path) -> None:
    async with run(*SERVE, cwd=tmp_path) as server:
        await server.ready()
        async with server.client() as client:
            session = await client.create(name="kept")
            message = await client.append(session)
        for pid in processes_below(tmp_path):
            os.kill(pid, signal.SIGKILL)
        await server.ended()
    async with run(*SERVE, cwd=tmp_path) as server:
        await server.ready()
        async with server.client() as client:
            assert (await client.messages(session))["messages"] == [message]


async def test_reload_keeps_the_embedded_database(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    async with run(*UVICORN, "--reload", f"--reload-dir={watched}", cwd=tmp_path) as server:
        await server.ready()
        async with server.client() as client:
            session = await client.create(name="before the reload")
        (watched / "touched.py").write_text("")
        await server.until("Application startup complete", times=2)
        await server.ready()
        async with server.client() as client:
            assert (await client.get(f"/chat/sessions/{session['id']}")).status_code == 200


def processes_below(directory: Path) -> list[int]:
    """The processes that run in `directory` or were told of it: the server, the keeper, PostgreSQL."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                place, command = str((entry / "cwd").readlink()), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if place.startswith(str(directory)) or str(directory).encode() in command:
                found.append(int(entry.name))
    return found
