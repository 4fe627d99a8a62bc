"""The log: one line per request, nothing forged, nothing secret, never in a request's way."""

import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from app.telemetry import logs
from app.telemetry.handlers import LineFile
from app.tests.process import SERVE, environment, run

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO app\.access req-1 "
    r"POST /chat/sessions/\{session_id\}/messages 201 [\d.]+ms 127\.0\.0\.1"
)


def record(message: str, *, error: Exception | None = None, **extra: object) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("app.test", logging.ERROR, "file.py", 1, message, None, exc_info)
    vars(made).update(extra)
    return made


def raised(error: Exception) -> Exception:
    try:
        raise error  # noqa: TRY301 - the point
    except Exception as caught:  # noqa: BLE001 - any
        return caught


@pytest.mark.parametrize("forged", ["a\nb", "a\r\nINFO b", "a\x1b[31mb", "a\u2028b", "a\x85b", "a\0b"])
def test_no_line_can_be_forged(forged: str) -> None:
    text = logs.TextFormatter().format(record(forged))
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    line = logs.JsonFormatter().format(record(forged))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == forged


def test_an_exception_is_logged_by_type_and_frames_and_never_by_its_text() -> None:
    error = raised(ValueError("canary"))
    error.__cause__ = raised(KeyError("canary"))
    for formatter in (logs.TextFormatter(), logs.JsonFormatter()):
        text = formatter.format(record("it failed", error=error))
        assert "builtins.ValueError at test_logs.py:" in text
        assert "caused by builtins.KeyError" in text
        assert "canary" not in text


def test_one_configuration_serves_uvicorn_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    try:
        logs.configure(level="INFO", style="text", file=tmp_path / "app.log")
        logs.configure(level="INFO", style="text", file=tmp_path / "app.log")  # a second one replaces the first
        logging.getLogger("uvicorn.error").info("started")
        logging.getLogger("uvicorn.access").info("not ours")
        logging.getLogger("sqlalchemy.engine.Engine").info("SELECT 1")
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            if isinstance(handler, LineFile):
                handler.close()
        root.setLevel(level)
    written = (tmp_path / "app.log").read_text()
    assert re.fullmatch(r"\S+ INFO uvicorn\.error - started\n", written)
    assert capsys.readouterr().err == written
    assert sys.stderr


class Heard(logging.Handler):
    """Somebody else's handler."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_access_line_is_the_same_with_a_record_and_without(
    style: Literal["text", "json"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, heard = logging.getLogger(), Heard()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(time, "time", lambda: 1_764_331_199.9996)
    monkeypatch.setattr(time, "time_ns", lambda: 1_764_331_199_999_600_000)  # which a record asks from Python 3.13 on
    logs.configure(level="INFO", style=style, file=tmp_path / "app.log")
    ours = root.handlers[:]
    for listener in (None, root, logging.getLogger("app"), logging.getLogger("app.access")):
        if listener:
            listener.addHandler(heard)
        logs.access(method="GET", route="/livez", status=200, duration_ms=1.5, client="::1")
        if listener:
            listener.removeHandler(heard)
    ours[1].addFilter(lambda record: record.name != "app.access")
    logs.access(method="GET", route="/livez", status=200)
    ours[1].close()
    lines = (tmp_path / "app.log").read_text().splitlines()
    assert len(lines) == 4
    assert len(set(lines)) == 1
    assert "2025-11-28T11:59:59.999Z" in lines[0]
    assert len(heard.records) == 3
    assert vars(heard.records[0])["access"]["route"] == "/livez"
    assert capsys.readouterr().err.splitlines()[:4] == lines


def test_uvicorn_does_not_put_a_line_together_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    root, theirs = logging.getLogger(), logging.getLogger("uvicorn.access")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    theirs.addHandler(logging.NullHandler())
    logs.configure(level="INFO", style="text", file=None)
    assert not theirs.hasHandlers()  # which is what uvicorn asks for each connection


def test_arguments_that_do_not_fit_cost_no_line_and_are_not_told() -> None:
    bad = record("%d messages")
    bad.args = ("canary",)
    assert logs.TextFormatter().format(bad).endswith(" %d messages (its arguments do not fit)")
    assert json.loads(logs.JsonFormatter().format(bad))["message"] == "%d messages (its arguments do not fit)"


@pytest.mark.parametrize("text", ["\ud800", "é\U0001f600", "\udcff\n", '"\\', "\x00\x1b[31m"])
def test_any_text_is_one_line_of_json(text: str, tmp_path: Path) -> None:
    file = LineFile(tmp_path / "app.log", logging.NullHandler())
    file.setFormatter(logs.JsonFormatter())
    file.emit(record(text, access={"client": text}))
    file.close()
    (line,) = (tmp_path / "app.log").read_bytes().splitlines()
    assert json.loads(line)["message"] == json.loads(line)["client"] == text


def test_an_exception_that_is_its_own_cause_or_very_deep_is_one_short_line() -> None:
    own = raised(ValueError())
    own.__cause__ = own

    def deeper() -> None:
        deeper()

    with pytest.raises(RecursionError) as deep:
        deeper()
    for error in (own, deep.value):
        assert len(logs.TextFormatter().format(record("it failed", error=error))) < 5000


CRASHES = """
import asyncio, logging, os, sys, threading, warnings
from pathlib import Path
from app.telemetry import logs

