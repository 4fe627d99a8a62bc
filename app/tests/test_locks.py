"""The lock files install with any pip that an ordinary Python brings, also once newer releases are out."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def locked(name: str) -> dict[str, Requirement]:
    lines = re.findall(r"^([^\s#]+==[^\\\n]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def asked(lock: dict[str, Requirement]) -> Iterator[tuple[str, Requirement]]:
    """What the project and each locked package ask for, with who asks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from (("pyproject.toml", Requirement(line)) for line in project["dependencies"])
    for package in lock.values():
        try:
            lines = metadata.requires(package.name) or []
        except metadata.PackageNotFoundError:  # of another platform, or a development tool
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if not marker or any(marker.evaluate({"extra": extra}) for extra in ("", *package.extras)):
                yield package.name, requirement


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-prod.txt"])
def test_the_extras_that_are_asked_for_are_locked_by_name(name: str) -> None:
    """To pip before 23.3 `coverage==7.1` is no pin of `coverage[toml]`: it looks for a newer one, and gives up."""
    lock = locked(name)
    assert len(lock) > 20
    wanted = [(who, one) for who, one in asked(lock) if one.extras]
    assert wanted
    assert [(who, str(one)) for who, one in wanted if not one.extras <= lock[canonicalize_name(one.name)].extras] == []
