"""A log file that is full, gone or forbidden: no request notices, and the console says so once."""

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db import embedded
from app.db.keeper import LARGE_LOG
from app.errors import Refused
from app.telemetry.handlers import LineFile
from app.tests.process import SERVE, Running, environment, free_port, run

KEPT = "kept"


class Heard(logging.Handler):
    """A console that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("app.test", logging.INFO, "file.py", 1, message, None, None)


@pytest.fixture
def console() -> Heard:
    return Heard()


@pytest.fixture
def file(tmp_path: Path, console: Heard) -> Iterator[LineFile]:
    handler = LineFile(tmp_path / "logs" / "app.log", console)
    handler.setFormatter(logging.Formatter("%(message)s"))
    yield handler
    handler.close()


def test_a_renamed_file_is_left_for_a_new_one(file: LineFile, console: Heard) -> None:
    rotated = file.path.with_suffix(".1")
    file.handle(record("before"))
    file.path.rename(rotated)
    file.handle(record("after"))
    assert (rotated.read_text(), file.path.read_text(), console.lines) == ("before\n", "after\n", [])


def test_lines_of_several_threads_do_not_mix(file: LineFile) -> None:
    def write(name: str) -> None:
        for _ in range(500):
            file.handle(record(name * 200))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.path.read_text().splitlines()) == sorted(name * 200 for name in "abcd" for _ in range(500))


def test_a_directory_that_is_removed_costs_lines_until_it_is_back(file: LineFile, console: Heard) -> None:
    shutil.rmtree(file.path.parent)
    for _ in range(3):
        file.handle(record("lost"))
    assert len(console.lines) == 1
    assert f"LOG_FILE {file.path} cannot be written (No such file or directory)" in console.lines[0]
    file.path.parent.mkdir()
    file.handle(record("kept"))
    assert len(console.lines) == 2
    assert f"LOG_FILE {file.path} is written again; 3 of its lines are missing" in console.lines[1]
    assert file.path.read_text().splitlines() == ["kept", console.lines[1]]


def test_a_directory_that_is_renamed_costs_no_line(file: LineFile, console: Heard, tmp_path: Path) -> None:
    file.path.parent.rename(tmp_path / "moved")
    file.handle(record("on"))
    file.handle(record("and on"))
    assert (tmp_path / "moved/app.log").read_text() == "on\nand on\n"
    assert len(console.lines) == 1
    assert (
        "cannot be opened anew (No such file or directory): its lines go on into the renamed file" in console.lines[0]
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_the_right_to_write_gets_the_next_line_into_the_renamed_file(
    file: LineFile, console: Heard
) -> None:
    file.path.rename(file.path.with_suffix(".1"))
    file.path.parent.chmod(0o500)
    file.handle(record("on"))
    file.path.parent.chmod(0o700)
    assert file.path.with_suffix(".1").read_text() == "on\n"
    assert "Permission denied" in console.lines[0]


@pytest.mark.parametrize("name", ["directory", "file/app.log"])
def test_a_file_that_cannot_be_opened_refuses_the_start(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    with pytest.raises(Refused, match=rf"LOG_FILE .*{name} cannot be opened"):
        LineFile(tmp_path / name, Heard())


SHORT_OF_SPACE = """
import logging, resource, signal, sys
from pathlib import Path
from app.telemetry.handlers import LineFile

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = LineFile(Path("app.log"), logging.StreamHandler(sys.stdout))
for number in range(200):
    file.handle(logging.makeLogRecord({"msg": f"{number:03} {'x' * 69}"}))
"""


def test_a_line_that_does_not_fit_leaves_no_part_of_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHORT_OF_SPACE]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert (tmp_path / "app.log").read_text().splitlines() == [f"{number:03} {'x' * 69}" for number in range(13)]
    assert done.stdout.count("\n") == done.stdout.count("LOG_FILE app.log cannot be written (") == 1, done


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no right to mount here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


MANY_LINES = """
import json, logging, sys
from pathlib import Path
from app.telemetry.handlers import LineFile

