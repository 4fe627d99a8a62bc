"""The log: one line per request, nothing forged, nothing secret, never in a request's way."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import Refused
from app.telemetry import logs
from app.tests.process import SERVE, run

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


@pytest.fixture
def line_file(tmp_path: Path) -> Iterator[logs.LineFile]:
    handler = logs.LineFile(tmp_path / "logs" / "app.log")
    handler.setFormatter(logging.Formatter("%(message)s"))
    yield handler
    handler.close()


def test_a_renamed_file_is_left_for_a_new_one(line_file: logs.LineFile, tmp_path: Path) -> None:
    current, rotated = tmp_path / "logs/app.log", tmp_path / "logs/app.log.1"
    line_file.emit(record("before"))
    current.rename(rotated)
    line_file.emit(record("after"))
    assert (rotated.read_text(), current.read_text()) == ("before\n", "after\n")


def test_a_log_that_cannot_be_written_fails_nobody(line_file: logs.LineFile, tmp_path: Path) -> None:
    (tmp_path / "logs/app.log").unlink()
    (tmp_path / "logs").rmdir()
    line_file.emit(record("lost"))
    (tmp_path / "logs").mkdir()
    line_file.emit(record("kept"))
    assert (tmp_path / "logs/app.log").read_text() == "kept\n"


def test_a_file_that_cannot_be_opened_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"LOG_FILE .*file/app\.log cannot be opened"):
        logs.LineFile(tmp_path / "file" / "app.log")


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
            if isinstance(handler, logs.LineFile):
                handler.close()
        root.setLevel(level)
    written = (tmp_path / "app.log").read_text()
    assert re.fullmatch(r"\S+ INFO uvicorn\.error - started\n", written)
    assert capsys.readouterr().err == written
    assert sys.stderr


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


async def test_no_key_and_no_content_reaches_a_log(tmp_path: Path) -> None:
    canary = "canary-7d1f"
    async with run(*SERVE, cwd=tmp_path, API_KEY=f"{canary}-key", LOG_FILE="app.log", LOG_LEVEL="DEBUG") as server:
        await server.ready()
        async with server.client() as client:
            client.headers["X-API-Key"] = f"{canary}-key"
            session = await client.create(name=canary, user_id=canary)
            path = f"/chat/sessions/{session['id']}/messages"
            message = {"sender": canary, "content": canary, "context": {canary: canary}}
            assert (await client.post(path, json=message)).status_code == 201
            assert (await client.post(path, json={**message, "metadata": [canary]})).status_code == 422
            assert (await client.post(path, content=f'{{"{canary}'.encode())).status_code == 415
            assert (await client.get(f"/chat/{canary}?{canary}={canary}")).status_code == 404
            assert (await client.get("/health", headers={"X-API-Key": f"{canary}-wrong"})).status_code == 401
            assert (await client.get("/chat/sessions", params={"name": canary})).status_code == 200
            assert (await client.put(path.removesuffix("/messages"), json={"name": canary * 30})).status_code == 422
    written = (tmp_path / "app.log").read_text() + server.output + (tmp_path / "data/postgres.log").read_text()
    assert "/chat/sessions/{session_id}/messages 201" in written
    assert canary not in written
