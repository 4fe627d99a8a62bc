"""`make torture`: every scenario of the fault suite at length, one after another, for a person who watches.

    python -m app.tests.faults [SCENARIO ...] [--rounds N] [--seed S]

Prints progress as it goes and a table at the end, in which each scenario's last line stands for its figures. Exits
with status 1 if a promise was broken; what that scenario left behind is then kept and named.
"""

import argparse
import asyncio
import inspect
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from app.tests.db.embedded_place import Place
from app.tests.faults import (
    crashes,
    database_away,
    disk_full,
    failover,
    hang_ups,
    hostile,
    openapi_fuzz,
    overload,
    play,
    races,
    repeats,
    sweeping,
)

SCENARIOS: tuple[ModuleType, ...] = (
    *(crashes, races, repeats, sweeping, hang_ups),
    *(database_away, failover, disk_full),
    *(hostile, overload, play, openapi_fuzz),
)
"""Modules with `async torture(place: Path, say: Callable[[str], None]) -> bool`, True if the promise held. Where it
takes `rounds` or `seed` by keyword as well, it gets what the command line says."""


@dataclass
class Outcome:
    name: str
    held: bool
    seconds: float
    figures: str


def main(arguments: Sequence[str]) -> int:
    scenarios = {module.__name__.rpartition(".")[2]: module for module in SCENARIOS}
    parser = argparse.ArgumentParser(prog="python -m app.tests.faults", description="The fault suite, at length.")
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(scenarios)}; all unless given")
    parser.add_argument("--rounds", type=int, help="how often, for scenarios that have rounds")
    parser.add_argument("--seed", type=int, help="of an earlier run, for scenarios that are random")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.scenario) - scenarios.keys():
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    options = {name: value for name in ("rounds", "seed") if (value := getattr(chosen, name)) is not None}
    outcomes = [_run(name, scenarios[name], options) for name in chosen.scenario or scenarios]
    _print("")
    for outcome in outcomes:
        held = "held" if outcome.held else "BROKEN"
        _print(f"{outcome.name:15} {held:6} {_elapsed(outcome.seconds)}  {outcome.figures}")
    return 0 if all(outcome.held for outcome in outcomes) else 1


def _run(name: str, scenario: ModuleType, options: dict[str, int]) -> Outcome:
    place = Path(tempfile.mkdtemp(prefix=f"rag-{name}-"))
    began = time.monotonic()
    figures = ""

    def say(text: str) -> None:
        nonlocal figures
        figures = text
        _print(f"{_elapsed(time.monotonic() - began)} {name}: {text}")

    taken = {name: options[name] for name in options.keys() & inspect.signature(scenario.torture).parameters.keys()}
    try:
        held = asyncio.run(_end(scenario.torture(place, say, **taken), place))
    except Exception as error:  # noqa: BLE001 - the others have their turn
        traceback.print_exc()
        held, figures = False, f"ended by {type(error).__name__}: {error}"
    if held:
        shutil.rmtree(place)
    else:
        _print(f"see {place}")
    return Outcome(name, held, time.monotonic() - began, figures)


async def _end(torture: Coroutine[None, None, bool], place: Path) -> bool:
    """Its verdict, once the embedded PostgreSQL has left `place`: that ends after its last server."""
    held = await torture
    await Place(place / "data").gone()
    return held


def _elapsed(seconds: float) -> str:
    return f"{seconds // 60:3.0f}:{seconds % 60:04.1f}"


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a console program


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
