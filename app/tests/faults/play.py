"""How the machine is run against a live service: a few sequences in the suite, thousands for a person."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from app.tests import harness
from app.tests.faults import evidence
from app.tests.faults.machine import Machine
from app.tests.harness import DEADLINE, Service

SEQUENCES, BATCH = 600, 50


def play(service: Service, loop: asyncio.AbstractEventLoop, examples: int, *, random: bool) -> Counter[str]:
    """Run `examples` sequences from a thread beside `loop`, which runs `service`. Answers what was called."""
    calls: Counter[str] = Counter()

    def new_key() -> str:
        return asyncio.run_coroutine_threadsafe(service.new_tenant(), loop).result().key

    async def faults(sessions: list[str]) -> list[str]:
        async with service.db.driver() as conn:
            return await evidence.faults(conn, sessions)

    def audit(sessions: list[str]) -> list[str]:
        return asyncio.run_coroutine_threadsafe(faults(sessions), loop).result()

    chosen = settings(
        max_examples=examples,
        stateful_step_count=40,
        derandomize=not random,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if random else [Phase.generate],  # to shrink takes minutes
    )
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # service and client wait for each other: 5 ms a turn is most of a call
    with httpx.Client(base_url=service.url, trust_env=False, timeout=DEADLINE) as http:

        class Here(Machine):
            def __init__(self) -> None:
                super().__init__(http, new_key, audit, calls)

        try:
            run_state_machine_as_test(Here, settings=chosen)
        finally:
            sys.setswitchinterval(switching)
    return calls


async def torture(place: Path, say: Callable[[str], None]) -> bool:
    """SEQUENCES of up to 40 steps against a database of its own; True if the model agreed with every answer."""
    chosen = harness.settings(data_dir=place / "data", run_migrations=True)
    total: Counter[str] = Counter()
    async with Service.running(chosen) as service:
        for done in range(BATCH, SEQUENCES + 1, BATCH):
            try:
                total += await asyncio.to_thread(play, service, asyncio.get_running_loop(), BATCH, random=True)
            except AssertionError as difference:
                say(f"the model disagrees: {difference}\n" + "\n".join(getattr(difference, "__notes__", ())))
                return False
            say(f"{done} sequences, {total.total()} calls, all as the model says")
    say("answers: " + ", ".join(f"{name} x {count}" for name, count in sorted(total.items())))
    return True
