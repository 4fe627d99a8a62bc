"""The databases of a run, and what is in them before the first request is measured."""

import asyncio
from pathlib import Path

import fill
import stores
from evidence_subjects import ROLE, migrate, url
from evidence_variants import TABLES, TUNED
from postgres import Postgres
from progress import say
from scale import Scale
from workloads import of_length


def make_service(postgres: Postgres, home: Path) -> None:
    """The service's own, empty."""
    postgres.sql("postgres", f"CREATE ROLE {ROLE} SUPERUSER LOGIN", "CREATE DATABASE service_ TEMPLATE template0")
    migrate(home, "service_")


def make_all(postgres: Postgres, home: Path, scale: Scale) -> None:
    """Every database, and what is made in it by SQL."""
    say("making the databases")
    make_service(postgres, home)
    postgres.sql("postgres", "CREATE DATABASE plain_ TEMPLATE service_", "CREATE DATABASE orm_ TEMPLATE template0")
    postgres.sql("plain_", TABLES[TUNED])
    for messages in scale.stores:
        say(f"filling a store of {messages:,} messages")
        stores.make_store(postgres, messages)
    for length in scale.lengths:
        stores.fill(postgres, "service_", of_length(length), length)


def fill_service(postgres: Postgres, service_url: str) -> None:
    say("filling the service")
    fill.over_http(service_url)
    postgres.sql("service_", "VACUUM ANALYZE")


def fill_rivals(home: Path) -> None:
    say("filling its rivals")
    asyncio.run(fill.plain(url(home, "plain_")))
    asyncio.run(fill.orm(url(home, "orm_")))