class Unraisable:
    def __del__(self):
        raise ValueError("canary")

async def forgotten():
    async def fail():
        raise ValueError("canary")
    asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

logs.configure(level="DEBUG", style="json", file=Path("app.log"))
warnings.warn("canary\\ncanary", stacklevel=1)
asyncio.run(forgotten())
thread = threading.Thread(target=lambda: int("canary"))
thread.start()
thread.join()
Unraisable()
logging.getLogger("third.party").error("%s and %s", "canary")
raise ValueError("canary")
"""


def test_whatever_crashes_is_one_line_each_without_its_text(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASHES], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (tmp_path / "app.log").read_text()
    assert "canary" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    told = [(line["logger"], line["message"], line.get("exception", "").partition(" at ")[0]) for line in lines]
    assert told == [
        ("py.warnings", "<string>:18: UserWarning", ""),
        ("asyncio", "Using selector: EpollSelector", ""),
        ("asyncio", "Task exception was never retrieved", "builtins.ValueError"),
        ("app", "unexpected end of a thread", "builtins.ValueError"),
        ("app", "ignored", "builtins.ValueError"),
        ("third.party", "%s and %s (its arguments do not fit)", ""),
        ("app", "unexpected end", "builtins.ValueError"),
    ]


async def test_a_request_is_one_line_on_the_console_and_in_the_file(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url, LOG_FILE="app.log") as server:
        await server.ready()
        async with server.client() as client:
            session = await client.create()
            body = {"sender": "user", "content": "canary-content"}
            path = f"/chat/sessions/{session['id']}/messages?context=none"
            await client.post(path, json=body, headers={"X-Request-ID": "req-1"})
    written = (tmp_path / "app.log").read_text()
    lines = [line for line in written.splitlines() if "req-1" in line]
    assert len(lines) == 1
    assert LINE.fullmatch(lines[0]), lines
    assert lines[0] in server.output


async def test_json_lines_hold_the_same(tmp_path: Path, database_url: str) -> None:
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url, LOG_FILE="app.log", LOG_FORMAT="json") as server:
        await server.ready()
        async with server.client() as client:
            await client.get("/health", headers={"X-Request-ID": "req-2"})
    lines = [json.loads(line) for line in (tmp_path / "app.log").read_text().splitlines()]
    (line,) = [line for line in lines if line["request_id"] == "req-2"]
    assert {"time", "level", "logger", "message", "duration_ms", "client"} < set(line)
    assert (line["method"], line["route"], line["status"]) == ("GET", "/health", 200)
