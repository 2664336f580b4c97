"""Prints the lower bounds of pyproject.toml as pip's constraints, so that they are what is tested.

python .ci/lowest.py > constraints.txt
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
GROUPS = ("test",)  # linters and what builds the documentation are not what users install
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<version>[\w.]+)(,.*)?")


def requirements() -> Iterator[str]:
    """Yield what the package and its tests require."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    yield from pyproject["project"]["dependencies"]
    for extra in pyproject["project"]["optional-dependencies"].values():
        yield from extra
    for group in GROUPS:
        yield from pyproject["dependency-groups"][group]


def constraints() -> dict[str, str]:
    """Return the lower bound of each package; it must be the same wherever the package is named."""
    lowest: dict[str, str] = {}
    for requirement in requirements():
        found = REQUIREMENT.fullmatch(requirement)
        if not found:
            raise SystemExit(f"no lower bound: {requirement}")
        if lowest.setdefault(found["name"], found["version"]) != found["version"]:
            raise SystemExit(f"two lower bounds: {found['name']}")
    return lowest


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in sorted(constraints().items())))
