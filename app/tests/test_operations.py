"""The pages for whoever runs the service say what is true: commands, settings, codes, metrics and links exist."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from app import cli, errors
from app.settings import Settings
from app.telemetry import metrics
from app.tests.process import ROOT

OPERATIONS = ROOT / "docs/operations"
PAGES = sorted(OPERATIONS.glob("*.md"))
EVERY_PAGE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNBOOK = (OPERATIONS / "runbook.md").read_text()

COMPOSE = {"BIND_ADDRESS", "APP_PORT", "PGADMIN_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"}
NO_SETTING = re.compile(r"[A-Z]{1,7}|PROMETHEUS_MULTIPROC_DIR")


def problems(kind: type[errors.Problem] = errors.Problem) -> Iterator[type[errors.Problem]]:
    for problem in kind.__subclasses__():
        yield problem
        yield from problems(problem)


def test_every_5xx_code_is_explained() -> None:
    codes = {
        problem.code
        for problem in problems()
        if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR and "code" in vars(problem)
    }
    assert {"internal_error", "disk_full"} < codes
    assert {code for code in codes if f"`{code}`" not in RUNBOOK} == set()


def test_every_metric_is_explained_and_none_that_is_not_there() -> None:
    scrape, _ = metrics.render(ready=True)
    ours = set(re.findall(r"^# HELP ((?:http|db|messages|rag)_\w+(?<!_created)) ", scrape.decode(), re.MULTILINE))
    explained = set(re.findall(r"^\| `((?:http|db|messages|rag)_\w+)`", RUNBOOK, re.MULTILINE))
    assert len(ours) > 5
    assert ours == explained


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_settings_exist(page: Path) -> None:
    text = page.read_text()
    commands = re.findall(r"\w+", cli.parser().format_usage().partition("{")[2])
    assert set(re.findall(r"python -m app (\w+)", text)) <= set(commands)
    settings = {name.upper() for name in Settings.model_fields} | COMPOSE
    named = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", text))
    assert {name for name in named - settings if not NO_SETTING.fullmatch(name)} == set()


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
