"""One PostgreSQL cluster in DATA_DIR: what lies where, which locks there are, and who may run it.

    pg18/            the cluster itself, or a link to it where PostgreSQL may not enter DATA_DIR
    password         its superuser's
    postgres.log     what PostgreSQL and the keeper have to say
    run/clients      locked, shared, by every process that uses the database
    run/server       locked, shared, by the workers of the one server; holds the server's identity
    run/keeper       locked by the keeper
    run/postgres     locked by every process of PostgreSQL, which inherits the descriptor; holds the first one's pid

All locks are flocks: the kernel drops them when the last copy of the descriptor is closed, however its process
died. So a lock says who lives, and a number in a file (of a process that may be somebody else by now) never does.

PostgreSQL refuses to run as root. A user namespace in which root is called nobody satisfies it and leaves every
file where it is; the way without one is to become nobody, who needs a home of its own.

Imported by the keeper, whose start everybody waits for: standard library only.
"""

import ctypes
import os
import re
import shutil
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

VERSION = "18"
NOBODY = 65534
HOME_OF_NOBODY = Path("/var/lib/rag-chat-storage")

_SOCKET_SAFE = re.compile(rb"[\w/.-]{1,88}", re.ASCII)  # sun_path holds 104 bytes on macOS; no quoting anywhere
_CLONE_NEWUSER = 0x10000000


class Refusal(Exception):  # noqa: N818 - becomes app.errors.Refused in the process that asked
    """PostgreSQL cannot run here; the message says why."""


