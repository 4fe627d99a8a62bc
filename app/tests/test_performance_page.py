"""docs/performance.md tells what the last full run of the benchmark found, and no other run."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text()
FULL: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "full.json").read_text())


@pytest.mark.parametrize("what", FULL["ratios"])
def test_a_ratio_is_the_one_that_was_measured(what: str) -> None:
    found = FULL["ratios"][what]
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {what} | ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[1].split()[0]) == pytest.approx(found["median"], rel=0.006, abs=0.006)
    assert cells[2:] == [found["target"], "met" if found["met"] else "missed"]


def test_the_page_shows_every_plot() -> None:
    for plot in (ROOT / "docs" / "performance").glob("*.svg"):
        assert f"(performance/{plot.name})" in PAGE
