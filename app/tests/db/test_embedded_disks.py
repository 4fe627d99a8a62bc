"""The embedded PostgreSQL on file systems and disks that are not fit for it, and through a long recovery."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.errors import Refused
from app.tests.db.embedded_place import Place, rows, until, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

Mount = Callable[..., None]


@pytest.fixture
def mount(empty: Place) -> Iterator[Mount]:
    """Mounts something at the directory, and unmounts it when nothing runs there any more."""
    mounted = []

    def mount(*command: str) -> None:
        if os.geteuid() != 0 or shutil.which(command[0]) is None:
            pytest.skip(f"needs root and {command[0]}")
        empty.root.mkdir()
        if (tried := subprocess.run([*command, str(empty.root)], capture_output=True, check=False)).returncode:
            empty.root.rmdir()
            pytest.skip(f"{command[0]} cannot mount here: {tried.stderr.decode()}")
        mounted.append(empty.root)

    yield mount
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    assert await process.wait() == 0


async def refusal(place: Place) -> str:
    with pytest.raises(Refused) as refused:
        await place.attach()
    await place.gone()
    line = str(refused.value)
    assert "\n" not in line
    assert str(place.root) in line
    assert "DATABASE_URL" in line
    return line


async def test_a_file_system_without_modes_is_refused_and_left_as_it_was(
    empty: Place, mount: Mount, tmp_path: Path
) -> None:
    if shutil.which("mkntfs") is None:
        pytest.skip("no mkntfs on this machine")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    await run("mkntfs", "-qF", str(image))
    mount("ntfs-3g", str(image))
    (empty.root / "mine").write_text("mine")
    for _ in range(2):  # what the first start leaves does not get into the second one's way
        line = await refusal(empty)
        assert "demands mode 0700" in line
        assert "its file system" in line
        assert sorted(path.name for path in empty.root.iterdir()) == ["mine", "postgres.log", "run"]


async def test_a_disk_too_small_for_a_database_is_refused_with_its_size(empty: Place, mount: Mount) -> None:
    mount("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs")
    assert "takes 64 MiB and its file system has 19 MiB left" in await refusal(empty)
    await run("mount", "-o", "remount,size=200m", str(empty.root))
    await write((await empty.attach()).dsn)


async def test_a_full_disk_is_named_though_no_log_can_be_written(empty: Place, made: Path, mount: Mount) -> None:
    mount("mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs")
    shutil.copytree(made, empty.root, dirs_exist_ok=True)
    page = f"{'FATAL:  of an earlier start':<4095}\n"  # full, or the log would get one more line
    (empty.root / "postgres.log").write_text(page)
    filler = empty.root / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(90 << 20))
    line = await refusal(empty)
    assert "earlier" not in line
    assert "full" in line or "No space left on device" in line
    filler.unlink()
    await write((await empty.attach()).dsn)


async def test_a_read_only_mount_is_named(empty: Place, made: Path, mount: Mount) -> None:
    mount("mount", "-t", "tmpfs", "tmpfs")
    shutil.copytree(made, empty.root, dirs_exist_ok=True)
    await run("mount", "-o", "remount,ro", str(empty.root))
    assert "Read-only file system" in await refusal(empty)


async def test_a_file_system_without_locks_is_named(empty: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:  # as the kernel answers on some network shares, which no test can mount
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("app.db.cluster.fcntl.flock", no_locks)
    assert "its file system has no locks (Operation not supported)" in await refusal(empty)


async def test_a_cluster_open_to_all_is_closed_again(place: Place) -> None:
    (place.root / "pg18").chmod(0o777)
    await write((await place.attach()).dsn)
    assert (place.root / "pg18").stat().st_mode & 0o777 == 0o700


async def test_a_directory_removed_under_the_server_is_not_in_the_next_ones_way(place: Place) -> None:
    first = await place.server()
    await write(await first.dsn())
    postmaster, keeper = psutil.Process(place.postmaster()), psutil.Process(place.keeper() or 0)
    shutil.rmtree(place.root)
    await first.end()
    await until(lambda: not postmaster.is_running() and not keeper.is_running())
    again = await place.server()
    await write(await again.dsn())


async def test_a_directory_removed_under_a_process_that_ends_its_use_leaves_no_thread_at_work(place: Place) -> None:
    others = set(threading.enumerate())
    cluster = await place.attach()
    await write(cluster.dsn)
    shutil.rmtree(place.root)
    cluster.release()
    await until(lambda: not [thread for thread in threading.enumerate() if thread not in others])


async def test_start_waits_for_recovery_and_a_second_one_is_refused_meanwhile(place: Place) -> None:
    server = await place.server()
    await write(await server.dsn())
    processes = [server.pid, place.keeper(), place.postmaster()]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in processes:
            assert pid
            os.kill(pid, number)
    held = HeldRecovery(place)
    again = await place.server()
    await until(held.has_begun)
    pid_file = (place.root / "pg18/postmaster.pid").read_text()
    assert "starting" in pid_file
    assert f"pid {again.pid} uses it" in await (await place.server()).refusal()
    assert (place.root / "pg18/postmaster.pid").read_text() == pid_file
    held.go_on()
    assert await rows(await again.dsn()) == 1


class HeldRecovery:
    """The next start's replay of the log, which reads this file first: whoever opens a pipe waits for its writer."""

    def __init__(self, place: Place) -> None:
        self._pipe = place.root / "pg18/pg_logical/replorigin_checkpoint"
        self._content, owner = self._pipe.read_bytes(), self._pipe.stat()
        self._pipe.unlink()
        os.mkfifo(self._pipe, 0o600)
        os.chown(self._pipe, owner.st_uid, owner.st_gid)
        self._writing = -1

    def has_begun(self) -> bool:
        with contextlib.suppress(OSError):  # nobody reads yet
            self._writing = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
        return self._writing >= 0

    def go_on(self) -> None:
        self._pipe.unlink()  # PostgreSQL writes another, and before that wants what is there on disk
        with os.fdopen(self._writing, "wb") as pipe:
            pipe.write(self._content)
