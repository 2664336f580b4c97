"""The runner of mutants, on a project of two files; and that the mutants of this project are not stale."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants import PACKAGE, ROOT, Fate, Mutant, StaleMutant, Verdict, judge, read_mutants, run_tests
from tests.mutants.__main__ import main

MUTANTS = read_mutants()
TESTING = ROOT / PACKAGE / "testing"
CONTRACTS = [*TESTING.glob("*_contract.py"), *TESTING.glob("*_contract/*.py")]  # whose tests others inherit
THING = "def double(number):\n    return number + number\n\n\ndef same(number):\n    return number\n"
TESTS = """
import threading, pytest
from thing import double

def test_double_of_two(): assert double(2) == 4
def test_double_of_three(): assert double(3) == 6
def test_double_comes_to_an_end():
    if double(2) != 4:
        threading.Event().wait()
@pytest.mark.skip
def test_skipped(): assert double(3) == 6
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "thing.py").write_text(THING)
    (root / "test_thing.py").write_text(TESTS)
    return root


def mutant(find: str, replace: str, *tests: str) -> Mutant:
    ids = tuple(f"test_thing.py::{test}" for test in tests)
    return Mutant("mutant", 1, "A number is doubled.", "thing.py", find, replace, ids)


def fate(project: Path, mutant: Mutant, *, timeout_seconds: float = 120) -> Verdict:
    return judge(mutant, project, project.parent / "copy", timeout_seconds=timeout_seconds)


def test_mutant_that_a_test_notices_is_killed_and_the_test_is_named(project: Path) -> None:
    squared = mutant("number + number", "number * number", "test_double_of_two", "test_double_of_three")
    verdict = fate(project, squared)
    assert (verdict.fate, verdict.why) == (Fate.KILLED, "test_double_of_three")


def test_mutant_that_no_named_test_notices_survives(project: Path) -> None:
    squared = mutant("number + number", "number * number", "test_double_of_two")
    assert fate(project, squared).fate is Fate.SURVIVED


def test_mutant_whose_tests_are_skipped_survives(project: Path) -> None:
    assert fate(project, mutant("number + number", "0", "test_skipped")).fate is Fate.SURVIVED


def test_mutant_that_makes_its_tests_hang_is_killed(project: Path) -> None:
    hangs = mutant("number + number", "0", "test_double_comes_to_an_end")
    verdict = fate(project, hangs, timeout_seconds=3)
    assert (verdict.fate, verdict.why) == (Fate.KILLED, "did not end within 3 s")


@pytest.mark.parametrize(
    ("find", "replace"),
    [("gone", "anything"), ("return number", "return 0"), ("number + number", "number + number")],
    ids=["absent", "twice", "no change"],
)
def test_mutant_whose_text_does_not_stand_exactly_once_is_stale(
    project: Path, find: str, replace: str
) -> None:
    assert fate(project, mutant(find, replace, "test_double_of_two")).fate is Fate.STALE


def test_mutant_of_a_file_that_is_gone_is_stale(project: Path) -> None:
    (project / "thing.py").unlink()
    with pytest.raises(StaleMutant):
        mutant("number + number", "0").mutated(project)


@pytest.mark.parametrize(
    ("replace", "test"),
    [("0", "test_gone"), ("number +", "test_double_of_two")],
    ids=["test is gone", "no Python"],
)
def test_mutant_whose_tests_cannot_run_is_broken_not_killed(project: Path, replace: str, test: str) -> None:
    assert fate(project, mutant("number + number", replace, test)).fate is Fate.BROKEN


def test_project_itself_is_left_as_it_was(project: Path) -> None:
    fate(project, mutant("number + number", "0", "test_double_of_two"))
    assert (project / "thing.py").read_text() == THING


def test_tests_import_the_copy_and_not_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "msal_logout_middleware").mkdir()
    (tmp_path / "msal_logout_middleware" / "__init__.py").write_text("copied = True")
    (tmp_path / "test_copy.py").write_text(
        "import msal_logout_middleware as m\ndef test_copied(): assert m.copied"
    )
    # Our own pytest plugin, which is imported first of all, is not in this copy.
    ran = run_tests(tmp_path, ["-p", "no:msal_logout_middleware", "test_copy.py"], timeout_seconds=120)
    assert ran.returncode == 0, ran.stdout


def test_two_mutants_of_one_name_are_refused(tmp_path: Path) -> None:
    text = """
[[mutant]]
name = "same"
promise = 1
takes_out = ""
file = ""
find = ""
replace = ""
tests = []
"""
    (tmp_path / "some.toml").write_text(text)
    (tmp_path / "more.toml").write_text(text)
    with pytest.raises(ValueError, match="same"):
        read_mutants(tmp_path)


def test_mutants_are_listed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", MUTANTS[0].name]) == 0
    assert capsys.readouterr().out.startswith(MUTANTS[0].name)


def test_name_of_no_mutant_is_an_error() -> None:
    with pytest.raises(SystemExit):
        main(["no-such-mutant"])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_not_stale_and_names_tests_that_exist(mutant: Mutant) -> None:
    ast.parse(mutant.mutated(ROOT))
    assert mutant.promise in range(1, 11)
    assert mutant.tests
    for test in mutant.tests:
        path, *names = test.partition("[")[0].split("::")
        text = "".join(file.read_text() for file in (ROOT / path, *CONTRACTS)) if names else ""
        assert (ROOT / path).exists(), test
        assert all(f"def {name}(" in text or f"class {name}" in text for name in names), test
