"""Builds the sdist and the wheel, and tries the wheel in an environment of its own.

1. The metadata is valid, and the archives hold what they should and nothing else.
2. Installed without extras, whatever needs none is imported, with warnings as errors; `pip check` agrees;
   pytest, which loads our plugin wherever we are installed, starts.
3. With the extras, everything is imported.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
PACKAGE = "msal_logout_middleware"
MAY_NEED_AN_EXTRA = (
    f"{PACKAGE}.django",
    f"{PACKAGE}.sessions.",
    f"{PACKAGE}.stores.sqlalchemy",
    f"{PACKAGE}.testing",
)
EXTRAS = "cachelib,django,flask,litestar,pyramid,quart,redis,sql,starlette,testing"

# All are errors but those of what Pyramid imports.
WARNINGS = (
    *("-W", "error"),
    *("-W", "ignore:'cgi' is deprecated:DeprecationWarning"),
    *("-W", "ignore:pkg_resources is deprecated:UserWarning"),
    *("-W", "ignore:Deprecated call:DeprecationWarning"),
)

IMPORT_ALL = f"""
import importlib, pkgutil, sys
import {PACKAGE} as package

names = [module.name for module in pkgutil.walk_packages(package.__path__, "{PACKAGE}.", onerror=lambda name: None)]
missing = {{}}
for name in names:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if sys.argv[1] == "all" or not name.startswith({MAY_NEED_AN_EXTRA!r}):
            raise
        missing[name] = error.name
print(f"{{len(names) - len(missing)}} of {{len(names)}} modules imported")
for name, extra in missing.items():
    print(f"  {{name}} needs {{extra}}")
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command; end this program if it fails."""
    subprocess.run([*map(str, command)], cwd=cwd, check=True, stdin=subprocess.DEVNULL)


def check_metadata(wheel: Path) -> None:
    """Parse the metadata as a package index does, and see that it says what it must."""
    with zipfile.ZipFile(wheel) as archive:
        text = next(archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.description, "no description: README.md is missing"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.license_expression == "MIT"
    print(f"{metadata.name} {metadata.version}: the metadata is valid")


def check_contents(wheel: Path, sdist: Path) -> None:
    """See that the archives hold what they should."""
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    tops = {name.partition("/")[0] for name in in_wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {PACKAGE}, tops
    assert f"{PACKAGE}/py.typed" in in_wheel
    assert not [name for name in in_wheel if "__pycache__" in name]
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "SECURITY.md",
        "tests/conftest.py",
        "mkdocs.yml",
        "noxfile.py",
        ".ci/run",
    }
    assert wanted <= in_sdist, wanted - in_sdist


def try_wheel(wheel: Path, scratch: Path) -> None:
    """Install the wheel without and with extras, and import what is in it."""
    environment = scratch / "clean"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    for what, requirement in (("plain", str(wheel)), ("all", f"{wheel}[{EXTRAS}]")):
        run(python, "-m", "pip", "install", "--quiet", requirement, cwd=scratch)
        run(python, "-m", "pip", "check", cwd=scratch)
        run(python, *WARNINGS, "-c", IMPORT_ALL, what, cwd=scratch)
        run(python, "-m", "pip", "install", "--quiet", "pytest", cwd=scratch)
        run(python, "-W", "error", "-m", "pytest", "--version", cwd=scratch)


def main() -> None:
    """Do all of it."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", scratch, ROOT, cwd=ROOT)
        wheel, sdist = next(scratch.glob("*.whl")), next(scratch.glob("*.tar.gz"))
        check_metadata(wheel)
        check_contents(wheel, sdist)
        try_wheel(wheel, scratch)


if __name__ == "__main__":
    main()