class Cluster(NamedTuple):
    root: Path
    """DATA_DIR, absolute and without links."""
    bin_dir: Path

    @property
    def data(self) -> Path:
        return self.root / f"pg{VERSION}"

    @property
    def unfinished(self) -> Path:
        return self.root / f"pg{VERSION}.unfinished"

    @property
    def postmaster_pid(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def password(self) -> Path:
        return self.root / "password"

    @property
    def log(self) -> Path:
        return self.root / "postgres.log"

    @property
    def socket_dir(self) -> Path:
        """The cluster's own directory (0700), or one in /tmp where that name is too long or too odd.

        Not in XDG_RUNTIME_DIR, which ends with the login, nor in TMPDIR, which may differ from process to process.
        """
        data = self.data.resolve()
        name = os.fsencode(data)
        if _SOCKET_SAFE.fullmatch(name):
            return data
        return Path(f"/tmp/rag-chat-storage-{data.stat().st_uid}-{zlib.crc32(name):08x}")  # noqa: S108 - see make_private

    def lock_file(self, name: str) -> int:
        return os.open(self.root / "run" / name, os.O_RDWR | os.O_CREAT, 0o600)  # closed on exec, see PEP 446

    def lock(self, name: str) -> int:
        """Wait for a lock: the descriptor that holds it."""
        descriptor = self.lock_file(name)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def try_lock(self, name: str, *, shared: bool = False) -> int | None:
        """The descriptor that holds a lock, or None where another has it."""
        descriptor = self.lock_file(name)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def status(self) -> str:
        """`starting`, `ready` or `stopping`, if PostgreSQL runs and the keeper started it; else empty."""
        lines = _lines(self.postmaster_pid)
        ours = _lines(self.root / "run/postgres") in ([], lines[:1])  # empty while the keeper is about to write it
        return lines[7].strip() if ours and len(lines) > 7 else ""  # noqa: PLR2004 - LOCK_FILE_LINE_PM_STATUS

    def postmaster(self) -> int | None:
        """The process that postmaster.pid names, if it lives and is a PostgreSQL of this cluster, ours or not."""
        try:
            pid = int(_lines(self.postmaster_pid)[0])
            if sys.platform != "linux":
                os.kill(max(pid, 1), 0)
                return pid
            # Not /proc/PID/cwd: in a container root may not read nobody's.
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        return pid if os.fsencode(self.data.resolve()) in arguments else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []


class Account(NamedTuple):
    """As whom PostgreSQL runs, and from which binaries: as the user that we are, unless that is root."""

    bin_dir: Path
    in_namespace: bool = False
    as_nobody: bool = False

    def start(
        self, program: str, *arguments: str, keep: int, stdin: int | None = None, stdout: int | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a program of PostgreSQL that inherits the descriptor `keep`."""
        return subprocess.Popen(  # noqa: S603 - our binaries, our arguments
            [self.bin_dir / program, *arguments],
            pass_fds=(keep,),
            preexec_fn=_enter_namespace if self.in_namespace else None,  # noqa: PLW1509 - no lock is held at a fork
            user=NOBODY if self.as_nobody else None,
            group=NOBODY if self.as_nobody else None,
            extra_groups=() if self.as_nobody else None,
            stdin=stdin,
            stdout=stdout,
        )

    def works(self) -> bool:
        try:
            return self.start("postgres", "--version", keep=2, stdout=subprocess.DEVNULL).wait() == 0
        except (OSError, subprocess.SubprocessError):
            return False

    def make_directory(self, path: Path) -> None:
        """Make a directory for PostgreSQL alone; where it cannot enter, a link to one in nobody's home."""
        if self.as_nobody and not _open_to_all(path.parent):
            HOME_OF_NOBODY.mkdir(parents=True, exist_ok=True)
            elsewhere = HOME_OF_NOBODY / f"{path.stem}-{os.urandom(8).hex()}"
            path.symlink_to(elsewhere)  # first, so that an interrupted start leaves nothing that nobody knows of
            path = elsewhere
        path.mkdir(mode=0o700)
        self.own(path)

    def make_private(self, path: Path) -> None:
        """Make a directory in /tmp for PostgreSQL alone, or see that it is just that: anybody may have made it."""
        try:
            path.mkdir(mode=0o700)
            self.own(path)
        except FileExistsError:
            found = path.lstat()
            if found.st_uid != (NOBODY if self.as_nobody else os.geteuid()) or found.st_mode != stat.S_IFDIR | 0o700:
                raise Refusal(f"{path} is not a private directory of ours: remove it") from None

    def own(self, path: Path) -> None:
        if self.as_nobody:
            os.chown(path, NOBODY, NOBODY)


def account_for(cluster: Cluster) -> Account:
    """The account that may run `cluster`, or a new one. Raises Refusal."""
    if os.geteuid() != 0:
        return Account(cluster.bin_dir)
    owner = cluster.data.stat().st_uid if cluster.data.exists() else None
    if owner != NOBODY and (account := Account(cluster.bin_dir, in_namespace=True)).works():
        return account
    if owner == 0:
        raise Refusal(f"it belongs to root, but can only run as uid {NOBODY} here: chown -R {NOBODY} {cluster.data}")
    try:
        account = Account(cluster.bin_dir, as_nobody=True)
        if account.works() or (account := account._replace(bin_dir=_copied(cluster.bin_dir))).works():
            return account
    except OSError as error:
        raise Refusal(f"PostgreSQL does not run as root, and uid {NOBODY} cannot be used: {error}") from error
    raise Refusal(f"PostgreSQL does not run as root, and neither a user namespace nor uid {NOBODY} can be used here")


def _open_to_all(directory: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (directory, *directory.parents))


def _copied(bin_dir: Path) -> Path:
    """The binaries where nobody can enter, in the layout that their relative rpath asks for."""
    package = bin_dir.parent.parent
    target = HOME_OF_NOBODY / f"postgresql-{(bin_dir / 'postgres').stat().st_mtime_ns:x}"
    if not target.exists():
        half = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(bin_dir.parent, half / package.name / bin_dir.parent.name)
        shutil.copytree(package.with_name(f"{package.name}.libs"), half / f"{package.name}.libs")
        try:
            half.rename(target)
        except OSError:  # another start was faster
            shutil.rmtree(half)
    return target / package.name / bin_dir.parent.name / bin_dir.name


def _enter_namespace() -> None:
    """Call our user nobody from here on: to the kernel and to every file the process stays who it was."""
    uid, gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        Path("/proc/self", name).write_text(content)
