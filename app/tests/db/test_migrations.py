"""The schema is the sum of the migrations, whoever runs them and how many at once."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.db import dsn, migrate
from app.db.pool import Database
from app.db.schema import DEFAULT_TENANT, Base
from app.errors import Refused
from app.tests.conftest import NewDatabase
from app.tests.harness import settings


def connect(url: str) -> Database:
    return Database(dsn.parse(url), settings())


def differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata))


async def test_schema_py_equals_the_migrations(db: Database) -> None:
    async with db.read() as connection:
        assert await connection.run_sync(differences) == []


def test_a_revision_is_what_its_file_is_named_after() -> None:
    known = [script.revision for script in ScriptDirectory(str(migrate.SCRIPTS)).walk_revisions()]
    assert known[::-1] == migrate.REVISIONS


async def test_three_instances_that_start_at_once_on_an_empty_database_all_come_up(new_database: NewDatabase) -> None:
    url = await new_database()
    instances = [connect(url) for _ in range(3)]
    await asyncio.gather(*(migrate.upgrade(instance) for instance in instances))
    async with instances[0].driver() as conn:
        assert await conn.fetchval("SELECT name FROM tenants WHERE id = $1", DEFAULT_TENANT) == "default"
        assert await conn.fetchval("SELECT count(*) FROM alembic_version") == 1
    for instance in instances:
        await instance.close()


async def test_a_second_run_changes_nothing(new_database: NewDatabase) -> None:
    database = connect(await new_database())
    await migrate.upgrade(database)
    await migrate.upgrade(database)
    await database.close()


async def test_a_schema_of_a_newer_release_is_refused_in_one_line(new_database: NewDatabase) -> None:
    database = connect(await new_database())
    await migrate.upgrade(database)
    async with database.driver() as conn:
        await conn.execute("UPDATE alembic_version SET version_num = '29990101_0000'")
    with pytest.raises(Refused, match="newer release") as refusal:
        await migrate.upgrade(database)
    assert "\n" not in str(refusal.value)
    await database.close()


async def test_a_database_that_is_not_utf8_is_refused_in_one_line(new_database: NewDatabase) -> None:
    database = connect(await new_database(options="ENCODING 'LATIN1' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"))
    with pytest.raises(Refused, match="encoding is LATIN1"):
        await migrate.upgrade(database)
    await database.close()


async def test_a_role_that_may_not_create_tables_is_told_the_grant(new_database: NewDatabase) -> None:
    url = await new_database()
    admin = await asyncpg.connect(**dsn.parse(url).arguments)
    role = "no create " + url[-6:]
    await admin.execute(f'CREATE ROLE "{role}" LOGIN PASSWORD \'p\'; GRANT ALL ON DATABASE {url_name(url)} TO "{role}"')
    target = dsn.parse(url)
    limited = Database(replace(target, arguments={**target.arguments, "user": role, "password": "p"}), settings())
    with pytest.raises(Refused) as refusal:
        await migrate.upgrade(limited)
    assert f'GRANT USAGE, CREATE ON SCHEMA public TO "{role}"' in str(refusal.value)
    await limited.close()
    await admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
    await admin.close()


def url_name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]
