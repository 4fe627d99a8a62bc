"""The command line: `python -m app serve | migrate | openapi`."""

import argparse
import asyncio
import json
import os
import socket
import sys

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from app import main as wiring
from app import settings
from app.api import documentation
from app.db.start import bring_up_to_date
from app.errors import Problem, Refused
from app.settings import Settings
from app.telemetry import logs

KEEP_ALIVE = 75
"""Seconds; longer than common proxies keep an idle connection, so that they close it first and no POST is lost."""

DRAIN = 30
"""Seconds in which requests in flight may finish after SIGTERM."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command. Exits with one line and a status other than 0 where it is refused."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (Refused, Problem) as refusal:
        sys.exit(f"cannot start: {refusal}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="RAG Chat Storage")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="serve HTTP; the production entry")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    serve.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    serve.set_defaults(run=_serve)
    migrate = commands.add_parser("migrate", help="bring the schema up to date and exit")
    migrate.set_defaults(run=_migrate)
    openapi = commands.add_parser("openapi", help="print the OpenAPI document")
    openapi.set_defaults(run=_openapi)
    return parser


def _migrate(_: argparse.Namespace) -> None:
    loaded = settings.load()
    _configure_logs(loaded)
    asyncio.run(bring_up_to_date(loaded))


def _openapi(_: argparse.Namespace) -> None:
    app = wiring.build(Settings.model_construct(api_key=("none",)))
    print(json.dumps(documentation.schema(app), indent=2))


def _serve(chosen: argparse.Namespace) -> None:
    loaded = settings.load()
    _configure_logs(loaded)
    config = uvicorn.Config(
        "app.main:app",
        host=chosen.host,
        port=chosen.port,
        workers=chosen.workers,
        log_config=None,
        access_log=False,
        proxy_headers=bool(loaded.forwarded_allow_ips),
        forwarded_allow_ips=loaded.forwarded_allow_ips or None,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
    )
    greeting = _greeting(f"http://{'localhost' if chosen.host in _LOCAL else chosen.host}:{chosen.port}")
    if chosen.workers > 1:
        listening = config.bind_socket()
        print(greeting, flush=True)
        Multiprocess(config, sockets=[listening]).run()
        return
    server = _GreetingServer(config, greeting)
    try:
        server.run()
    except KeyboardInterrupt:
        return
    if not server.started:
        sys.exit(STARTUP_FAILURE)


class _GreetingServer(uvicorn.Server):
    """Says where it is once it answers."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and isinstance(wiring.app, wiring.OneLineRefusals):
            print(f"\n  database  {wiring.app.database}{self._greeting}", flush=True)


_LOCAL = ("127.0.0.1", "0.0.0.0", "::", "::1")  # noqa: S104 - compared with, not bound to


def _greeting(url: str) -> str:
    where, key = (
        ("the environment", "$API_KEY") if "API_KEY" in os.environ else (".env", "$(sed -n 's/^API_KEY=//p' .env)")
    )
    return f"""
  service   {url}
  docs      {url}/docs
  key       API_KEY in {where}
  try       curl -H "X-API-Key: {key}" {url}/health
"""


def _configure_logs(loaded: Settings) -> None:
    logs.configure(level=loaded.log_level, style=loaded.log_format, file=loaded.log_file)
