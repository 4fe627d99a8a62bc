"""As far as Windows can be had here: its platform name, and none of the modules that it lacks."""

import sys
from pathlib import Path

import pytest

from app.tests.process import ROOT, SERVE, UVICORN, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this is Windows")

# The standard library chooses its own modules by the name, and has chosen before app is imported.
WINDOWS = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "uvloop"):
    sys.modules[name] = None
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "app":
            sys.platform = "win32"
sys.meta_path.insert(0, Finder())
import asyncio, fastapi, multiprocessing, os, prometheus_client, pydantic_settings, signal, subprocess, zoneinfo
import uvicorn.main
asyncio.ProactorEventLoop = asyncio.SelectorEventLoop
import uvicorn.lifespan.on, uvicorn.protocols.http.h11_impl, asyncpg, limits.aio, httptools
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGQUIT"):
    delattr(signal, name)
for name in ("geteuid", "getuid", "fork", "O_CLOEXEC", "mkfifo"):
    delattr(os, name)
"""


@pytest.fixture
def windows(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that takes itself for one on Windows."""
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.mark.parametrize("command", [SERVE, UVICORN], ids=["serve", "uvicorn"])
async def test_without_a_server_windows_is_refused_in_one_line(
    tmp_path: Path, windows: dict[str, str], command: tuple[str, ...]
) -> None:
    async with run(*command, cwd=tmp_path, **windows) as server:
        output = await server.ended()
    assert server.process.returncode not in (0, None)
    assert "cannot start: there is no embedded PostgreSQL on Windows: set DATABASE_URL" in output
    assert "Traceback" not in output
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [SERVE, UVICORN], ids=["serve", "uvicorn"])
async def test_with_a_server_windows_serves(
    tmp_path: Path, windows: dict[str, str], command: tuple[str, ...], database_url: str
) -> None:
    async with run(*command, cwd=tmp_path, DATABASE_URL=database_url, LOG_FILE="app.log", **windows) as server:
        await server.ready()
        async with server.client() as client:
            session = await client.create()
            await client.append(session)
            assert (await client.messages(session))["messages"][0]["content"] == "hello"
            assert (await client.get("/metrics")).status_code == 200
    assert "Traceback" not in server.output
    assert "/readyz" in (tmp_path / "app.log").read_text()
