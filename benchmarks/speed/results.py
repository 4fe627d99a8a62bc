"""The figures of a run as a file."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from load import generator
from postgres import Postgres
from rounds import Rounds
from targets import Outcome


def machine(postgres: Postgres) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "postgresql": postgres.sql("postgres", "SHOW server_version").strip(),
        "generator": generator(),
    }


def write(
    path: Path, about: dict[str, Any], rounds: Rounds, outcomes: Sequence[Outcome], memory: Sequence[float]
) -> None:
    """Rates are a second, `server` and `postgres` µs of CPU an operation, latencies ms, `memory` MB."""
    figures = {
        workload: {subject: [_rounded(one._asdict()) for one in found] for subject, found in subjects.items()}
        for workload, subjects in rounds.figures.items()
    }
    ratios = {
        one.what: {
            "values": [round(value, 3) for value in one.values],
            "median": round(median(one.values), 3),
            "target": one.target,
            "met": one.is_met,
        }
        for one in outcomes
    }
    found = {"date": datetime.now(UTC).date().isoformat(), **about, "ratios": ratios, "figures": figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    found["memory"] = [round(size, 1) for size in memory]
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items() if value}
