"""The keeper: the small process that owns PostgreSQL and outlives every process that uses it, by a moment.

It waits for the exclusive lock `clients`, which it gets when the last user of the database is gone, however that
one died, and then stops PostgreSQL. Until then it restarts a PostgreSQL that died. One it did not start itself,
left behind by a keeper that was killed, is treated alike: the lock `postgres` says when it is gone.

Signals do not stop it: Ctrl-C and a supervisor's SIGTERM reach the servers, whose requests in flight still need
the database. `python -m app.db.keeper DATA_DIR BIN_DIR` inherits the lock `keeper` from whoever starts it.
"""

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from app.db.cluster import Account, Cluster, Refusal, account_for

SUPERUSER = "postgres"
PORT = 5432
STARTED_IN_VAIN = 1
ENDED_FOR_GOOD = 2
"""Like STARTED_IN_VAIN, of a PostgreSQL that had run before: a full disk, mostly, where its recovery needs room."""
LARGE_LOG = 10 * 1024 * 1024
"""Bytes of postgres.log from which on a start begins a new one, and keeps the old one as postgres.log.1."""
NEW_CLUSTER = 64 * 1024 * 1024
"""Bytes on disk of a cluster with our schema: 46 MiB, and room to start in."""

_ROOM_FOR_A_LINE = 65536
_SOURCES = Path(__file__).parents[2]
_COMPLAINT = re.compile(r"(?:(?:FATAL|PANIC|error|\w+Error): +|^(?:initdb|postgres): (?=could))(.+)", re.MULTILINE)


