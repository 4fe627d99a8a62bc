"""`python -m app serve`: uvicorn, set up for production.

Beyond uvicorn's own command: keep-alive longer than a proxy's, requests in flight finish on SIGTERM, heads of
requests are limited (connection.py), as many open files as the system allows, and forwarded addresses are
believed from nobody but FORWARDED_ALLOW_IPS.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from app import main as wiring
from app.errors import Refused
from app.settings import Settings
from app.telemetry.handlers import silence

if sys.platform != "win32":
    import resource

KEEP_ALIVE = 75
"""Seconds; longer than common proxies keep an idle connection, so that they close it first and no POST is lost."""

DRAIN = 30
"""Seconds in which requests in flight may finish after SIGTERM."""

_OPEN_FILES = 65_536

ACCEPTED_A_ROUND = 1 if sys.platform == "win32" else 16
"""Connections accepted in one round of the event loop. uvloop accepts one for each listening socket, so that those of
an overloaded server wait in the kernel, neither served nor refused, probes behind all others: it listens as often."""

_WORKER_SILENCE = 60
"""Seconds; uvicorn kills a worker silent for 5, which on a busy machine is one that still imports, again and again."""


def serve(chosen: Settings, *, host: str, port: int, uds: str | None, workers: int) -> None:
    """Serve until SIGTERM or Ctrl-C. Exits with a status other than 0 where the start failed."""
    _raise_open_files()
    if uds:
        _remove_stale(Path(uds))
    config = uvicorn.Config(
        "app.main:app",
        host=host,
        port=port,
        uds=uds,
        workers=workers,
        http="app.connection:Connection",  # a class would be imported in a worker before it knows that it is one
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=bool(chosen.forwarded_allow_ips),
        forwarded_allow_ips=chosen.forwarded_allow_ips or None,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
        timeout_worker_healthcheck=_WORKER_SILENCE,
    )
    if workers > 1:
        _serve_with_workers(config)
    else:
        _serve_alone(config)


def _serve_alone(config: uvicorn.Config) -> None:
    server = _GreetingServer(config)
    with suppress(KeyboardInterrupt):
        server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)


def _serve_with_workers(config: uvicorn.Config) -> None:
    listening = config.bind_socket()
    _say(_greeting(config))
    supervisor = _Workers(config, sockets=[listening, *(listening.dup() for _ in range(1, ACCEPTED_A_ROUND))])
    supervisor.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        sys.exit(STARTUP_FAILURE)  # uvicorn's own command does the same


class _Workers(Multiprocess):
    def keep_subprocess_alive(self) -> None:
        for worker in self.processes:
            worker.child_conn.close()  # ours: while it is open, the end of a worker that is being asked goes unnoticed
        super().keep_subprocess_alive()

    def terminate_all(self) -> None:
        for listening in self.sockets:
            listening.close()  # ours too: else newcomers are accepted, and nobody answers them
        super().terminate_all()


class _GreetingServer(uvicorn.Server):
    """Says where it is once it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self._listen_more_often()
        if self.started and isinstance(wiring.app, wiring.OneLineRefusals):
            _say(f"\n  database  {wiring.app.database}{_greeting(self.config)}")

    async def _listen_more_often(self) -> None:
        protocol = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        for listening in [listening for server in self.servers for listening in server.sockets]:
            for _ in range(1, ACCEPTED_A_ROUND):
                same = socket.socket(fileno=os.dup(listening.fileno()))
                server = await asyncio.get_running_loop().create_server(
                    protocol, sock=same, backlog=self.config.backlog
                )
                self.servers.append(server)


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)


_LOCAL = ("127.0.0.1", "0.0.0.0", "::", "::1")  # noqa: S104 - compared with, not bound to


def _greeting(config: uvicorn.Config) -> str:
    host = "localhost" if config.host in _LOCAL else f"[{config.host}]" if ":" in config.host else config.host
    service = call = f"http://{host}:{config.port}"
    if config.uds:
        service, call = f"unix socket {config.uds}", f"--unix-socket {config.uds} http://localhost"
    where, key = (
        ("the environment", "$API_KEY") if "API_KEY" in os.environ else (".env", "$(sed -n 's/^API_KEY=//p' .env)")
    )
    return f"""
  service   {service}
  docs      {call}/docs
  key       API_KEY in {where}
  try       curl -H "X-API-Key: {key}" {call}/health
"""


def _raise_open_files() -> None:
    """Each connection is an open file, and the usual soft limit of 1,024 is for programs that use select()."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS knows further limits
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _remove_stale(uds: Path) -> None:
    """Remove the socket of a server that was killed. uvicorn would take one that answers away from its server."""
    if not uds.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(uds))
        except ConnectionRefusedError:
            uds.unlink(missing_ok=True)
        else:
            raise Refused(f"another server listens on {uds}: end it, or choose another --uds")
