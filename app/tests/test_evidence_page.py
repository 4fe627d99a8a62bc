"""docs/evidence.md and the README: what is pasted into a shell beside a real server answers what the page shows."""

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.tests.conftest import NewDatabase
from app.tests.process import DEADLINE, ROOT, SERVE, Running, run

SHOWN = re.compile(r"^```sh\n(.*?)^```\n(?:```json\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
END = "--- end of a block"

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@pytest.mark.parametrize(("page", "count"), [("docs/evidence.md", 7), ("README.md", 2)])
async def test_the_calls_on_the_page_answer_what_it_shows(
    tmp_path: Path, new_database: NewDatabase, page: str, count: int
) -> None:
    key = "key-of-the-page"
    (tmp_path / ".env").write_text(f"API_KEY={key}\n")
    url = await new_database()
    blocks = [block for block in SHOWN.findall((ROOT / page).read_text()) if "call " in block[0]]
    assert len(blocks) == count
    # As `make run` has it: the rate limit included.
    async with run(*SERVE, cwd=tmp_path, DATABASE_URL=url, API_KEY=key, RATE_LIMIT="10/minute") as server:
        await server.ready()
        output = await pasted("".join(f"{commands}echo '{END}'\n" for commands, _ in blocks), server, tmp_path)
    answers = [block.strip().splitlines() for block in output.split(END)]
    for (commands, shown), lines in zip(blocks, answers, strict=False):
        assert '"code":' not in "".join(lines), commands
        if shown:
            agrees(json.loads(shown), json.loads(lines[-1]))


async def pasted(script: str, server: Running, place: Path) -> str:
    script = script.replace("localhost:8000", server.url.removeprefix("http://"))
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-e", "-c", script), cwd=place, env={"PATH": os.environ["PATH"]}, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(DEADLINE):
        out, errors = await shell.communicate()
    assert (shell.returncode, errors) == (0, b"")
    return out.decode()


def agrees(shown: Any, answered: Any) -> None:
    """All that is shown is in the answer; an object may have more."""
    if isinstance(shown, dict):
        assert shown.keys() <= answered.keys(), answered
        for name, value in shown.items():
            agrees(value, answered[name])
    elif isinstance(shown, list):
        assert len(shown) == len(answered), answered
        for one, other in zip(shown, answered, strict=True):
            agrees(one, other)
    else:
        assert shown == answered
