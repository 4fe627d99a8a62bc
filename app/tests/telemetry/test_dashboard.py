"""The dashboard and the alerts ask for what a scrape has, and Prometheus understands them."""

import asyncio
import json
import re
import shutil
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from ruamel.yaml import YAML

from app.db import dsn
from app.tests.conftest import NewDatabase
from app.tests.harness import DEADLINE, Chat
from app.tests.process import ROOT, UVICORN, Running, free_port, run
from app.tests.telemetry.test_metrics import parsed

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/rag-chat-storage.json").read_text())
ALERTS: dict[str, Any] = YAML(typ="safe").load(ROOT / "deploy/prometheus/alerts.yml")
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
CONDITIONS = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]

FROM_PROMETHEUS = {"job", "instance"}
SELECTOR = re.compile(r"([a-z_]+)\{([^}]*)\}")


@pytest.fixture(scope="module")
async def served(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Two workers that have answered well and badly."""
    place = tmp_path_factory.mktemp("served")
    url = await new_database()
    async with run(*UVICORN, "--workers=2", cwd=place, DATABASE_URL=url, TMPDIR=str(place)) as server:
        await server.ready()
        yield server


async def some_traffic(client: Chat) -> None:
    await client.append(await client.create())
    assert (await client.get("/no/such/path")).status_code == 404


async def an_outage(server_url: str, url: str, client: Chat) -> None:
    """One request that is answered with 503."""
    name = urlsplit(url).path.lstrip("/")
    conn = await asyncpg.connect(**dsn.parse(server_url).arguments)
    await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    assert (await client.get("/chat/sessions")).status_code == 503
    await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await conn.close()


@pytest.mark.parametrize("query", QUERIES + CONDITIONS)
async def test_a_query_asks_for_metrics_and_labels_that_a_scrape_has(query: str, served: Running) -> None:
    async with served.client() as client:
        await some_traffic(client)
        labels: dict[str, set[str]] = {"up": set()}
        for name, has in parsed((await client.get("/metrics")).text):
            labels.setdefault(name, set()).update(dict(has))
    found = SELECTOR.findall(query)
    assert found, query
    asked = set()
    for name, matchers in found:
        assert name in labels, name
        wanted = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers))
        assert wanted <= labels[name] | FROM_PROMETHEUS, (name, wanted)
        asked |= labels[name]
    for names in re.findall(r"\bby \(([^)]*)\)", query):
        assert set(names.split(", ")) <= asked | FROM_PROMETHEUS, names
    assert ("rate(" in query or "increase(" in query) == bool(re.search(r"_(total|bucket)\{", query))


def test_every_panel_takes_its_data_source_from_the_variable() -> None:
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    for panel in DASHBOARD["panels"]:
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_takes_configuration_and_alerts() -> None:
    for command in (["config", "deploy/prometheus/prometheus.yml"], ["rules", "deploy/prometheus/alerts.yml"]):
        result = subprocess.run(["promtool", "check", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


@asynccontextmanager
async def prometheus(place: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """A Prometheus that scrapes `target` every second with the rules of this project."""
    config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    config = config.replace("localhost:8000", target).replace("scrape_interval: 15s", "scrape_interval: 1s")
    config = config.replace("[alerts.yml]", f"[{ROOT / 'deploy/prometheus/alerts.yml'}]")
    (place / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    options = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}")
    process = await asyncio.create_subprocess_exec("prometheus", *options, cwd=place, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}/api/v1", trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def answers(prometheus: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    """The samples that `query` finds now; none while Prometheus starts."""
    expression = query.replace("$__rate_interval", "30s").replace("$job", ".+")
    try:
        response = await prometheus.get("/query", params={"query": expression})
    except httpx.ConnectError:
        return []
    if response.status_code == 503:
        return []
    assert response.status_code == 200, response.text
    return list(response.json()["data"]["result"])


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
async def test_a_real_prometheus_answers_every_query_of_the_dashboard(
    new_database: NewDatabase, server_url: str, tmp_path: Path
) -> None:
    url = await new_database()
    async with run(*UVICORN, "--workers=2", cwd=tmp_path, DATABASE_URL=url, TMPDIR=str(tmp_path)) as server:
        await server.until("Application startup complete", times=2)  # an outage would end a start
        target = server.url.removeprefix("http://")
        async with prometheus(tmp_path, target) as asked, server.client() as client, asyncio.timeout(DEADLINE):
            await some_traffic(client)
            await an_outage(server_url, url, client)
            left = list(QUERIES)
            while left:
                await some_traffic(client)
                left = [query for query in left if not await answers(asked, query)]
            for condition in CONDITIONS:
                await answers(asked, condition)
            assert [sample["value"][1] for sample in await answers(asked, "rag_chat_storage_workers")] == ["2"]
