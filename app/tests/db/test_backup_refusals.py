"""What cannot be backed up or restored is refused in one line, and nothing has changed then."""

import re
from pathlib import Path

import pytest

from app.db import programs
from app.db.backup import backup
from app.db.dsn import parse
from app.db.restore import restore
from app.errors import Refused
from app.tests.conftest import NewDatabase
from app.tests.db.backup_content import content, dump, execute, files, fill, is_empty, read, write
from app.tests.harness import settings


@pytest.fixture(scope="session")
async def empty(new_database: NewDatabase) -> str:
    """A database that only refused restores are tried on."""
    return await new_database()


async def refusal(url: str, file: Path) -> str:
    """Why the restore of `file` is refused, in one line."""
    with pytest.raises(Refused) as caught:
        await restore(settings(database_url=url), file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_database_that_is_not_empty_is_left_as_it_is(
    written: Path, full: str, new_database: NewDatabase
) -> None:
    url = await fill(await new_database())
    for statement in (
        "SELECT 1",
        "DELETE FROM chat_messages",
        "DELETE FROM chat_sessions",  # the tenants are left
        "DELETE FROM documents; DELETE FROM evidence; DELETE FROM tenants WHERE id > 1",  # and then a sequence
    ):
        await execute(url, statement)
        before = await content(url)
        assert "is not empty" in await refusal(url, written)
        assert await content(url) == before


async def test_a_file_that_is_no_backup_is_refused(empty: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    assert "No such file" in await refusal(empty, file)
    assert "Is a directory" in await refusal(empty, tmp_path)
    for other in (b"", b"PGDM", b"-- PostgreSQL database dump\n", b"\x1f\x8b", b"PGDMP", b"PGDMP" + bytes(100)):
        write(file, other)
        assert re.search("is not a backup|error: ", await refusal(empty, file))
    assert await is_empty(empty)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
async def test_a_truncated_file_is_refused(written: Path, empty: str, tmp_path: Path, share: float) -> None:
    whole = read(written)
    write(tmp_path / "cut", whole[: int(len(whole) * share)])
    assert "error: " in await refusal(empty, tmp_path / "cut")
    assert await is_empty(empty)


async def test_a_damaged_file_is_refused(written: Path, empty: str, tmp_path: Path) -> None:
    whole = bytearray(read(written))
    whole[len(whole) // 2] ^= 1
    write(tmp_path / "damaged", whole)
    await refusal(empty, tmp_path / "damaged")
    assert await is_empty(empty)


async def test_a_dump_of_something_else_is_refused(empty: str, new_database: NewDatabase, tmp_path: Path) -> None:
    url = await new_database()
    await execute(url, "CREATE TABLE theirs ()")
    await dump(url, tmp_path / "theirs.dump")
    assert "is not a backup of this service" in await refusal(empty, tmp_path / "theirs.dump")
    assert await is_empty(empty)


async def test_rows_that_are_not_those_of_the_file_undo_the_restore(full: str, empty: str, tmp_path: Path) -> None:
    await dump(full, tmp_path / "tokyo.dump", PGTZ="Asia/Tokyo")  # the same rows in other words
    assert "are not those of" in await refusal(empty, tmp_path / "tokyo.dump")
    assert await is_empty(empty)


async def test_a_backup_of_a_newer_release_is_refused(empty: str, new_database: NewDatabase, tmp_path: Path) -> None:
    newer = await fill(await new_database())
    await execute(newer, "UPDATE alembic_version SET version_num = '29990101_0000'")
    with pytest.raises(Refused, match=r"29990101_0000.* is not this release's"):
        await backup(settings(database_url=newer), tmp_path / "mine.dump")
    assert files(tmp_path) == []
    await dump(newer, tmp_path / "theirs.dump", PGTZ="UTC")
    assert "newer release of this service (29990101_0000)" in await refusal(empty, tmp_path / "theirs.dump")
    assert await is_empty(empty)


async def test_a_database_of_another_encoding_or_schema_is_refused(written: Path, new_database: NewDatabase) -> None:
    latin = await new_database(options="ENCODING 'LATIN1' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'")
    assert "encoding is LATIN1" in await refusal(latin, written)
    url = await new_database()
    await execute(url, "CREATE SCHEMA rag")
    mark = "&" if "?" in url else "?"
    assert "holds the schema public" in await refusal(f"{url}{mark}options=-csearch_path%3Drag", written)
    assert await is_empty(url)


async def test_a_table_of_somebody_else_under_our_name_is_left_alone(written: Path, new_database: NewDatabase) -> None:
    url = await new_database()
    await execute(url, "CREATE TABLE chat_sessions (id int)")
    assert "already exists" in await refusal(url, written)


async def test_there_is_nothing_to_back_up(new_database: NewDatabase, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds no tables of this service"):
        await backup(settings(database_url=await new_database()), tmp_path / "a.dump")
    with pytest.raises(Refused, match=r"no database in DATA_DIR .*/nowhere"):
        await backup(settings(data_dir=tmp_path / "nowhere"), tmp_path / "a.dump")
    assert files(tmp_path) == []


async def test_a_place_for_the_file_that_is_not_there_is_refused(full: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"missing.*: No such file or directory"):
        await backup(settings(database_url=full), tmp_path / "missing" / "a.dump")


async def test_a_program_that_is_not_installed_is_named_with_its_package() -> None:
    with pytest.raises(Refused, match="pg_dump of PostgreSQL 99 or newer is needed: apt install postgresql-client-99"):
        programs.oldest_from("pg_dump", 99)


@pytest.mark.parametrize(
    ("url", "conninfo", "password"),
    [
        ("postgresql://u:p%20%27@h:1/d", "user='u' host='h' port='1' dbname='d' connect_timeout='5'", "p '"),
        (
            "postgres://a:1,b,c:3/d",
            "target_session_attrs='read-write' host='a,b,c' port='1,,3' dbname='d' connect_timeout='5'",
            None,
        ),
        ("postgresql://[::1]:2/d", "host='::1' port='2' dbname='d' connect_timeout='5'", None),
        ("postgresql://h/d%27?connect_timeout=0", r"host='h' dbname='d\'' connect_timeout='0'", None),
        (
            "postgresql://u@/d?host=/run/pg&password=s&sslmode=verify-full&options=-c%20a%3Db",
            "sslmode='verify-full' options='-c a=b' user='u' host='/run/pg' dbname='d' connect_timeout='5'",
            "s",
        ),
        (
            "postgresql://h/d?target_session_attrs=read-write&keepalives=1&statement_cache_size=0",
            "target_session_attrs='read-write' host='h' dbname='d' connect_timeout='5'",
            None,
        ),
    ],
)
def test_a_url_is_handed_to_libpq_without_its_password(url: str, conninfo: str, password: str | None) -> None:
    found, environment = programs.connection(parse(url), 5)
    assert (found, environment.get("PGPASSWORD")) == (conninfo, password)


def test_a_password_that_could_be_seen_is_refused() -> None:
    with pytest.raises(Refused, match="sslpassword"):
        programs.connection(parse("postgresql://h/d?sslpassword=s"), 5)
