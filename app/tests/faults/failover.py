"""A service with two hosts in its DATABASE_URL, and which of them takes writes changes under load.

Commits wait for the standby, so that what was acknowledged is on both and the ledger is exact through a failover.
"""

import signal
from collections.abc import Callable
from pathlib import Path

from app.tests.faults.database_away import PATIENT, Story, url_of
from app.tests.faults.prober import Prober
from app.tests.faults.servers import Server, server
from app.tests.process import SERVE, run

_SERVICES = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'service'"


async def failover(place: Path, say: Callable[[str], None], *, attributes: str = "") -> list[str]:
    """Demoted and still readable, killed, back as a standby; and each time the other one promoted."""
    async with server() as first, server() as second:
        await first.make()
        await first.start()
        await _replicate(first, second)
        url = f"{url_of(first, second)}?application_name=service{attributes}"
        async with run(*SERVE, cwd=place, DATABASE_URL=url, **PATIENT) as service:
            await service.ready()
            async with Prober(service.url).running() as prober:
                story = Story(prober, say)
                await prober.good()

                await first.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
                await story.away("demoted, and still readable")
                await second.promote()
                await story.back("demoted, and the standby promoted", at_once=False)
                if (left := (await first.execute(_SERVICES))[0][0]) > 0:
                    story.wrong.append(f"{left} connections to the demoted primary")

                await first.end()
                await _replicate(second, first)
                await prober.good()
                await second.end(signal.SIGKILL)
                await story.away("killed")
                await first.promote()
                await story.back("killed, and the standby promoted", at_once=False)

                (second.data / "standby.signal").touch()
                await second.start()  # readable, and of the past
                await story.back("the old primary returned as a standby")
            return await story.told()


async def _replicate(primary: Server, standby: Server) -> None:
    """Commits on `primary` wait for `standby` once it has caught up."""
    await primary.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
    await standby.copy(primary)
    await standby.start()
    await primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")


async def torture(place: Path, say: Callable[[str], None]) -> bool:
    held = True
    for attributes in ("", "&target_session_attrs=read-write"):
        if found := await failover(place, say, attributes=attributes):
            held = False
            say(f"BROKEN: {found}")
    return held
