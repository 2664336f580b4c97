"""Mutants: small changes, each of which takes out the code that keeps a promise, and the tests that must notice.

A mutant names text that stands exactly once in a file, and what to put in its place. So it does not rot as a
patch does: code around it may move, and if its own text changes, it is *stale* and fails.

One TOML file for each promise (or room), with one table for each mutant:

    [[mutant]]
    name = "deleted-cookie-keeps-its-value"      # unique among all mutants
    promise = 2                                   # the number in docs/concepts.md
    takes_out = "The deletion empties the cookie."
    file = "msal_logout_middleware/http.py"
    find = '''{self.name}=""; '''
    replace = '''{self.name}; '''
    tests = ["tests/test_http.py::test_deleted_cookie_is_empty_and_long_expired"]

`python -m tests.mutants [NAME...]` copies the project, sees that the tests named are green there, and then, for
each mutant in a copy of its own, that at least one of them goes red.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "msal_logout_middleware"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "site")
TIMEOUT_SECONDS = 120.0

# The exit status of pytest: https://docs.pytest.org/en/stable/reference/exit-codes.html
ALL_PASSED, SOME_FAILED = 0, 1


class StaleMutant(Exception):
    """A mutant's text does not stand exactly once in its file, so it takes out nothing, or who knows what."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change, and the tests that must notice it.

    Args:
        name: Unique among all mutants.
        promise: The number of the promise whose code it takes out.
        takes_out: What the code that it takes out does, in one sentence.
        file: Where, from the root of the project.
        find: Stands exactly once in the file.
        replace: Is put in its place.
        tests: pytest's ids of the tests of which at least one must fail.
    """

    name: str
    promise: int
    takes_out: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]

    def mutated(self, root: Path) -> str:
        """Return the text of the file with the change made.

        Raises:
            StaleMutant: The text to find does not stand there exactly once, or the change is none.
        """
        path = root / self.file
        text = path.read_text() if path.is_file() else ""
        found = text.count(self.find)
        if found != 1 or self.find == self.replace:
            raise StaleMutant(f"{self.name}: its text stands {found} times in {self.file}, not once")
        return text.replace(self.find, self.replace)


class Fate(Enum):
    """What became of a mutant. All but the first make the run fail."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"  # no test noticed
    STALE = "STALE"  # its text is not there any more
    BROKEN = "BROKEN"  # its tests could not run at all, so they did not notice it for what it is


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant, and the words for it."""

    mutant: Mutant
    fate: Fate
    why: str


def read_mutants(folder: Path = Path(__file__).parent) -> list[Mutant]:
    """Return the mutants of every TOML file in a folder.

    Raises:
        ValueError: Two mutants have the same name.
        TypeError: A mutant has a field too many or too few.
    """
    mutants = [
        Mutant(**{**table, "tests": tuple(table.get("tests", ()))})
        for path in sorted(folder.glob("*.toml"))
        for table in tomllib.loads(path.read_text())["mutant"]
    ]
    names = [mutant.name for mutant in mutants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two mutants have the same name: {', '.join(sorted(twice))}")
    return mutants


def copy_project(root: Path, to: Path) -> Path:
    """Copy what the tests need: the working tree without hidden folders and without what was built."""
    return shutil.copytree(root, to, ignore=NOT_COPIED)


def run_tests(
    root: Path, tests: Iterable[str], *, timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy of the project, and see to it that the copy is what they import.

    Raises:
        subprocess.TimeoutExpired: They did not end in time.
    """
    own = ("COVERAGE_", "PYTEST_")  # of the run that we may be part of
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(own)},
        "PYTHONPATH": str(root),  # comes before what is installed, the editable install included
        "PYTHONDONTWRITEBYTECODE": "1",  # a mutant may have the size and the second of the original
        "REQUIRE_ALL": "1",  # a test that was skipped noticed nothing
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "",
        "-x",
        "-q",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        *("-p", "no:faker"),  # which comes with Litestar, is used by nobody, and takes long to load
        *tests,
    ]
    return subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def judge(mutant: Mutant, root: Path, copy: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Verdict:
    """Change a copy of the project as the mutant says, and see whether its tests notice."""
    copy_project(root, copy)
    try:
        text = mutant.mutated(copy)
    except StaleMutant as error:
        return Verdict(mutant, Fate.STALE, str(error))
    (copy / mutant.file).write_text(text)
    try:
        ran = run_tests(copy, mutant.tests, timeout_seconds=timeout_seconds)
    except subprocess.TimeoutExpired:
        return Verdict(mutant, Fate.KILLED, f"did not end within {timeout_seconds:.0f} s")
    if ran.returncode == SOME_FAILED:
        return Verdict(mutant, Fate.KILLED, next(failures(ran.stdout), "a test failed"))
    if ran.returncode == ALL_PASSED:
        return Verdict(mutant, Fate.SURVIVED, f"no test noticed: {mutant.takes_out}")
    return Verdict(mutant, Fate.BROKEN, last_line(ran.stdout))


def failures(output: str) -> Iterator[str]:
    """The tests that pytest's summary says failed, without the path."""
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")) and "::" in line:  # what is logged begins with ERROR, too
            yield line.split(" - ")[0].rpartition("::")[2]


def last_line(output: str) -> str:
    """The last words of a run."""
    return next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
