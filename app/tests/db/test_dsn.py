"""Connection strings that hosts hand out."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from app.db import dsn
from app.errors import Refused
from app.tests.db.certificates import needs_psql, psql
from app.tests.db.postgres import PASSWORD, Postgres, needs_postgres, postgres
from app.tests.process import SERVE, environment, free_port, run

ODD_NAME = "a b/@:?#[]%+&=ü"  # of a role and a database


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+asyncpg://u:p@h:5432/d", {"dsn": "postgresql://u:p@h:5432/d"}),
        ("postgres://u:p%40%2F@h/d?sslmode=require", {"dsn": "postgresql://u:p%40%2F@h/d?sslmode=require"}),
        ("postgresql+psycopg2://u@h/d?ssl=require", {"dsn": "postgresql://u@h/d?sslmode=require"}),
        ("postgres://u@h/d?ssl=true", {"dsn": "postgresql://u@h/d?sslmode=require"}),
        ("postgresql://h/d?connect_timeout=7", {"dsn": "postgresql://h/d", "timeout": 7.0}),
        ("postgresql://h/d?statement_cache_size=0", {"dsn": "postgresql://h/d", "statement_cache_size": 0}),
        ("postgresql://h/d?channel_binding=prefer&keepalives=1", {"dsn": "postgresql://h/d"}),
        ("postgresql://a:1,b:2/d", {"dsn": "postgresql://a:1,b:2/d?target_session_attrs=read-write"}),
        ("postgresql:///d?host=a:1&host=b:2", {"dsn": "postgresql://a:1,b:2/d?target_session_attrs=read-write"}),
        ("postgresql:///d?host=a,b&port=1", {"dsn": "postgresql://a:1,b:1/d?target_session_attrs=read-write"}),
        ("postgresql://a,b/d?target_session_attrs=any", {"dsn": "postgresql://a,b/d?target_session_attrs=any"}),
        ("postgresql:///d?host=::1&port=1", {"dsn": "postgresql://[::1]:1/d"}),
        ("postgresql://u@/d?host=/run/pg", {"dsn": "postgresql://u@%2Frun%2Fpg/d"}),
        ("postgresql://:5433/d", {"dsn": "postgresql:///d?port=5433"}),
        ("postgresql://h:/d?user=u&password=p", {"dsn": "postgresql://u:p@h/d"}),
        ("postgresql://h/d?application_name=x", {"dsn": "postgresql://h/d?application_name=x"}),
        ("postgresql://h:1/d?port=2&user=u&host=i", {"dsn": "postgresql://u@i:2/d"}),
        ("postgresql://h/d?application_name=a+b", {"dsn": "postgresql://h/d?application_name=a%2Bb"}),
        ("postgresql://[::1]:5/d", {"dsn": "postgresql://[::1]:5/d"}),
        ("postgresql://u:[#?]\u2100@h/d", {"dsn": "postgresql://u:%5B%23%3F%5D%E2%84%80@h/d"}),
        ("postgresql://h/d?options=-c%20a%3D1", {"dsn": "postgresql://h/d?options=-c%20a%3D1"}),
    ],
)
def test_a_url_is_handed_to_the_driver(url: str, expected: dict[str, object]) -> None:
    assert dsn.parse(url).arguments == expected


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://h/d", "postgresql://"),
        ("h:5432/d", "postgresql://"),
        ("postgresql://h/d?channel_binding=require", "channel_binding"),
        ("postgresql://h/d?gssencmode=require", "gssencmode"),
        ("postgresql://h/d?pool_size=3", "pool_size"),
        ("postgresql://h/d?hostaddr=1.2.3.4", "hostaddr"),
        ("postgresql://h/d?service=s", "service"),  # asyncpg passes over one that it does not find
        ("postgresql://h/d?connect_timeout=soon", "connect_timeout"),
        ("postgresql://h/d?sslmode", "query"),
        ("postgresql://h/d?sslmode=", "sslmode must be one of"),
        ("postgresql://h/d?sslmode=verify_full", "sslmode must be one of"),
        ("postgresql://h/d?sslmode=parse", "sslmode must be one of"),  # a method of asyncpg's enumeration
        ("postgresql://h/d?ssl=yes", "sslmode must be one of"),
        ("postgresql://h/d?sslmode=verify-full&ssl=true", "sslmode twice"),
        ("postgresql://h/d?sslmode=require&sslrootcert=/none.crt", "sslrootcert names no file: /none.crt"),
        ("postgresql://h/d?sslmode=require&sslcrl=/none.crl", "sslcrl names no file: /none.crl"),
        ("postgresql://h/d?sslcert=/none.crt&sslkey=/none.key", "sslcert names no file: /none.crt"),
        (f"postgresql://h/d?sslcert={__file__}&sslkey=/none.key", "sslkey names no file: /none.key"),
        (f"postgresql://h/d?sslcert={__file__}&sslkey={__file__}", "sslcert with its sslkey cannot be read: "),
        (f"postgresql://h/d?sslmode=verify-ca&sslrootcert={__file__}", "sslrootcert cannot be read: "),
        ("postgresql://h/d?sslcert=/none.crt", "sslkey"),
        ("postgresql://h/d?sslrootcert=system&sslmode=require", "sslrootcert=system"),
        ("postgresql://h/d?target_session_attrs=writable", "target_session_attrs must be one of any, read-write"),
        ("postgresql://h:port/d", "port"),
        ("postgresql://h/d?port=x", "port"),
        ("postgresql://a,b/d?port=1,2,3", "as many as hosts"),
        ("postgresql://a,,b/d", "as many as hosts"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(url: str, named: str) -> None:
    with pytest.raises(Refused, match=named):
        dsn.parse(url)


@pytest.mark.parametrize(
    "password", ["sec@ret", "sec/ret", "12/se@ret", "sec:ret@", "100%", "%fc", "%00", "se[c@ret", "s℀@ret"]
)
def test_a_password_with_bare_special_characters_is_refused_without_being_shown(password: str) -> None:
    with pytest.raises(Refused, match=r"^DATABASE_URL[^\n]*(written as|not UTF-8)[^\n]*$") as refused:
        dsn.parse(f"postgresql://user:{password}@h/d")
    assert "ret" not in str(refused.value)


def test_a_variable_of_libpqs_that_is_wrong_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify_full")
    assert dsn.parse("postgresql://h/d?sslmode=require").description == "h/d"
    with pytest.raises(Refused, match="PGSSLMODE must be one of"):
        dsn.parse("postgresql://h/d")


def test_the_description_holds_no_password() -> None:
    assert dsn.parse("postgresql://u:secret@h:1/d?password=secret").description == "h:1/d"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Postgres]:
    async with postgres() as running:
        await running.execute(f"CREATE ROLE \"{ODD_NAME}\" LOGIN PASSWORD '{PASSWORD}'")
        await running.execute(f'CREATE DATABASE "{ODD_NAME}" OWNER "{ODD_NAME}"')
        yield running


SEEN = """
    SELECT concat_ws('|', current_user, current_database(), inet_server_port(), current_setting('statement_timeout'),
                     current_setting('application_name'), current_setting('search_path'))
