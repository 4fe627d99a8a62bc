"""Certificates made by openssl, and psql, which says what libpq makes of a URL."""

import asyncio
import os
import shutil
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.tests.db.postgres import BINARIES

PSQL = BINARIES / "psql" if BINARIES and (BINARIES / "psql").exists() else None

needs_psql = pytest.mark.skipif(PSQL is None, reason="psql is not installed in /usr/lib/postgresql")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

_NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc"

KEY_PASSWORD = "key & password"


@dataclass(frozen=True)
class Authority:
    """A certificate authority whose files lie in `directory`."""

    directory: Path

    @classmethod
    def new(cls, directory: Path) -> "Authority":
        directory.mkdir()
        ca = cls(directory)
        ca._openssl(f"req -x509 {_NEW_KEY} -days 2 -keyout ca.key -out ca.crt -subj", f"/CN={directory.name}")
        (directory / "index.txt").touch()
        return ca

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.crt"

    def sign(self, name: str, subject: str, alternative: str = "") -> tuple[Path, Path]:
        """The paths of a new certificate and its key."""
        self._openssl(f"req -new {_NEW_KEY} -keyout {name}.key -out {name}.csr -subj", f"/CN={subject}")
        (self.directory / f"{name}.ext").write_text(f"subjectAltName={alternative}\n" if alternative else "")
        signed_by = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 2"
        self._openssl(f"x509 -req {signed_by} -in {name}.csr -extfile {name}.ext -out {name}.crt")
        (self.directory / f"{name}.key").chmod(0o600)
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    def locked(self, name: str) -> Path:
        """The key of `name` once more, behind KEY_PASSWORD."""
        self._openssl(f"ec -aes256 -in {name}.key -out {name}.locked -passout", f"pass:{KEY_PASSWORD}")
        (self.directory / f"{name}.locked").chmod(0o600)
        return self.directory / f"{name}.locked"

    def revoked(self, *names: str) -> Path:
        """A revocation list that holds `names`."""
        command = "ca -keyfile ca.key -cert ca.crt -config ca.conf"
        (self.directory / "ca.conf").write_text(
            "[ca]\ndefault_ca=this\n[this]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n"
        )
        for name in names:
            self._openssl(f"{command} -revoke {name}.crt")
        file = f"{'-'.join(names) or 'none'}.crl"
        self._openssl(f"{command} -gencrl -out {file}")
        return self.directory / file

    def _openssl(self, command: str, *options: str) -> None:
        words = ["openssl", *command.split(), *options]
        done = subprocess.run(words, cwd=self.directory, stdout=DEVNULL, stderr=PIPE, check=False)
        assert done.returncode == 0, done.stderr.decode()


async def psql(url: str, statement: str, home: Path) -> str | None:
    """What psql prints, or None where it cannot connect."""
    assert PSQL is not None
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PGCONNECT_TIMEOUT": "30"}
    command = [str(PSQL), "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "-c", statement, url]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=DEVNULL)
    printed, _ = await process.communicate()
    return None if process.returncode else printed.decode().strip()
