"""The command line: `python -m app serve | migrate | backup | restore | openapi`."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from app import main as wiring
from app import server, settings
from app.api import documentation
from app.db.backup import backup
from app.db.restore import restore
from app.db.start import bring_up_to_date
from app.errors import Problem, Refused
from app.settings import Settings
from app.telemetry import logs


def main(arguments: list[str] | None = None) -> None:
    """Run one command. Exits with one line and a status other than 0 where it is refused."""
    chosen = parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (Refused, Problem) as refusal:
        sys.exit(f"cannot start: {refusal}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m app", description="RAG Chat Storage")
    commands = top.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="serve HTTP; the production entry")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    serve.add_argument("--uds", help="path of a unix socket to listen on, instead of host and port")
    serve.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    serve.set_defaults(run=_serve)
    migrate = commands.add_parser("migrate", help="bring the schema up to date and exit")
    migrate.set_defaults(run=_migrate)
    for name, operation, purpose in (
        ("backup", backup, "write all sessions and messages to a new file"),
        ("restore", restore, "load a backup into an empty database"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("file", metavar="FILE", type=Path)
        command.set_defaults(run=_carry_out, operation=operation, name=name)
    openapi = commands.add_parser("openapi", help="print the OpenAPI document")
    openapi.set_defaults(run=_openapi)
    return top


def _migrate(_: argparse.Namespace) -> None:
    loaded = settings.load()
    _configure_logs(loaded)
    asyncio.run(bring_up_to_date(loaded))


def _carry_out(chosen: argparse.Namespace) -> None:
    """Back up or restore. Interrupted, by Ctrl-C or by `systemctl stop`, it leaves as little behind as refused."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs inherit it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # which asyncio knows how to end by
    try:
        loaded = settings.load()
        _configure_logs(loaded)
        print(asyncio.run(chosen.operation(loaded, chosen.file)))
    except KeyboardInterrupt:
        sys.exit(f"{chosen.name} interrupted: nothing was done")
    except (Refused, Problem) as refusal:
        sys.exit(f"cannot {chosen.name}: {refusal}")


def _openapi(_: argparse.Namespace) -> None:
    app = wiring.build(Settings.model_construct(api_key=("none",)))
    print(json.dumps(documentation.schema(app), indent=2))


def _serve(chosen: argparse.Namespace) -> None:
    loaded = settings.load()
    _configure_logs(loaded)
    server.serve(loaded, host=chosen.host, port=chosen.port, uds=chosen.uds, workers=chosen.workers)


def _configure_logs(loaded: Settings) -> None:
    logs.configure(level=loaded.log_level, style=loaded.log_format, file=loaded.log_file)
