"""What a shared limit says at start: an address that cannot be read, and workers that each count by themselves."""

from pathlib import Path

import pytest

from app.errors import Refused
from app.settings import load
from app.tests.harness import KEY, settings
from app.tests.process import SERVE, UVICORN, run

MULTIPLIES = "RATE_LIMIT is counted per worker"


@pytest.mark.parametrize(
    "uri",
    [
        "redis://",
        "127.0.0.1:6379",
        "http://127.0.0.1",
        "memcached://127.0.0.1",
        "redis+cluster://127.0.0.1:1",
        "redis://:se/cret@127.0.0.1:6379/0",
        "redis://:secret@127.0.0.1:port/0",
        "redis://:secret@127.0.0.1/first",
        "redis://:secret@127.0.0.1/0?no_such_option=1",
        "redis://:secret@127.0.0.1/0?socket_timeout=long",
        "redis+unix://",
    ],
)
async def test_an_address_that_cannot_be_read_refuses_the_start(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.setenv("RATE_LIMIT_STORAGE_URI", uri)
    with pytest.raises(Refused, match=r"^RATE_LIMIT_STORAGE_URI: takes redis://[^\n]*$") as refusal:
        load()
    assert "secret@" not in str(refusal.value)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "redis://localhost",
        "redis://user:p%2Fw@[::1]:6379/15?protocol=3",
        "rediss://localhost:6380/0?ssl_cert_reqs=none",
        "redis+unix://:password@/run/redis.sock?db=1",
    ],
)
async def test_an_address_that_can_be_read_is_taken(uri: str) -> None:
    assert settings(rate_limit_storage_uri=uri).rate_limit_storage_uri == uri


@pytest.mark.parametrize(
    ("command", "workers", "told"),
    [
        ((*UVICORN, "--workers=2"), 2, 1),
        ((*SERVE, "--workers=2"), 2, 1),
        ((*UVICORN, "--reload"), 1, 0),
        (UVICORN, 1, 0),
    ],
    ids=["uvicorn, two workers", "serve, two workers", "uvicorn, reload", "uvicorn"],
)
async def test_several_workers_say_once_that_the_limit_multiplies(
    tmp_path: Path, database_url: str, command: tuple[str, ...], workers: int, told: int
) -> None:
    async with run(*command, cwd=tmp_path, DATABASE_URL=database_url, RATE_LIMIT="10/minute") as server:
        output = await server.until("Application startup complete", times=workers)
    assert output.count(MULTIPLIES) == told
