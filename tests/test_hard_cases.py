"""The page of hard cases says what is: each test on it exists, and each mutant that it names is for just that test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.mutants import ROOT, read_mutants

PAGE = (ROOT / "docs" / "hard_cases.md").read_text()
CASE = re.compile(r"^(\d+)\. \*\*.+?\*\* .+$", re.MULTILINE)
PROOF = re.compile(r"^    - `(tests/\S+)`: (`[a-z0-9-]+`(?:, `[a-z0-9-]+`)*)$")
NOTICED_BY = {mutant.name: {test.partition("[")[0] for test in mutant.tests} for mutant in read_mutants()}


def cases() -> dict[int, list[str]]:
    """The lines below each case, by its number."""
    parts = CASE.split(PAGE)
    return {
        int(number): lines.strip("\n").splitlines()
        for number, lines in zip(parts[1::2], parts[2::2], strict=True)
    }


def proofs() -> Iterator[tuple[str, list[str]]]:
    """Each test of the page, with its mutants."""
    for line in (line for lines in cases().values() for line in lines):
        found = PROOF.match(line)
        assert found, f"neither a case nor a test with its mutants: {line}"
        yield found[1], re.findall("`(.+?)`", found[2])


def defined(test: str) -> bool:
    """Whether a test that pytest would collect stands where its id says."""
    path, *names = test.split("::")
    body = ast.parse((ROOT / path).read_text()).body if (ROOT / path).is_file() else []
    for name in names:
        found = [one for one in body if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name]
        if not found:
            return False
        body = found[0].body
    return names[-1].startswith("test_")


def test_every_case_has_its_tests() -> None:
    assert list(cases()) == list(range(1, 15))
    assert all(cases().values())


@pytest.mark.parametrize(("test", "mutants"), list(proofs()))
def test_test_exists_and_its_mutants_are_for_just_that_test(test: str, mutants: list[str]) -> None:
    assert defined(test), f"there is no {test}"
    assert mutants
    for mutant in mutants:
        assert mutant in NOTICED_BY, f"there is no mutant {mutant}"
        assert test in NOTICED_BY[mutant], f"{mutant} is not for {test}"


def test_name_that_is_no_test_is_noticed() -> None:
    here = "tests/test_hard_cases.py"
    assert defined(f"{here}::test_every_case_has_its_tests")
    assert not defined(f"{here}::test_gone")
    assert not defined(f"{here}::defined")
    assert not defined("tests/test_gone.py::test_gone")
