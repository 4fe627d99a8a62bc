"""A backup is complete or is not there, and a restore gives back every bit of it."""

import asyncio
import os
import pty
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

from app.db import dsn
from app.db.backup import backup
from app.db.pool import Database
from app.db.restore import restore
from app.tests.conftest import NewDatabase
from app.tests.db.backup_content import MESSAGES, connected, content, execute, files, fill, is_empty, mode, read
from app.tests.db.test_migrations import differences
from app.tests.harness import Chat, Service, settings
from app.tests.process import DEADLINE, environment

PASSWORD = "p @:/?#[]%25+&='\"\\é"  # what a URL, a conninfo and a shell each treat in a way of their own


async def command(*words: str, before: str = "", stderr: int | IO[bytes] = PIPE, **chosen: str) -> Process:
    python = ("sh", "-c", f'{before} exec "$@"', "sh", sys.executable, "-m", "app")
    return await asyncio.create_subprocess_exec(*python, *words, env=environment(**chosen), stdout=PIPE, stderr=stderr)


async def waited_for(connection: asyncpg.Connection, process: Process) -> None:
    """Returns once `process` waits for a lock that `connection` holds."""
    here = "(SELECT oid FROM pg_database WHERE datname = current_database())"  # pg_stat_activity would not change here
    async with asyncio.timeout(DEADLINE):
        while not await connection.fetchval(f"SELECT true FROM pg_locks WHERE NOT granted AND database = {here}"):
            assert process.returncode is None, await output(process)
            await asyncio.sleep(0.02)


async def output(process: Process) -> tuple[str, str]:
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return out.decode(), (err or b"").decode()