file = LineFile(Path(sys.argv[1]), logging.StreamHandler(sys.stdout))
for number in range(500):
    file.handle(logging.makeLogRecord({"msg": json.dumps("x" * (number * 37 % 200))}))
"""


def test_a_full_disk_tears_no_line_of_four_processes(small_disk: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY_LINES, str(small_disk / "app.log")]
    running = [subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = [process.communicate()[0] for process in running]
    assert any("No space left on device" in output for output in told)
    content = (small_disk / "app.log").read_text()
    assert content.endswith("\n")
    whole = re.compile(r'"x*"|LOG_FILE \S+ is written again; \d+ of its lines are missing \(process \d+\)')
    assert [line for line in content.splitlines() if not whole.fullmatch(line)] == []  # a short one may still have fit


async def test_a_full_disk_fails_no_request_and_is_told_once(
    small_disk: Path, tmp_path: Path, database_url: str
) -> None:
    path, filler = small_disk / "app.log", small_disk / "filler"
    settings = {"DATABASE_URL": database_url, "LOG_FILE": str(path), "LOG_FORMAT": "json"}
    async with run(*SERVE, cwd=tmp_path, **settings) as server:
        await server.ready()
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(64 * 1024))
        async with server.client() as client:
            for _ in range(100):
                assert (await client.get("/chat/sessions")).status_code == 200
            filler.unlink()
            assert (await client.get("/chat/sessions", headers={"X-Request-ID": KEPT})).status_code == 200
    assert server.output.count(f"LOG_FILE {path} cannot be written (No space left on device)") == 1
    assert server.output.count(f"LOG_FILE {path} is written again; ") == 1
    assert {KEPT} < {json.loads(line)["request_id"] for line in path.read_text().splitlines()}


async def test_a_log_that_never_takes_a_line_is_told_once(tmp_path: Path, database_url: str) -> None:
    if not Path("/dev/full").exists():  # noqa: ASYNC240 - before anything runs
        pytest.skip("no /dev/full")
    (tmp_path / "app.log").symlink_to("/dev/full")
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=database_url, LOG_FILE="app.log") as server:
        await server.ready()
        async with server.client() as client:
            for _ in range(20):
                assert (await client.get("/chat/sessions")).status_code == 200
    assert server.output.count("LOG_FILE") == 1
    assert " WARNING app - LOG_FILE app.log cannot be written (No space left on device)" in server.output
    assert server.output.count("GET /chat/sessions 200") == 20


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_console_that_is_closed_ends_nothing(workers: str, tmp_path: Path, database_url: str) -> None:
    """As in `python -m app serve 2>&1 | head -1`."""
    port = free_port()
    settings = environment(DATABASE_URL=database_url, LOG_FILE="app.log")
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, *SERVE, f"--port={port}", f"--workers={workers}",
        cwd=tmp_path, env=settings, stdout=writing, stderr=writing,
    )  # fmt: skip
    os.close(writing)
    os.close(reading)
    server = Running(process, f"http://127.0.0.1:{port}")
    try:
        await server.ready()
        async with server.client() as client:
            for _ in range(20):
                assert (await client.get("/chat/sessions")).status_code == 200
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
    written = (tmp_path / "app.log").read_text()
    assert written.count("GET /chat/sessions 200") == 20
    assert "LOG_FILE" not in written


async def test_a_start_puts_a_large_log_of_postgresql_aside(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "postgres.log").touch()
    os.truncate(data_dir / "postgres.log", LARGE_LOG + 1)
    (data_dir / "postgres.log.1").write_text("older")
    (await embedded.attach(data_dir)).release()
    assert (data_dir / "postgres.log.1").stat().st_size == LARGE_LOG + 1
    assert b"ready to accept connections" in (data_dir / "postgres.log").read_bytes()
