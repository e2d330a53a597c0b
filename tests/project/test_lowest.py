"""The lower bounds that pyproject.toml states are the ones that `make test-lowest` installs."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest

from tests.conftest import REPOSITORY


def bounds() -> dict[str, str]:
    """package → the lowest version that pyproject.toml allows."""
    with (REPOSITORY / "pyproject.toml").open("rb") as f:
        stated = tomllib.load(f)["project"]["dependencies"]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in stated)  # type: ignore[union-attr,misc]


def pins() -> dict[str, str]:
    """package → the version in constraints-lowest.txt."""
    lines = (REPOSITORY / "constraints-lowest.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))  # type: ignore[misc]


def padded(text: str) -> list[int]:
    return [int(part) for part in (*text.split("."), "0", "0")][:3]


@pytest.mark.parametrize("package", bounds())
def test_the_lowest_version_is_the_one_that_is_tested(package: str) -> None:
    assert padded(pins()[package]) == padded(bounds()[package])


@pytest.mark.parametrize("package", bounds())
def test_no_older_version_is_installed(package: str) -> None:
    assert padded(version(package)) >= padded(bounds()[package])
