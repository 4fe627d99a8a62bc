"""schemathesis against a live service and its own /openapi.json, one call at a time and in sequences."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable
from pathlib import Path

from app.tests import harness
from app.tests.harness import KEY, Service
from app.tests.process import ROOT

# What it learned of an earlier run, or of the detail of an error, would make two runs differ.
_CONFIG = """
[cache]
enabled = false
[phases.fuzzing.error-feedback]
enabled = false
"""

SEEDS = 5


async def fuzz(place: Path, url: str, key: str, *options: str) -> tuple[int, str]:
    """Every check of schemathesis and our own. Answers its exit status and what it printed."""
    (place / "schemathesis.toml").write_text(_CONFIG)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", f"--header=X-API-Key: {key}"),
        *("--checks=all", "--exclude-checks=positive_data_acceptance", "--continue-on-failure", *options),
        cwd=place,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "app.tests.faults.openapi_checks",
            "NO_PROXY": "*",
        },
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def torture(place: Path, say: Callable[[str], None]) -> bool:
    """SEEDS times 50 examples of each operation; True if no answer was a 5xx or other than documented."""
    chosen = harness.settings(data_dir=place / "data", run_migrations=True)
    async with Service.running(chosen) as service:
        for seed in range(1, SEEDS + 1):
            status, output = await fuzz(place, service.url, KEY, "--max-examples=50", f"--seed={seed}")
            if status:
                say(output)
                return False
            counted = re.search(r"(\d+) generated", output)
            say(f"seed {seed}: {counted.group(1) if counted else 'no'} calls, all as documented")
    return True