class Keeper:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._alone = threading.Event()
        self._postgres: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Keep PostgreSQL running until its last user is gone. Returns the exit status."""
        threading.Thread(target=self._stop_when_alone, daemon=True).start()
        in_vain = STARTED_IN_VAIN
        while True:
            held = self._cluster.lock("postgres")  # waits while any process of PostgreSQL lives
            if self._alone.is_set():
                _remove_runtime_directory(self._cluster)
                return 0
            postgres = self._postgres = self._start(held)
            if postgres is None:
                return in_vain
            name = b"%d\n" % postgres.pid
            os.ftruncate(held, os.pwrite(held, name, 0))  # over the old one: a full disk has no room for a new one
            os.close(held)  # from here on PostgreSQL alone holds it
            if self._came_up(postgres):
                in_vain = ENDED_FOR_GOOD
                postgres.wait()
            elif postgres.returncode > 0 and not self._alone.is_set():
                return in_vain  # it gave up by itself, not killed, and would again; its log says why

    def _stop_when_alone(self) -> None:
        self._cluster.lock("clients")  # kept until the keeper ends: meanwhile newcomers wait
        self._alone.set()
        while True:
            if self._cluster.status() and (pid := self._cluster.postmaster()) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)  # fast shutdown; again, as the first may come before its handler
            elif self._postgres is not None and not self._cluster.data.exists():
                # Its directory was removed. Left to notice that itself, it would within a minute unlink the socket
                # of whatever PostgreSQL has been started in a new directory of that name.
                self._postgres.send_signal(signal.SIGQUIT)
            time.sleep(0.1)

    def _came_up(self, postgres: "subprocess.Popen[bytes]") -> bool:
        while postgres.poll() is None:
            if self._cluster.status() == "ready":
                return True
            time.sleep(0.02)
        return False

    def _start(self, held: int) -> "subprocess.Popen[bytes] | None":
        cluster, account = self._cluster, account_for(self._cluster)
        if not cluster.data.exists():
            _remove(cluster.unfinished)
            try:
                if not _make(cluster, account, held):
                    return None
            finally:
                _remove(cluster.unfinished)
        _keep_private(cluster.data)
        _clear(cluster, account)
        settings = {
            "listen_addresses": "",
            "port": PORT,
            "unix_socket_directories": cluster.socket_dir,
            "unix_socket_permissions": "0700",
            "log_destination": "stderr",  # which is DATA_DIR/postgres.log
            "logging_collector": "off",
            "log_error_verbosity": "terse",  # a DETAIL quotes values
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return account.start("postgres", "-D", str(cluster.data.resolve()), *options, keep=held)


def _make(cluster: Cluster, account: Account, held: int) -> bool:
    """Make the cluster beside its final name, so that an interrupted start leaves none that is half made."""
    account.make_directory(cluster.unfinished)
    _keep_private(cluster.unfinished)
    if (free := shutil.disk_usage(cluster.unfinished).free) < NEW_CLUSTER:  # a full disk would not take the log either
        raise Refusal(f"a new database takes {NEW_CLUSTER >> 20} MiB and its file system has {free >> 20} MiB left")
    descriptor = os.open(cluster.password, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
    with os.fdopen(descriptor, "r+") as password:
        account.own(cluster.password)  # initdb opens its standard input anew, by name
        password.write(os.urandom(24).hex() + "\n")
        password.flush()
        os.fsync(descriptor)
        initdb = account.start(
            "initdb",
            f"--pgdata={cluster.unfinished.resolve()}",
            f"--username={SUPERUSER}",
            "--pwfile=/dev/stdin",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            keep=held,
            stdin=descriptor,
            stdout=subprocess.DEVNULL,
        )
        made = initdb.wait() == 0
    if made:
        cluster.unfinished.rename(cluster.data)
        root = os.open(cluster.root, os.O_RDONLY)
        os.fsync(root)
        os.close(root)
    return made


def _remove(unfinished: Path) -> None:
    if unfinished.is_symlink():
        shutil.rmtree(unfinished.resolve(), ignore_errors=True)
        unfinished.unlink()
    elif unfinished.exists():
        shutil.rmtree(unfinished)


def _keep_private(directory: Path) -> None:
    """Give a directory the mode without which PostgreSQL refuses it, and see that it has it."""
    open_to_others = stat.S_IWGRP | stat.S_IRWXO
    if directory.stat().st_mode & open_to_others:
        with contextlib.suppress(OSError):
            directory.chmod(0o700)
    if (mode := directory.stat().st_mode) & open_to_others:
        raise Refusal(
            f"PostgreSQL demands mode 0700, and {directory} stays {stat.S_IMODE(mode):04o} "
            "as its file system (FAT, NTFS, a share) keeps no modes: choose one that does"
        )


def _clear(cluster: Cluster, account: Account) -> None:
    """Remove what a PostgreSQL that was killed left behind: the lock says that none lives, whatever the pid says."""
    if (pid := cluster.postmaster()) is not None:
        raise Refusal(f"process {pid} already runs PostgreSQL there, started by other means: stop it first")
    socket = cluster.socket_dir / f".s.PGSQL.{PORT}"
    for stale in (cluster.postmaster_pid, socket, socket.with_name(f"{socket.name}.lock")):
        stale.unlink(missing_ok=True)
    if socket.parent != cluster.data.resolve():
        account.make_private(socket.parent)


def _remove_runtime_directory(cluster: Cluster) -> None:
    if cluster.data.exists() and cluster.socket_dir != cluster.data.resolve():
        with contextlib.suppress(OSError):
            cluster.socket_dir.rmdir()


def start_keeper(cluster: Cluster, lock: int) -> "subprocess.Popen[bytes]":
    """Start the keeper of `cluster`, which inherits the descriptor `lock`."""
    # -S: no site-packages, -P: nothing from the working directory. A session of its own: the terminal's Ctrl-C
    # is not meant for PostgreSQL while requests are in flight.
    command = [sys.executable, "-SP", "-m", __name__, str(cluster.root), str(cluster.bin_dir)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"PYTHONPATH": str(_SOURCES), "LC_ALL": "C"}
    with contextlib.suppress(OSError):  # the next line tells
        if cluster.log.stat().st_size > LARGE_LOG:
            cluster.log.replace(cluster.log.with_name(f"{cluster.log.name}.1"))
    with open(cluster.log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        return subprocess.Popen(  # noqa: S603 - this interpreter, our module
            command,
            pass_fds=(lock,),
            start_new_session=True,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def last_complaint(log: Path, since: int) -> str:
    """Why PostgreSQL or the keeper gave up, as their log has it from the byte `since` on."""
    with log.open("rb") as file:
        file.seek(max(since, log.stat().st_size - 65536))
        complaints = _COMPLAINT.findall(file.read().decode(errors="replace"))
    if complaints:
        return str(complaints[-1])
    if shutil.disk_usage(log.parent).free < _ROOM_FOR_A_LINE:
        return "its file system is full"
    return f"PostgreSQL does not start, see {log}"


def main(root: str, bin_dir: str) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which PostgreSQL would inherit
    cluster = Cluster(Path(root), Path(bin_dir))
    try:
        return Keeper(cluster).run()
    except (OSError, subprocess.SubprocessError, Refusal) as error:
        print(f"FATAL:  {error}", file=sys.stderr, flush=True)  # noqa: T201 - into PostgreSQL's log, in its form
        return STARTED_IN_VAIN


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