async def test_every_row_of_every_table_comes_back_bit_by_bit(
    full: str, written: Path, new_database: NewDatabase
) -> None:
    empty = await new_database()
    report = await restore(settings(database_url=empty), written)
    assert await content(empty) == await content(full)
    assert (report.sessions, report.messages) == (4, MESSAGES)
    assert f"{MESSAGES:,} messages" in str(report)
    await execute(empty, "INSERT INTO tenants (name) VALUES ('next')")  # its sequence goes on where it was
    database = Database(dsn.parse(empty), settings())
    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_a_restored_conversation_is_answered_as_before_beside_a_running_service(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    source, target = await new_database(), await new_database()
    deep: dict[str, object] = {}
    for _ in range(97):  # with the body's own levels, as deep as one may be
        deep = {"d": deep}
    async with Service.running(settings(database_url=source, run_migrations=True)) as service:
        async with await service.new_tenant() as chat:
            session = await chat.create(name="é" * 255, metadata={"score": 1e23})
            for sender in ("user", "assistant", "user"):
                await chat.append(session, "\U0010ffff", sender=sender, context=deep)
            before = await chat.get(f"/chat/sessions/{session['id']}/messages")
        await backup(settings(database_url=source), tmp_path / "a.dump")
    async with (
        Service.running(settings(database_url=target, run_migrations=True)) as service,
        chat_of(service, chat.key, chat.tenant_id) as again,
    ):
        assert (await again.sessions())["sessions"] == []
        report = await restore(settings(database_url=target), tmp_path / "a.dump")
        assert (report.sessions, report.messages) == (1, 3)
        after = await again.get(f"/chat/sessions/{session['id']}/messages")
        assert (after.status_code, after.content) == (200, before.content)
        assert (await again.append(session))["seq"] == 4


def chat_of(service: Service, key: str, tenant_id: int) -> Chat:
    service.state.keyring.add(key, tenant_id)
    return Chat(service.url, key, tenant_id)


async def test_a_backup_is_private_and_alone_and_never_overwritten(full: str, tmp_path: Path) -> None:
    file = tmp_path / "a b'.dump"
    process = await command("backup", str(file), DATABASE_URL=full)
    out, err = await output(process)
    assert (process.returncode, err) == (0, "")
    assert f"4 sessions, {MESSAGES:,} messages" in out
    assert files(tmp_path) == [file.name]
    assert mode(file) == 0o600
    kept = read(file)
    process = await command("backup", str(file), DATABASE_URL=full)
    assert await output(process) == ("", f"cannot backup: {file} exists: name a file that does not\n")
    assert process.returncode == 1
    assert read(file) == kept


async def test_other_tables_in_the_database_are_neither_backed_up_nor_touched(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    source, target = await fill(await new_database()), await new_database()
    for url in (source, target):
        await execute(url, f"CREATE TABLE theirs AS SELECT '{url}' AS url")
    await backup(settings(database_url=source), tmp_path / "a.dump")
    await restore(settings(database_url=target), tmp_path / "a.dump")
    async with connected(target) as connection:
        assert await connection.fetchval("SELECT url FROM theirs") == target


async def test_the_password_may_hold_anything_and_the_environment_leads_nowhere_else(
    full: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    role = f"reader of {urlsplit(full).path[1:]}"
    escaped = PASSWORD.replace("'", "''")
    await execute(full, f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{escaped}' IN ROLE pg_read_all_data")
    parts = urlsplit(full)
    netloc = f"{quote(role)}:{quote(PASSWORD, safe='')}@{parts.netloc.rpartition('@')[2]}"
    elsewhere = await new_database()
    process = await command(
        *("backup", str(tmp_path / "a.dump")),
        DATABASE_URL=urlunsplit(parts._replace(netloc=netloc)),
        PGDATABASE=urlsplit(elsewhere).path[1:],
        PGPASSWORD="wrong",
        PGHOSTADDR="192.0.2.1",
        PGOPTIONS="-c search_path=nowhere",
        PGTZ="Asia/Tokyo",
        PGSERVICE="nothing",
    )
    out, err = await output(process)
    await execute(full, f'DROP ROLE "{role}"')
    assert (process.returncode, err) == (0, "")
    assert f"{MESSAGES:,} messages" in out


async def test_progress_is_shown_on_a_terminal(full: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = await command("backup", str(tmp_path / "a.dump"), stderr=theirs, DATABASE_URL=full)
    os.close(theirs)
    await output(process)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert shown.startswith(b"\rbackup: ")
    assert b" MB" in shown
    assert b"\n" not in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_interrupted_backup_leaves_no_file(new_database: NewDatabase, tmp_path: Path, number: int) -> None:
    url = await fill(await new_database())
    file = tmp_path / "a.dump"
    async with connected(url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE chat_messages IN ACCESS EXCLUSIVE MODE")
        ignored = "trap '' INT;" if number == signal.SIGTERM else ""  # as for a background job of a script
        process = await command("backup", str(file), before=ignored, DATABASE_URL=url)
        await waited_for(connection, process)
        process.send_signal(number)
        _, err = await output(process)
    left = files(tmp_path)
    if number == signal.SIGKILL:
        assert [Path(name).suffix for name in left] == [".partial"]
    else:
        assert (left, err) == ([], "backup interrupted: nothing was done\n")
    await backup(settings(database_url=url), file)


async def test_a_full_disk_is_told_in_one_line_and_leaves_no_file(full: str, tmp_path: Path) -> None:
    process = await command("backup", str(tmp_path / "a.dump"), before="ulimit -f 8;", DATABASE_URL=full)
    assert await output(process) == ("", "cannot backup: File too large\n")  # of the kernel's words for it, the other
    assert process.returncode == 1
    assert files(tmp_path) == []


async def test_a_restore_killed_in_the_middle_leaves_the_database_empty(
    written: Path, full: str, new_database: NewDatabase
) -> None:
    url = await new_database()
    await execute(
        url,
        """
        CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); END';
        CREATE EVENT TRIGGER wait ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION wait();
        """,
    )
    async with connected(url) as connection:
        await connection.execute("SELECT pg_advisory_lock(1)")
        # Migrated before, as a server does at its start: the first index that is made is then the restore's.
        await execute(url, "ALTER EVENT TRIGGER wait DISABLE")
        async with Service.running(settings(database_url=url, run_migrations=True)):
            pass
        await execute(url, "ALTER EVENT TRIGGER wait ENABLE")
        process = await command("restore", str(written), DATABASE_URL=url)
        await waited_for(connection, process)
        process.kill()
        await output(process)
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    await execute(url, f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE {others}")
    assert await is_empty(url)
    await restore(settings(database_url=url), written)
    assert await content(url) == await content(full)
