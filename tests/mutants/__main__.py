"""The command `python -m tests.mutants [NAME...]`: exit status 0 only if every mutant is killed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import (
    ALL_PASSED,
    ROOT,
    TIMEOUT_SECONDS,
    Fate,
    Mutant,
    Verdict,
    copy_project,
    judge,
    read_mutants,
    run_tests,
)

AT_ONCE = 2


def main(arguments: list[str] | None = None) -> int:
    """Judge the mutants named, or all, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these mutants, or whose name starts so"
    )
    parser.add_argument(
        "--share", default="1/1", metavar="K/N", help="only every Nth of them, the Kth and those that follow"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and judge none")
    options = parser.parse_args(arguments)
    names = tuple(options.names) or ("",)
    mutants = [mutant for mutant in read_mutants() if mutant.name.startswith(names)]
    if not mutants:
        parser.error("no mutant has such a name")
    first, step = (int(number) for number in options.share.split("/"))
    mutants = mutants[first - 1 :: step]
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name}  (promise {mutant.promise}, {mutant.file}): {mutant.takes_out}")
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        if not is_green(mutants, Path(scratch)):
            return 1
        verdicts = judge_all(mutants, Path(scratch))
    killed = sum(verdict.fate is Fate.KILLED for verdict in verdicts)
    print(f"{killed} of {len(verdicts)} mutants killed in {time.monotonic() - started:.0f} s")
    for verdict in verdicts:
        if verdict.fate is not Fate.KILLED:
            print(f"  {verdict.fate.value} {verdict.mutant.name}: {verdict.why}")
    return 0 if killed == len(verdicts) else 1


def is_green(mutants: list[Mutant], scratch: Path) -> bool:
    """See that the tests pass without a mutant: else they would notice anything."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    copy = copy_project(ROOT, scratch / "unchanged")
    ran = run_tests(copy, ["-n", str(AT_ONCE), *tests], timeout_seconds=TIMEOUT_SECONDS * AT_ONCE)
    if ran.returncode == ALL_PASSED:
        return True
    print(ran.stdout)
    print("The tests are not green without a mutant.")
    return False


def judge_all(mutants: list[Mutant], scratch: Path) -> list[Verdict]:
    """Judge mutants, a few at once, and print a line as each is judged."""

    def judge_one(mutant: Mutant) -> Verdict:
        verdict = judge(mutant, ROOT, scratch / mutant.name)
        print(
            f"{verdict.fate.value:<8}  {mutant.promise:>2}  {mutant.name:<{width}}  {verdict.why}", flush=True
        )
        return verdict

    width = max(len(mutant.name) for mutant in mutants)
    print(f"{'fate':<8}  of  {'mutant':<{width}}  by")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(judge_one, mutants))


if __name__ == "__main__":
    sys.exit(main())
