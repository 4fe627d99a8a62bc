"""`make torture` runs every scenario, says how each ended, and exits with what came of it."""

import asyncio
import sys
from pathlib import Path

import pytest

from app.tests.process import DEADLINE, ROOT, environment

SCENARIOS = """
import sys, types
from app.tests.faults import __main__ as command

async def holding(place, say, *, rounds=200, seed=None):
    say(f"{rounds} rounds with seed {seed}, {place.is_dir()}")
    return True

async def breaking(place, say, *, seed=None):
    say(f"seed {seed}: one of two lost")
    return False

async def failing(place, say):
    raise OSError("no such luck")

command.SCENARIOS = [types.SimpleNamespace(__name__=f"a.{f.__name__}", torture=f) for f in (holding, breaking, failing)]
sys.exit(command.main(sys.argv[1:]))
"""


async def torture(*arguments: str, temporary: Path) -> tuple[int | None, list[str]]:
    """The exit status, and the lines that were printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCENARIOS, *arguments),
        cwd=ROOT,
        env=environment(TMPDIR=str(temporary)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(DEADLINE):
        output, _ = await process.communicate()
    return process.returncode, output.decode().splitlines()


def kept(temporary: Path) -> list[str]:
    """Of which scenarios the directory is left."""
    return sorted(place.name.split("-")[1] for place in temporary.iterdir())


async def test_one_broken_promise_fails_the_whole_and_the_others_have_their_turn(tmp_path: Path) -> None:
    status, lines = await torture("--seed", "7", "--rounds", "3", temporary=tmp_path)
    table = [line.split(maxsplit=3) for line in lines[-3:]]
    assert status == 1
    assert [(name, held, figures) for name, held, _, figures in table] == [
        ("holding", "held", "3 rounds with seed 7, True"),
        ("breaking", "BROKEN", "seed 7: one of two lost"),
        ("failing", "BROKEN", "ended by OSError: no such luck"),
    ]
    assert kept(tmp_path) == ["breaking", "failing"]


@pytest.mark.parametrize(("arguments", "expected"), [(["holding"], 0), (["failing"], 1), (["nonsense"], 2)])
async def test_the_exit_status_is_that_of_the_chosen(tmp_path: Path, arguments: list[str], expected: int) -> None:
    status, _ = await torture(*arguments, temporary=tmp_path)
    assert status == expected