"""


@needs_postgres
@needs_psql
@pytest.mark.parametrize(
    ("authority", "query"),
    [
        ("postgres:{password}@127.0.0.1:{port}/postgres", "connect_timeout=5"),
        ("postgres:{password}@127.0.0.1:{port}/postgres", "sslmode=disable&application_name=a+b%20c"),
        ("postgres:{password}@127.0.0.1:{port}/postgres", "application_name=%C3%BC%26%3D%25%2B%23"),
        ("postgres:{password}@127.0.0.1:{port}/postgres", "options=-c%20statement_timeout%3D1s"),
        ("postgres:{password}@127.0.0.1:{port}/postgres", "options=-c%20search_path%3Da,b%20--statement-timeout%3D2s"),
        ("postgres:{bare}@127.0.0.1:{port}/postgres", ""),
        ("postgres:p@127.0.0.1:{port}/postgres", "password={password}"),
        ("{name}:{password}@127.0.0.1:{port}/{name}", ""),
        ("127.0.0.1:{port}/", "user={name}&password={password}&dbname={name}"),
        ("postgres:{password}@/postgres", "host={socket}&port={port}"),
        ("postgres:{password}@:{port}/postgres", "host={socket}"),
        ("postgres:{password}@{quoted_socket}:{port}/postgres", ""),
        ("postgres:{password}@{quoted_socket}:{port}", ""),
        (
            "nobody:wrong@example.invalid:1/none",  # the query wins
            "host={socket}&port={port}&user=postgres&password={password}&dbname=postgres",
        ),
        ("postgres:{password}@127.0.0.1:{closed},127.0.0.1:{port}/postgres", "target_session_attrs=read-write"),
        ("postgres:{password}@/postgres", "host=127.0.0.1,127.0.0.1&port={closed},{port}"),
        ("postgres:{password}@/postgres", "host=/nowhere,{socket}&port={port}"),
    ],
)
async def test_psql_reads_the_url_alike(server: Postgres, tmp_path: Path, authority: str, query: str) -> None:
    query = query if "application_name" in query else f"{query}&application_name=x".removeprefix("&")
    url = f"postgresql://{authority}?{query}".format(
        password=quote(PASSWORD, safe=""),
        bare=quote(PASSWORD, safe="?#[] +&=ü"),
        name=quote(ODD_NAME, safe=""),
        port=server.port,
        closed=free_port(),
        socket=server.directory,
        quoted_socket=quote(str(server.directory), safe=""),
    )
    connection = await asyncpg.connect(**dsn.parse(url).arguments)
    seen = await connection.fetchval(SEEN)
    await connection.close()
    assert seen == await psql(url, SEEN, tmp_path)


@needs_postgres
@pytest.mark.parametrize("attributes", ["standby", "read-only"])
async def test_a_server_of_the_wrong_kind_is_not_taken(server: Postgres, attributes: str) -> None:
    url = server.url(query=f"target_session_attrs={attributes}")
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await asyncpg.connect(**dsn.parse(url).arguments)


@needs_postgres
async def test_migrations_and_service_read_an_odd_password_and_options_alike(server: Postgres, tmp_path: Path) -> None:
    name, password = quote(ODD_NAME, safe=""), quote(PASSWORD, safe="")
    url = f"postgresql+psycopg2://{name}:{password}@127.0.0.1:{server.port}/{name}?options=-c%20search_path%3Dother"
    await server.execute(f'CREATE SCHEMA other AUTHORIZATION "{ODD_NAME}"', database=ODD_NAME)
    command = (sys.executable, "-m", "app", "migrate")
    migration = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment(DATABASE_URL=url))
    assert await migration.wait() == 0
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=url, RUN_MIGRATIONS="false") as service:
        await service.ready()
        async with service.client() as client:
            await client.create()
    connection = await server.connect(ODD_NAME)
    assert await connection.fetchval("SELECT count(*) FROM other.chat_sessions") == 1
    await connection.close()
    assert PASSWORD not in service.output
