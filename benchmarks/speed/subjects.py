"""The servers that are compared, each a process tree of its own, and the CPU time that they use."""

import os
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
from load import KEY

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "benchmarks" / "baseline"

PATIENCE = 60  # seconds for a server to answer


class Server:
    """One that runs. `url` is without a path."""

    def __init__(self, name: str, command: list[str], port: int, home: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        home.mkdir(exist_ok=True)
        self._log = home / f"{name}.out"
        settings = {"API_KEY": KEY, "LOG_FILE": str(home / f"{name}.log"), "RATE_LIMIT": "", "LOG_LEVEL": "INFO"}
        with self._log.open("wb") as log:
            self._process = psutil.Popen(
                command, cwd=home, env={**_environment(), **settings, **environment}, stdout=log, stderr=log
            )
        self._answers()

    def cpu(self) -> float:
        """Microseconds that all its processes have used."""
        used = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used * 1e6

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(self.url + "/livez").close()  # noqa: S310 - of this machine
            except urllib.error.HTTPError:
                return  # it has no such route, but answers
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise SystemExit(f"{self.name} did not start:\n{self._log.read_text()}")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE"))}


def service(name: str, port: int, home: Path, database_url: str, workers: int = 1, **settings: str) -> Server:
    """This project's own."""
    command = [sys.executable, "-m", "app", "serve", f"--port={port}", f"--workers={workers}"]
    return Server(name, command, port, home, {"PYTHONPATH": str(ROOT), "DATABASE_URL": database_url, **settings})


def rival(name: str, app: str, port: int, home: Path, database_url: str = "", workers: int = 1) -> Server:
    """One of benchmarks/baseline."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(BASELINE), app, f"--port={port}"]
    options = [f"--workers={workers}", "--loop=uvloop", "--http=httptools", "--no-access-log"]
    return Server(name, [*command, *options], port, home, {"DATABASE_URL": database_url})
