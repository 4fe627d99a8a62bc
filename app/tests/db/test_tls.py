"""TLS of the connection to PostgreSQL: as strict as libpq, which psql stands for."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import asyncpg
import pytest

from app.db import dsn
from app.db.start import start
from app.errors import Refused
from app.tests.db.certificates import KEY_PASSWORD, Authority, needs_openssl, needs_psql, psql
from app.tests.db.postgres import PASSWORD, Postgres, give_away, needs_postgres, postgres
from app.tests.harness import settings
from app.tests.process import SERVE, run

pytestmark = [needs_postgres, needs_psql, needs_openssl]

HBA = """
hostssl all only_tls all scram-sha-256
hostnossl all only_plain all scram-sha-256
hostssl all by_certificate all cert
host all postgres all scram-sha-256
"""
ROLES = ("only_tls", "only_plain", "by_certificate")
TLS = "SELECT CASE WHEN ssl THEN 'TLS' ELSE 'plain' END FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@dataclass(frozen=True)
class Place:
    """A server whose certificate is for localhost, one without TLS, and what a client may hold."""

    right: Authority
    wrong: Authority
    with_tls: Postgres
    without: Postgres
    files: dict[str, str]


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    directory = tmp_path_factory.mktemp("tls")
    right, wrong = Authority.new(directory / "right"), Authority.new(directory / "wrong")
    right.sign("server", "db.example.org", "DNS:localhost")
    for authority in (right, wrong):
        authority.sign("client", "by_certificate")
    files = {
        "right": str(right.certificate),
        "wrong": str(wrong.certificate),
        "crt": str(right.directory / "client.crt"),
        "key": str(right.directory / "client.key"),
        "locked": str(right.locked("client")),
        "password": quote(KEY_PASSWORD),
        "foreign_crt": str(wrong.directory / "client.crt"),
        "foreign_key": str(wrong.directory / "client.key"),
        "empty_crl": str(right.revoked()),
        "crl": str(right.revoked("server")),
    }
    with for_the_server(right, "server.crt", "server.key", "ca.crt") as (crt, key, ca):
        settings = {"ssl": "on", "ssl_cert_file": crt, "ssl_key_file": key, "ssl_ca_file": ca}
        async with postgres(settings, hba=HBA) as with_tls, postgres(hba=HBA) as without:
            for server in (with_tls, without):
                await server.execute(*(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'" for role in ROLES))
            yield Place(right, wrong, with_tls, without, files)


@contextlib.contextmanager
def for_the_server(authority: Authority, *names: str) -> Iterator[list[str]]:
    """Copies that the server, which does not run as root, can read."""
    directory = Path(tempfile.mkdtemp(prefix="rag-tls-"))
    copies = [Path(shutil.copy(authority.directory / name, directory)) for name in names]
    for path in (directory, *copies):
        give_away(path)
    yield [str(path) for path in copies]
    shutil.rmtree(directory)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: libpq and asyncpg look for certificates there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


async def ours(url: str) -> str | None:
    """`TLS`, `plain`, or None where no connection came about."""
    try:
        connection = await asyncpg.connect(**dsn.parse(url).arguments)
    except (Refused, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    try:
        return str(await connection.fetchval(TLS))
    finally:
        await connection.close()


def address(server: Postgres, host: str = "localhost", user: str = "postgres", query: str = "") -> str:
    return f"postgresql://{user}:{quote(PASSWORD, safe='')}@{host}:{server.port}/postgres?{query}"


MODES = ("", "disable", "allow", "prefer", "require", "verify-ca", "verify-full")
AUTHORITIES = ("right", "wrong", "home right", "home wrong")


@pytest.mark.parametrize(
    ("tls", "user"), [(True, "postgres"), (True, "only_tls"), (True, "only_plain"), (False, "postgres")]
)
@pytest.mark.parametrize(
    ("mode", "root"),
    [*((mode, "") for mode in MODES), *((mode, root) for mode in MODES[4:] for root in AUTHORITIES)],
)
async def test_the_connection_comes_about_as_libpqs_does(
    place: Place, home: Path, mode: str, root: str, tls: bool, user: str
) -> None:
    given = {"sslmode": mode} if mode else {}
    if root.startswith("home "):
        (home / ".postgresql").mkdir()
        shutil.copy(place.files[root.removeprefix("home ")], home / ".postgresql" / "root.crt")
    elif root:
        given["sslrootcert"] = place.files[root]
    server = place.with_tls if tls else place.without
    urls = [address(server, host, user, urlencode(given)) for host in ("localhost", "127.0.0.1")]
    theirs = await asyncio.gather(*(psql(url, TLS, home) for url in urls))
    assert await asyncio.gather(*(ours(url) for url in urls)) == theirs


@pytest.mark.parametrize("mode", ["", "sslmode=allow&", "sslmode=prefer&"])
async def test_an_authority_that_would_protect_nothing_is_refused(place: Place, home: Path, mode: str) -> None:
    url = address(place.with_tls, query=f"{mode}sslrootcert={place.files['wrong']}")
    assert await psql(url, TLS, home) == "plain"  # libpq does not trust the certificate, and goes on without TLS
    with pytest.raises(Refused, match="sslrootcert protects nothing with sslmode="):
        dsn.parse(url)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sslcert={crt}&sslkey={key}", "TLS"),
        ("sslmode=verify-full&sslrootcert={right}&sslcert={crt}&sslkey={key}", "TLS"),
        ("sslmode=require&sslcert={crt}&sslkey={locked}&sslpassword={password}", "TLS"),
        ("sslmode=require&sslcert={crt}&sslkey={locked}&sslpassword=wrong", None),
        ("sslmode=require&sslcert={foreign_crt}&sslkey={foreign_key}", None),
        ("sslmode=require&sslcert={crt}&sslkey={foreign_key}", None),
        ("sslmode=require&sslcert={crt}&sslkey={key}&ssl_min_protocol_version=TLSv1.3", "TLS"),
        ("sslmode=require", None),
        ("sslmode=disable&sslcert={crt}&sslkey={key}", None),
    ],
)
async def test_a_client_certificate_serves_as_with_libpq(
    place: Place, home: Path, query: str, expected: str | None
) -> None:
    url = address(place.with_tls, user="by_certificate", query=query.format_map(place.files))
    assert await psql(url, TLS, home) == expected
    assert await ours(url) == expected


@pytest.mark.parametrize(("revocations", "expected"), [("empty_crl", "TLS"), ("crl", None)])
async def test_a_revoked_certificate_is_refused(
    place: Place, home: Path, revocations: str, expected: str | None
) -> None:
    query = f"sslmode=verify-full&sslrootcert={place.files['right']}&sslcrl={place.files[revocations]}"
    url = address(place.with_tls, query=query)
    assert await psql(url, TLS, home) == expected
    assert await ours(url) == expected


@pytest.mark.parametrize(
    ("trusted", "host", "query", "expected"),
    [
        ("right", "localhost", "", "TLS"),
        ("right", "localhost", "&sslmode=verify-full", "TLS"),
        ("right", "127.0.0.1", "", None),
        ("wrong", "localhost", "", None),
    ],
)
@pytest.mark.usefixtures("home")
async def test_the_machines_own_authorities_are_trusted_on_demand(
    place: Place, monkeypatch: pytest.MonkeyPatch, trusted: str, host: str, query: str, expected: str | None
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", place.files[trusted])
    assert await ours(address(place.with_tls, host, query=f"sslrootcert=system{query}")) == expected


@pytest.mark.usefixtures("home")
async def test_a_client_certificate_serves_beside_the_machines_authorities(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", place.files["right"])
    query = "sslrootcert=system&sslcert={crt}&sslkey={key}".format_map(place.files)
    assert await ours(address(place.with_tls, user="by_certificate", query=query)) == "TLS"
    revoked = f"sslrootcert=system&sslcrl={place.files['crl']}"
    assert await ours(address(place.with_tls, query=revoked)) is None


@pytest.mark.parametrize(
    ("host", "root", "reason"),
    [
        ("localhost", "wrong", "certificate verify failed"),
        ("127.0.0.1", "right", "IP address mismatch"),
    ],
)
async def test_the_start_is_refused_in_one_line(
    place: Place, tmp_path: Path, host: str, root: str, reason: str
) -> None:
    url = address(place.with_tls, host, query=f"sslmode=verify-full&sslrootcert={place.files[root]}")
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=url) as server:
        output = await server.ended()
        assert server.process.returncode not in (None, 0)
    (line,) = [line for line in output.splitlines() if "CERTIFICATE_VERIFY_FAILED" in line]
    assert reason in line
    assert "Traceback" not in output
    assert PASSWORD not in output
    assert quote(PASSWORD, safe="") not in output


async def test_a_server_that_asks_for_tls_is_not_taken_for_one_that_refuses_the_password(place: Place) -> None:
    url = address(place.with_tls, "localhost", user="only_tls", query="sslmode=disable")
    with pytest.raises(Refused, match=r"refuses the connection: no pg_hba\.conf entry for .*, no encryption"):
        async with start(settings(database_url=url)):
            pass
