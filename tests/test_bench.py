"""All benches together: what their exit status says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import __main__ as bench
from bench.measuring import BROKE_A_BOUND


@pytest.mark.parametrize(
    ("arguments", "statuses", "ends_with"),
    [
        ([], {}, 0),
        ([], {"many_users": BROKE_A_BOUND}, 1),
        (["--quick"], {"many_users": BROKE_A_BOUND}, 0),
        (["--quick"], {"pass_through": BROKE_A_BOUND}, 1),
        ([], {"many_users": 1}, 2),
        (["--quick"], {"many_users": 1}, 2),
        (["--quick"], {"shared_cache": 2, "many_users": BROKE_A_BOUND}, 2),
        (["--quick"], {"known_session": -9}, 2),
    ],
)
def test_short_benches_judge_what_is_counted_and_never_pass_over_a_crash(
    monkeypatch, arguments, statuses, ends_with
):
    def run(command, **_):
        name = command[2].removeprefix("bench.")
        return subprocess.CompletedProcess(command, statuses.get(name, 0))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    monkeypatch.setattr(bench, "COUNTS_INSTRUCTIONS", {"pass_through"})
    assert bench.main() == ends_with


def test_bench_that_raises_is_no_broken_bound():
    ran = subprocess.run([sys.executable, "-c", "raise LookupError"], stderr=subprocess.DEVNULL, check=False)
    assert ran.returncode not in (0, BROKE_A_BOUND)
