"""The servers that are compared, each a process tree of its own, and the CPU time that they use."""

import http
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import psutil
from evidence_subjects import url
from load import KEY
from scale import Scale

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "benchmarks" / "baseline"

SERVICE, WORKERS = "service", "service, 2 workers"
BARE, UNLOGGED, LIMITED = "service, bare", "service, no log lines", "service, rate limit"
FROM_PYTHON = "constant, asked from Python"

NEVER_HIT = "100000/second"  # a short window, which holds few requests, as one that is hit does

PORT = 18_100
PATIENCE = 60  # seconds for a server to answer
MOMENT = 0.03  # seconds; the system counts CPU in hundredths


class Server:
    """One that was started, and answers once it was waited for. `url` is without a path."""

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

    def wait(self, path: str = "/livez") -> None:
        """Until `path` is answered with 200, or with 404 by a server that has no such route."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(self.url + path).close()  # noqa: S310 - of this machine
            except urllib.error.HTTPError as error:
                if error.code == http.HTTPStatus.NOT_FOUND:
                    return
            except OSError:
                time.sleep(0.005)
            else:
                return
        raise SystemExit(f"{self.name} did not start:\n{self._log.read_text()}")

    def cpu(self) -> float:
        """Microseconds that all its processes have used."""
        used = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used * 1e6

    def settle(self) -> None:
        """Until it works no more on what clients asked who are gone: a moment in which it uses no CPU."""
        before = self.cpu()
        for _ in range(round(PATIENCE / MOMENT)):
            time.sleep(MOMENT)
            if (now := self.cpu()) == before:
                return
            before = now

    def resident(self) -> float:
        """Megabytes that its first process holds: the server itself where there is one worker."""
        return float(self._process.memory_info().rss) / 1e6

    def send_signal(self, number: int) -> None:
        """To its first process."""
        self._process.send_signal(number)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def _environment() -> dict[str, str]:
    """Without what would choose another database, or have Python compile everything at each start."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE", "PYTHON"))}


def service(
    name: str,
    port: int,
    home: Path,
    database_url: str,
    workers: int = 1,
    program: Sequence[str] = ("-m", "app"),
    **settings: str,
) -> Server:
    """This project's own, or a program that runs it; with an embedded database where `database_url` is empty."""
    command = [sys.executable, *program, "serve", f"--port={port}", f"--workers={workers}"]
    return Server(name, command, port, home, {"PYTHONPATH": str(ROOT), "DATABASE_URL": database_url, **settings})


def rival(name: str, app: str, port: int, home: Path, database_url: str = "", workers: int = 1) -> Server:
    """One of benchmarks/baseline."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(BASELINE), app, f"--port={port}"]
    options = [f"--workers={workers}", "--loop=uvloop", "--http=httptools", "--no-access-log"]
    return Server(name, [*command, *options], port, home, {"DATABASE_URL": database_url})


def stored(messages: int) -> str:
    """The service in front of a store of so many messages."""
    return f"service, {messages} messages"


def start_all(stack: ExitStack, home: Path, scale: Scale) -> dict[str, Server]:
    """Every server, by name; they end with `stack`."""
    ports, database = count(PORT), url(home, "service_")
    made = [
        service(SERVICE, next(ports), home, database),
        service(WORKERS, next(ports), home, database, workers=2),
        service(BARE, next(ports), home, database, program=(str(BASELINE / "bare_service.py"),)),
        service(UNLOGGED, next(ports), home, database, LOG_LEVEL="WARNING"),
        service(LIMITED, next(ports), home, database, RATE_LIMIT=NEVER_HIT),
        rival("ORM", "orm_service:app", next(ports), home, url(home, "orm_")),
        rival("constant", "bare:constant", next(ports), home),
        rival("validating", "bare:validating", next(ports), home),
    ]
    made += [service(stored(size), next(ports), home, url(home, f"store_{size}")) for size in scale.stores]
    return started(stack, made)


def started(stack: ExitStack, servers: list[Server]) -> dict[str, Server]:
    """These servers, by name, once all of them answer."""
    for server in servers:
        stack.callback(server.stop)
    for server in servers:
        server.wait()
    return {server.name: server for server in servers}
