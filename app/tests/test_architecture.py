"""House rules that no linter knows."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import app
from app import store
from app.settings import Settings

ROOT = Path(app.__file__).parents[1]
SOURCES = [path for path in sorted((ROOT / "app").rglob("*.py")) if "migrations" not in path.parts]
NAMES_THAT_SAY_NOTHING = {"utils", "helpers", "common", "core", "base", "misc", "manager", "service", "deps"}


def store_functions() -> dict[str, inspect.Signature]:
    """Every public coroutine of the store, where it is defined."""
    return {
        f"{module.name}.{name}": inspect.signature(function)
        for module in pkgutil.iter_modules(store.__path__)
        for name, function in inspect.getmembers(
            importlib.import_module(f"app.store.{module.name}"), inspect.iscoroutinefunction
        )
        if not name.startswith("_") and function.__module__ == f"app.store.{module.name}"
    }


OF_NO_USER = {"documents.find", "documents.mark", "uses.remove", "placing.place", "showing.messages"}
"""Documents and texts belong to a tenant; and rows that are shown or removed were found under the user's guard."""

OF_NO_TENANT = {"backfill.batch", "jobs.is_due", "jobs.save", "jobs.take", "sweep.batch", "showing.retrieved"}
"""Work on the tables of all tenants, of which no request sees anything; and what was read by a guarded statement."""


@pytest.mark.parametrize("name", sorted(store_functions().keys() - OF_NO_TENANT))
def test_no_statement_of_the_store_reaches_across_tenants(name: str) -> None:
    first = ["conn", "tenant_id"] if name in OF_NO_USER else ["conn", "tenant_id", "user"]
    assert list(store_functions()[name].parameters)[: len(first)] == first


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_stays_small_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", [path for path in SOURCES if "tests" not in path.parts], ids=lambda path: path.stem)
def test_a_module_has_a_name_that_says_something(path: Path) -> None:
    assert path.stem not in NAMES_THAT_SAY_NOTHING


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text())
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno
        and node.end_lineno - node.lineno + 1 > 45
    ]
    assert long == []


@pytest.mark.parametrize("setting", sorted(name.upper() for name in Settings.model_fields))
@pytest.mark.parametrize("page", [".env.example", "docs/configuration.md"])
def test_every_setting_is_documented(setting: str, page: str) -> None:
    assert setting in (ROOT / page).read_text()


def test_the_settings_fit_on_a_page() -> None:
    assert len((ROOT / "app/settings.py").read_text().splitlines()) <= 150


def test_the_example_file_holds_no_unknown_setting() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = {line.lstrip("# ").partition("=")[0] for line in lines if "=" in line}
    assert names == {name.upper() for name in Settings.model_fields}
